"""Pretraining on plain text, and untrained bases."""
