"""Conversion of published data sets."""
