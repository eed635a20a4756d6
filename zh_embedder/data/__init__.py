"""Records and batches, read from files; no knowledge of models, losses or flags."""
