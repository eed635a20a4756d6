"""Evaluation sets in, outcomes out."""
