"""Token ids to representations, and folders of weights."""
