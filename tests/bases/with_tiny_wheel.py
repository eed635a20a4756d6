"""`python -m tests.bases.with_tiny_wheel WHEEL CACHE WORDS...`: the command, with the tiny base in its catalogue."""

import os
import sys
from pathlib import Path

from tests.bases.tiny_wheel import row
from zh_embedder.bases.catalogue import BASES
from zh_embedder.cli import main

if __name__ == "__main__":
    base = row(Path(sys.argv[1]))
    BASES[base.name] = base
    os.environ["ZH_EMBEDDER_CACHE"] = sys.argv[2]
    sys.exit(main(sys.argv[3:]))
