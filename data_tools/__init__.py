"""Data tools: records before training. Each is a word of `zh-embedder`, or `python -m data_tools.NAME`."""
