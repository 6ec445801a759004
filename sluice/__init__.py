"""Sluice: a streaming experimentation engine."""
