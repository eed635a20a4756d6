"""The command `python -m zh_embedder.export`."""

import sys

from zh_embedder.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
