"""From counts to decisions: reads `variant-stats`, publishes `decisions`."""
