"""The command `python -m zh_embedder.pretrain`."""

import sys

from zh_embedder.commands.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
