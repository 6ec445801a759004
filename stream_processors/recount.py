"""Placeholder of the layout."""
