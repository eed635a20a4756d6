"""The command `python -m zh_embedder.vocabulary`."""

import sys

from zh_embedder.bases.vocabulary import main

if __name__ == "__main__":
    sys.exit(main())
