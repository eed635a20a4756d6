"""Base models: names, folder formats, vocabularies, random weights."""
