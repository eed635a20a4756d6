"""The command `python -m zh_embedder.new_base`: `zh-embedder new-base`."""

import sys
from collections.abc import Sequence

from zh_embedder.cli import call


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return call("new-base", argv, program="python -m zh_embedder.new_base")


if __name__ == "__main__":
    sys.exit(main())
