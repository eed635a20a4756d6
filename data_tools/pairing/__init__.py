"""Training pairs from raw text."""
