"""Trained models as variants: ratings log → features → models → figures. A batch tool, not a service."""
