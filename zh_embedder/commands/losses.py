"""`zh-embedder losses`: the table of losses, or one of them explained."""

from __future__ import annotations

import argparse
import inspect
import sys

from zh_embedder.core.errors import unknown_name
from zh_embedder.losses.table import LOSSES, data_of, options_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder losses`."""
    parser.add_argument("name", nargs="?", help="explain this loss, with its options and its source")


def run(args: argparse.Namespace) -> None:
    """List the losses, or explain one."""
    if args.name:
        if args.name not in LOSSES:
            raise unknown_name("loss", args.name, LOSSES)
        sys.stdout.write(
            f"{args.name}: {inspect.getdoc(LOSSES[args.name].compute)}\n\noptions: {options_of(args.name)}\n"
        )
        return
    rows = [("loss", "records", "options")]
    rows += [(name, data_of(loss), options_of(name)) for name, loss in LOSSES.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, data, options in rows:
        sys.stdout.write(f"{name:{widths[0]}}  {data:{widths[1]}}  {options}\n")
    sys.stdout.write(
        "\nA task names its losses in a version's file (used with --use_train_config), or --loss names them for all:\n"
        "  training: {loss: [{name: info_nce, weight: 0.2, temperature: 0.02}, margin_mse]}\n"
    )
