"""Evaluation sets, metrics and outcomes."""
