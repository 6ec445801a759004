"""Pages that are one HTML file and need nothing else: their look, and charts that follow it."""
