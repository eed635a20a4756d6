"""Leak-free splits and their proof."""
