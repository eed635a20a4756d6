"""Models: token ids to representations, and folders of weights."""
