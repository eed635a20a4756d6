"""The command `python -m zh_embedder.export`."""

import sys

from zh_embedder.export.sentence_transformers import main

if __name__ == "__main__":
    sys.exit(main())
