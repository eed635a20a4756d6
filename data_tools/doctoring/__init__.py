"""Checks and fixes of training records."""
