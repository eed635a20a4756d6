"""The `zh-embedder` command: a table of its words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from types import ModuleType

from zh_embedder.core.errors import UserError, unknown_name
from zh_embedder.core.exits import exit_code, importing, open_streams
from zh_embedder.core.options import HelpFormatter, Parser, as_typed
from zh_embedder.core.spellings import spelt

TOOLS = "data_tools"
WITH_MODEL = ("evaluate", "mteb", "encode", "export", "mine", "score", "new-base", "shrink")
OWN_PARSER = ("train", "pretrain")  # Hugging Face's parser makes their flags: their modules have main(argv)


@dataclass(frozen=True, slots=True)
class Command:
    """One word."""

    text: str
    example: str  # what follows the word
    # Has add_arguments(parser), run(args), places(args) where it writes, and perhaps DETAILS, more help.
    module: str  # loaded when the word is typed


TABLE: dict[str, dict[str, Command]] = {
    "train": {
        "train": Command(
            "train with the flags of run_dense.py; under torchrun, start run_dense.py",
            "--output_dir out --train_data train.jsonl --query_encoder my-base",
            "zh_embedder.commands.train",
        ),
        "pretrain": Command(
            "pretrain on plain text; under torchrun, start -m zh_embedder.pretrain",
            "--corpus corpus/*.txt --query_encoder my-base --output_dir pretrained",
            "zh_embedder.commands.pretrain",
        ),
        "vocabulary": Command(
            "build a tokenizer from a corpus: characters and frequent words",
            "corpus/*.jsonl.zst --output_dir vocabulary --words 5000",
            "zh_embedder.commands.vocabulary",
        ),
        "new-base": Command(
            "build an untrained base from a tokenizer and a corpus, or add layers to a base",
            "vocabulary --corpus corpus/*.jsonl.zst --output_dir base --hidden_size 320",
            "zh_embedder.commands.new_base",
        ),
        "shrink": Command(
            "keep some layers and pieces of a base, as a start for distillation",
            "e5-small --output_dir small --layers 0 5 11 --pieces 15000 --corpus corpus/*.jsonl.zst",
            "zh_embedder.commands.shrink",
        ),
    },
    "measure": {
        "evaluate": Command(
            "compare models on retrieval, reranking, similarity, pairs, classification and clustering",
            "base data/outputs/icl --data data/qa/test data/tool/test --json scores.json",
            "zh_embedder.commands.evaluate",
        ),
        "mteb": Command(
            "measure a model with the official mteb package, C-MTEB by default, with our instructions",
            "data/outputs/icl --tasks T2Retrieval STSB --output_dir mteb-results",
            "zh_embedder.commands.mteb",
        ),
    },
    "use": {
        "encode": Command(
            "encode files of texts into a folder of vectors; rerun the same command to resume",
            "data/outputs/icl corpus.jsonl --side key --task qa --output_dir corpus-vectors",
            "zh_embedder.commands.encode",
        ),
        "export": Command(
            "write a sentence-transformers folder and prove that it makes the same vectors",
            "data/outputs/icl my-embedder --default_task qa",
            "zh_embedder.commands.export",
        ),
    },
    "data": {
        "convert": Command(
            "convert published data sets to training records",
            "cmrc2018_trial.json --from squad --task qa --output qa.jsonl.gz",
            "data_tools.convert",
        ),
        "doctor": Command(
            "check training records line by line, and write a cleaned copy",
            "data/train --version zh_llm_embedder --eval data/qa data/law --fix cleaned --json findings.json",
            "data_tools.doctor",
        ),
        "split": Command(
            "split records into parts that share no group, no query and no positive",
            "qa.jsonl.gz --output_dir data/qa --ratios 0.9 0.05 0.05 --near 0.8 --eval",
            "data_tools.split",
        ),
        "generate": Command(
            "have a language model write queries for the passages of documents",
            "docs/ --output queries.jsonl --output_corpus passages.jsonl --model qwen-plus --tasks qa title "
            "--max_total_tokens 2000000",
            "data_tools.generate_queries",
        ),
        "pairs": Command(
            "build training pairs from raw text",
            "corpus/*.jsonl.zst --output_dir pairs --max_pairs 50000 --without data/qa/test",
            "data_tools.make_pairs",
        ),
        "mine": Command(
            "mine hard negatives for training records",
            "train.jsonl --output mined.jsonl --model BAAI/bge-large-zh-v1.5 --range 10 210 --negatives 15 "
            "--percent 0.95",
            "data_tools.mine_negatives",
        ),
        "score": Command(
            "score the keys of records with a teacher, for distillation",
            "train.jsonl --output scored.jsonl --method cross_encoder --model BAAI/bge-reranker-large",
            "data_tools.score_teacher",
        ),
    },
    "look up": {
        "bases": Command(
            "list the bases by name, with size, licence and whether they are on this machine, or fetch one",
            "fetch e5-small-zh",
            "zh_embedder.commands.bases",
        ),
        "metrics": Command(
            "list the metrics with the sets they apply to, or explain one",
            "ndcg@10",
            "zh_embedder.commands.metrics",
        ),
        "losses": Command(
            "list the losses with their options and the records they learn from, or explain one",
            "info_nce",
            "zh_embedder.commands.losses",
        ),
        "versions": Command(
            "list the instruction versions, or show one",
            "zh_llm_embedder",
            "zh_embedder.commands.versions",
        ),
    },
}
COMMANDS = {word: command for group in TABLE.values() for word, command in group.items()}


def version() -> str:
    """Version of the installed package; of a source tree that is not installed, that it is one."""
    try:
        return metadata.version("zh_embedder")
    except metadata.PackageNotFoundError:
        return "(source tree, not installed)"


def overview() -> str:
    """List the words by group."""
    width = max(map(len, COMMANDS))
    blocks = [
        f"{title}:\n" + "\n".join(f"    {word:{width}}  {command.text}" for word, command in group.items())
        for title, group in TABLE.items()
    ]
    return "\n\n".join(
        [
            "usage: zh-embedder COMMAND [FLAGS]",
            "Train, measure and export Chinese text embedders for many retrieval tasks.",
            *blocks,
            "`zh-embedder COMMAND --help` shows its flags, `zh-embedder --version` the package's version.\n"
            f"example: zh-embedder train {COMMANDS['train'].example}\n",
        ]
    )


def load(word: str) -> ModuleType:
    """Import the module of a word.

    Raises:
        UserError: the module is a data tool, and the data tools are not installed.
    """
    name = COMMANDS[word].module
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != TOOLS or not name.startswith(f"{TOOLS}."):
            raise
        raise UserError(
            f"zh-embedder {word}: the package {TOOLS} is not installed, expected it next to zh_embedder: "
            "pip install zh-embedder, or start in the folder of the source tree"
        ) from None


def build_parser(word: str, program: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of a word, with its module's flags.

    Args:
        word: in the table.
        program: what was typed in place of `zh-embedder WORD`, such as `python -m data_tools.doctor`.
    """
    command, module = COMMANDS[word], load(word)
    typed = program or f"zh-embedder {word}"
    details: str = getattr(module, "DETAILS", "")
    parser = Parser(
        prog=typed,
        description="\n\n".join(filter(None, (command.text, details.strip()))),
        epilog=f"example: {typed} {command.example}",
        formatter_class=HelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def call(word: str, argv: Sequence[str] | None = None, *, program: str | None = None) -> int:
    """Run a command; returns its exit code, or 2 for a user's mistake, which is reported without a traceback."""
    from contextlib import nullcontext

    from zh_embedder.core.outputs import reserved
    from zh_embedder.core.ranks import check_environment, launched
    from zh_embedder.core.runtime import parse_command

    argv = sys.argv[1:] if argv is None else list(argv)
    codes: list[int] = []

    def work() -> None:
        check_environment()
        with importing():
            load(word)
        if word in OWN_PARSER:
            codes.append(load(word).main(argv, program=program or f"zh-embedder {word}"))
            return
        try:
            args = parse_command(word, build_parser(word, program), argv)
            module = load(word)
            if word in WITH_MODEL:
                with importing():  # these would import it anyway
                    import_module("transformers")
                    import_module("torch")
            with reserved(module.places(args)) if hasattr(module, "places") else nullcontext():
                codes.append(module.run(args) or 0)
        except UserError as error:
            raise as_typed(error, spelt(word, argv)) from None

    return exit_code(work, answers=not launched()) or codes[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command of a command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    open_streams()
    word = argv[0] if argv else "--help"
    if word in ("-h", "--help"):
        return exit_code(lambda: sys.stdout.write(overview()))
    if word in ("-V", "--version"):
        return exit_code(lambda: sys.stdout.write(f"zh-embedder {version()}\n"))
    if word not in COMMANDS:
        sys.stderr.write(f"error: {unknown_name('COMMAND', word, COMMANDS)}\n")
        return 2
    return call(word, argv[1:])


if __name__ == "__main__":
    sys.exit(main())
