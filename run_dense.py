"""Train a Chinese embedder: `torchrun --nproc_per_node=2 run_dense.py --help`."""

import sys

from zh_embedder.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
