"""The command `python -m zh_embedder.vocabulary`: `zh-embedder vocabulary`."""

import sys
from collections.abc import Sequence

from zh_embedder.cli import call


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return call("vocabulary", argv, program="python -m zh_embedder.vocabulary")


if __name__ == "__main__":
    sys.exit(main())
