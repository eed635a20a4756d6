"""Parts that several tools use."""
