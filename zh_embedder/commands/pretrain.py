"""`zh-embedder pretrain`: pretrain on plain text."""

from __future__ import annotations

from collections.abc import Sequence

from zh_embedder.core.exits import importing
from zh_embedder.core.runtime import run_ranked


def main(argv: Sequence[str] | None = None, *, program: str | None = None) -> int:
    """Run from a command line.

    Args:
        argv: its words; those of the process by default.
        program: what was typed in front of them, for the help.

    Returns:
        The exit code: 2 for a user's mistake, reported without a traceback.
    """

    def work() -> None:
        with importing():
            from zh_embedder.pretraining.arguments import PROGRAM, parse
            from zh_embedder.pretraining.run import pretrain

        pretrain(parse(argv, program=program or PROGRAM))

    return run_ranked(work)
