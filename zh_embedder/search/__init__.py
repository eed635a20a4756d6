"""Vectors on disk, and finding among them."""
