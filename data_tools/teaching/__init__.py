"""Teacher scores."""
