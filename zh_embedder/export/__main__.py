"""The command `python -m zh_embedder.export`."""

import sys

from zh_embedder.cli import call

if __name__ == "__main__":
    sys.exit(call("export", program="python -m zh_embedder.export"))
