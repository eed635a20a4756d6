"""Tools that stand before training: each is `python -m data_tools.NAME`."""
