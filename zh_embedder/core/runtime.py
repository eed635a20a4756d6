"""Start and end of a command: its flags, logging, one message for a user's mistake, exit codes, the process group."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence

from zh_embedder.core.errors import visible
from zh_embedder.core.exits import exit_code, importing
from zh_embedder.core.options import Parser
from zh_embedder.core.ranks import check_environment, end_with_launcher, first_rank, launched
from zh_embedder.core.spellings import respell

logger = logging.getLogger(__name__)


class AboveBars(logging.Handler):
    """Write messages above the progress bars, not through them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message to the error stream."""
        from zh_embedder.core.progress import write_above

        write_above(visible(self.format(record)))


def start_logging() -> None:
    """Messages of the first rank to the terminal; only warnings of the others."""
    handler = AboveBars()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("zh_embedder", "data_tools"):
        ours = logging.getLogger(name)
        ours.handlers, ours.propagate = [handler], False
        ours.setLevel(logging.INFO if first_rank() else logging.ERROR)


def parse_command(
    command: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Read the command line of a command and start logging, with a line for each flag that has another name here.

    Args:
        command: its word, whose other spellings are accepted.
        parser: of its flags.
        argv: the words after it; those of the process by default.
    """
    words, notes = respell(command, sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)
    if isinstance(parser, Parser):
        notes += parser.repeated(words)
    start_logging()
    for note in notes:
        logger.info("%s", note)
    return args


def run_ranked(work: Callable[[], object]) -> int:
    """Do the work of a training command, perhaps as one of many ranks; returns the exit code, as `main` does."""
    end_with_launcher()
    start_logging()

    def ranked() -> None:
        check_environment()
        # Tokenizers that were used before a loader's worker forks would only warn; the workers are the parallelism.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        quiet_deepspeed()
        work()

    try:
        hint = ": --resume_from_checkpoint True continues from the last checkpoint, if there is one"
        return exit_code(ranked, hint=hint, shown=first_rank(), answers=not launched())
    finally:
        leave_group()


def leave_group() -> None:
    """Leave the process group, where one was started, so that its threads end before the interpreter does.

    A gloo thread that still lets go of a tensor while the interpreter ends aborts the process. The group joins its
    threads when the last reference goes, and DDP's hides in the trainer's reference cycles.
    """
    if "torch.distributed" not in sys.modules:  # an import that was interrupted must not be begun anew
        return
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()
        gc.collect()


def quiet_deepspeed() -> None:
    """Tell DeepSpeed, which accelerate imports where it is installed, about the CPU; else it warns in every process."""
    with importing():
        import torch

    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
