"""Losses as pure functions of a batch."""
