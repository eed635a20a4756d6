"""Vectors on disk, and search among them."""
