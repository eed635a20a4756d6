"""Folders for other readers, with proof of parity."""
