"""The `zh-embedder` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from zh_embedder.core.errors import exit_code
from zh_embedder.core.options import HelpFormatter


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand."""

    text: str
    example: str
    module: str  # has add_arguments(parser) and run(args); loaded when the command is called


COMMANDS = {
    "export": Command(
        "write a sentence-transformers folder and prove that it makes the same vectors",
        "zh-embedder export data/outputs/icl my-embedder --default_task qa",
        "zh_embedder.export.sentence_transformers",
    ),
    "evaluate": Command(
        "measure retrieval of one or more models on BEIR folders",
        "zh-embedder evaluate base data/outputs/icl --data data/qa/test data/tool/test --json scores.json",
        "zh_embedder.commands.evaluate",
    ),
    "mteb": Command(
        "measure a model with the official mteb package, C-MTEB by default, with our instructions",
        "zh-embedder mteb data/outputs/icl --tasks T2Retrieval STSB --output_dir mteb-results",
        "zh_embedder.evaluation.mteb",
    ),
    "encode": Command(
        "encode files of texts into a folder of vectors; rerun the same command to resume",
        "zh-embedder encode data/outputs/icl corpus.jsonl --side key --task qa --output_dir corpus-vectors",
        "zh_embedder.search.encode_files",
    ),
    "losses": Command(
        "list the losses with their options and the records they learn from, or explain one",
        "zh-embedder losses info_nce",
        "zh_embedder.losses.table",
    ),
    "versions": Command(
        "list the instruction versions, or show one",
        "zh-embedder versions zh_llm_embedder",
        "zh_embedder.config.instructions",
    ),
}
PRETRAIN = "pretrain on plain text (`zh-embedder pretrain --help`); under torchrun, start -m zh_embedder.pretrain"
TRAIN = "train with the flags of run_dense.py (`zh-embedder train --help`); under torchrun, start run_dense.py"


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the chosen subcommand loads its module and gets its flags."""
    parser = argparse.ArgumentParser(
        prog="zh-embedder",
        description="Train, measure and export Chinese text embedders for many retrieval tasks.",
        epilog="example: zh-embedder train --output_dir out --train_data train.jsonl --query_encoder my-base",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("train", help=TRAIN, add_help=False)
    commands.add_parser("pretrain", help=PRETRAIN, add_help=False)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.text,
            description=command.text,
            epilog=f"example: {command.example}",
            formatter_class=HelpFormatter,
        )
        if name == chosen:
            import_module(command.module).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit code: 2 for a user's mistake, which is reported without a traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    from zh_embedder.commands.train import main as train
    from zh_embedder.core.runtime import parse_command

    if argv[:1] == ["train"]:
        return train(argv[1:])
    if argv[:1] == ["pretrain"]:
        from zh_embedder.commands.pretrain import main as pretrain

        return pretrain(argv[1:])
    parser = build_parser(argv[0] if argv else None)
    if not argv:
        parser.print_help()
        return 0
    args = parse_command(argv[0], parser, argv)
    return exit_code(lambda: import_module(COMMANDS[args.command].module).run(args))


if __name__ == "__main__":
    sys.exit(main())
