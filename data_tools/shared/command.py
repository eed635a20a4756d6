"""How every tool is called: `python -m data_tools.NAME`, `--help` with an example, one message for a user's mistake."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from zh_embedder.core.errors import exit_code
from zh_embedder.core.options import HelpFormatter

Work = Callable[[argparse.Namespace], int | None]
WORDS = {"mine_negatives": "mine", "score_teacher": "score", "generate_queries": "generate", "make_pairs": "pairs"}


def make_parser(name: str, doc: str | None, example: str) -> argparse.ArgumentParser:
    """Start the parser of a tool.

    Args:
        name: of the tool.
        doc: its module's docstring, which `--help` shows.
        example: a command that people can type, behind `python -m data_tools.NAME`.
    """
    return argparse.ArgumentParser(
        prog=f"python -m data_tools.{name}",
        description=doc,
        epilog=f"example: python -m data_tools.{name} {example}",
        formatter_class=HelpFormatter,
    )


def call(parser: argparse.ArgumentParser, work: Work, argv: Sequence[str] | None = None) -> int:
    """Parse a command line and do the work; returns the exit code: the work's own, or 2 for a user's mistake."""
    from zh_embedder.core.runtime import parse_command

    tool = parser.prog.rpartition(".")[2]
    args = parse_command(WORDS.get(tool, tool), parser, argv)
    codes: list[int] = []
    failed = exit_code(lambda: codes.append(work(args) or 0))
    return failed or (codes[0] if codes else 0)
