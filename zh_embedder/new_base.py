"""The command `python -m zh_embedder.new_base`."""

import sys

from zh_embedder.pretraining.static_base import main

if __name__ == "__main__":
    sys.exit(main())
