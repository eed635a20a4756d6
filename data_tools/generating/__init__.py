"""Queries for documents, written by a language model."""
