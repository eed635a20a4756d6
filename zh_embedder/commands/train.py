"""`zh-embedder train` and `run_dense.py`: train, or measure where there is nothing to train on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from zh_embedder.core.exits import importing
from zh_embedder.core.runtime import run_ranked

if TYPE_CHECKING:
    from zh_embedder.config.train import Arguments


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
            from zh_embedder.config.train import PROGRAM, parse
            from zh_embedder.training.run import train

        args = parse(argv, program=program or PROGRAM)
        if args.data.train_data:
            train(args)
        else:
            measure(args)

    return run_ranked(work)


def measure(args: Arguments) -> None:
    """Measure --eval_data, as there is nothing to train.

    Raises:
        UserError: a mistake of the user's.
    """
    from zh_embedder.commands.llm_embedder_evaluation import evaluate, places
    from zh_embedder.core.distributed import found_by_first
    from zh_embedder.core.outputs import reserved
    from zh_embedder.training.launch import begin

    begin(args)
    with ExitStack() as held:

        def take() -> None:
            held.enter_context(reserved(places(args)))

        found_by_first(take)
        evaluate(args)
