"""Pretraining on plain text, and bases made from nothing."""
