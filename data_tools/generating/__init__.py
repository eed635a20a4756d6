"""Documents to queries."""
