"""Pictures: overlays, montages, plots, the report."""
