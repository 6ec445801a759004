"""Servers for Sluice to run on: started here for demos, laptops and tests, or only checked when others run them."""
