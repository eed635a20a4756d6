"""`zh-embedder versions`: the instruction versions, or the tasks and instructions of one."""

from __future__ import annotations

import argparse
import sys

from zh_embedder.config.instructions import SIDES, known_versions, read_version
from zh_embedder.core.errors import UserError, summarise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder versions`."""
    parser.add_argument(
        "name", nargs="?", help="show the tasks and instructions of this version (a name or a YAML file)"
    )
    parser.add_argument("--instructions_dir", help="folder to search first")


def run(args: argparse.Namespace) -> None:
    """List versions, or the instructions of one; a file that is wrong is reported."""
    if args.name:
        version = read_version(args.name, directory=args.instructions_dir)
        specs = [*version.tasks.values(), *([version.default] if version.default else [])]
        lines = [f"{version.name} ({version.source})"]
        for spec in specs:
            lines += [f"  {spec.name}", f"    query: {spec.query!r}", f"    key:   {spec.key!r}"]
            ends = [f"{side} {end}" for side, end in zip(SIDES, spec.truncation_sides, strict=True) if end]
            lines += [f"    truncation_side: {', '.join(ends)}"] if ends else []
        sys.stdout.write("\n".join(lines) + "\n")
        return
    wrong = []
    for name, path in known_versions(directory=args.instructions_dir).items():
        try:
            version = read_version(str(path))
        except UserError as error:
            wrong.append(str(error))
            continue
        tasks = [*sorted(version.tasks), *(["every other task"] if version.default else [])]
        sys.stdout.write(f"{name:20} {', '.join(tasks)}  ({path})\n")
    if wrong:
        raise summarise(wrong)
