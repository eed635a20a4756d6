"""Material for all contenders: a random BERT built in code, and groups of real sentences cut to chosen lengths.

Every group has the same number of tokens, and so has every step in whatever order a trainer shuffles: times of
contenders compare, and tokens/s is exact.
"""

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo" / "train"
VOCABULARY = 21128  # of bge-*-zh and of Google's Chinese BERT


@dataclass(frozen=True, slots=True)
class Preset:
    """The size of a base."""

    layers: int
    hidden: int
    heads: int
    intermediate: int

    def forward_flops(self, lengths: list[int]) -> float:
        """Floating-point operations of the matrix products of one forward over texts of these lengths."""
        weights = self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)
        attention = 4 * self.layers * self.hidden
        return float(sum(2 * weights * n + attention * n * n for n in lengths))


PRESETS = {
    "tiny": Preset(2, 64, 2, 128),
    "small": Preset(4, 512, 8, 2048),
    "base": Preset(12, 768, 12, 3072),
    "large": Preset(24, 1024, 16, 4096),
}
# Tokens of the shortest and longest text. `long` has 430 on average, `full` hardly any padding.
SHAPES = {"short": (16, 24), "mixed": (16, 256), "long": (348, 512), "full": (480, 512)}
REAL = "real"  # texts as they are, cut at 512 tokens


def build_base(folder: Path, preset: str) -> Path:
    """Write the base, unless it is there already."""
    from zh_embedder.bases.tiny import build
    from zh_embedder.models.encoder import without_bars

    size = PRESETS[preset]
    if not (folder / "modules.json").is_file():
        with without_bars():
            build(folder, **asdict(size), vocabulary_size=VOCABULARY, pooling="cls")
    return folder


def read_records(folder: Path | None) -> Iterator[dict]:
    """Training records below a folder of real data, else the bundled ones."""
    paths = sorted([*folder.rglob("train.jsonl"), *folder.rglob("train.jsonl.gz")]) if folder else []
    for path in paths or sorted(DEMO.glob("*.jsonl")):
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)


def data_folder() -> Path | None:
    """Folder of real data, where the environment names one."""
    named = os.environ.get("ZH_DATA")
    return Path(named) if named and Path(named).is_dir() else None


def spread(low: int, high: int, count: int) -> list[int]:
    """Whole numbers from low to high at even distances: (2, 10, 3) -> 2, 6, 10."""
    return [int(n) for n in np.linspace(low, high, count).round()]


class Cutter:
    """Cuts texts of an exact number of tokens out of one endless stream of real sentences."""

    def __init__(self, tokenizer, records: list[dict], seed: int = 0) -> None:
        self.tokenizer = tokenizer
        self.rng = np.random.default_rng(seed)
        sentences = [text for r in records for text in (r["query"], *r["pos"], *r["neg"])]
        self.sentences = list(dict.fromkeys(sentences))

    def text(self, tokens: int) -> str:
        """A text of a number of tokens, the two special ones included."""
        joined = ""
        while True:
            joined += self.sentences[int(self.rng.integers(len(self.sentences)))]
            if len(joined) < tokens:  # a token is at least a character
                continue
            offsets = self.tokenizer(joined, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            if len(offsets) >= tokens - 2:
                return joined[: offsets[tokens - 3][1]]

    def group(self, lengths: list[int]) -> dict:
        """A record whose query and keys have these lengths, in any order."""
        query, pos, *neg = [self.text(int(n)) for n in self.rng.permutation(lengths)]
        return {"query": query, "pos": [pos], "neg": neg, "task": "bench"}


@dataclass(frozen=True, slots=True)
class Material:
    """A file for the workers, and what is in it."""

    path: str
    lengths: list[int]  # tokens of every text, in the order of the file

    @property
    def texts(self) -> int:
        return len(self.lengths)


def texts_of(record: dict) -> list[str]:
    return [record["query"], *record["pos"], *record["neg"]]


def real_groups(records: list[dict], *, count: int, keys: int, seed: int = 0) -> list[dict]:
    """Records as they are: query, one positive, negatives; those with too few negatives are left out."""
    whole = [r for r in records if r["pos"] and len(r["neg"]) >= keys - 1]
    rows = np.random.default_rng(seed).choice(len(whole), size=count, replace=count > len(whole))
    chosen = [whole[int(row)] for row in rows]
    return [{"query": r["query"], "pos": r["pos"][:1], "neg": r["neg"][: keys - 1], "task": "bench"} for r in chosen]


def write_material(path: Path, rows: list[dict], tokenizer, *, max_length: int) -> Material:
    """Write the rows and measure their texts."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    texts = [row["text"] for row in rows] if "text" in rows[0] else [t for row in rows for t in texts_of(row)]
    ids = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    return Material(str(path), [len(row) for row in ids])


def write_groups(path: Path, base: Path, shape: str, *, count: int, keys: int, max_length: int) -> Material:
    """Write `count` training records of a shape, each with a query and `keys` keys."""
    tokenizer, records = read_tokenizer(base), list(read_records(data_folder()))
    if shape == REAL:
        rows = real_groups(records, count=count, keys=keys)
    else:
        cutter = Cutter(tokenizer, records)
        rows = [cutter.group(spread(*SHAPES[shape], keys + 1)) for _ in range(count)]
    return write_material(path, rows, tokenizer, max_length=max_length)


def write_texts(path: Path, base: Path, shape: str, *, count: int, max_length: int) -> Material:
    """Write `count` texts of a shape, shuffled."""
    tokenizer, records = read_tokenizer(base), list(read_records(data_folder()))
    if shape == REAL:
        texts = list(dict.fromkeys(text for r in records for text in texts_of(r)))
        chosen = [texts[int(i)] for i in np.random.default_rng(0).permutation(len(texts))[:count]]
    else:
        cutter = Cutter(tokenizer, records)
        chosen = [cutter.text(int(n)) for n in cutter.rng.permutation(spread(*SHAPES[shape], count))]
    return write_material(path, [{"text": text} for text in chosen], tokenizer, max_length=max_length)


def read_tokenizer(base: Path):
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # it warns of texts over 512 tokens, which are cut here anyway
    return AutoTokenizer.from_pretrained(base)
