"""Train Chinese text embedders for many retrieval tasks at once."""

__version__ = "0.1.0"
