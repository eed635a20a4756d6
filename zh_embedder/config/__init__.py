"""Every flag with its default, and the instruction files."""
