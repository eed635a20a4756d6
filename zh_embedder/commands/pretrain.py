"""`zh-embedder pretrain`: pretrain on plain text."""

from __future__ import annotations

from collections.abc import Sequence

from zh_embedder.core.runtime import run_ranked


def main(argv: Sequence[str] | None = None) -> int:
    """Run from a command line. Returns the exit code: 2 for a user's mistake, reported without a traceback."""

    def work() -> None:
        from zh_embedder.pretraining.arguments import parse
        from zh_embedder.pretraining.run import pretrain

        pretrain(parse(argv))

    return run_ranked(work)
