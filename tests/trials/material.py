"""Records, texts and command lines that trials are made of."""

import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path


def flag(name: str) -> str:
    """A pattern for a flag, whichever way it is spelled."""
    return name.replace("_", "[_-]")


def line(file: str, number: int) -> str:
    """A pattern for a line of a file."""
    return re.escape(file) + rf"['\"”»]?(:|,? \(?line ){number}\b"


def rows(*records: object) -> str:
    """JSON Lines; text stays as it is."""
    return "".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in records)


QUESTIONS = (
    ("怎么退货？", "签收后七天内，可以在订单页申请退货。"),
    ("发票丢了怎么办", "电子发票可以在“我的订单”里重新下载。"),
    ("多久能送到", "一般下单后两到三天送达，偏远地区要一周。"),
    ("会员卡能转让吗", "会员卡只限本人使用，不能转让给他人。"),
    ("怎样修改收货地址", "发货之前，可以在订单详情里修改收货地址。"),
    ("门店几点关门", "各门店营业到晚上九点，节假日延长一小时。"),
)


def record(number: int = 0, **fields: object) -> dict:
    """A good record, with some fields replaced; `...` removes a field."""
    query, positive = QUESTIONS[number % len(QUESTIONS)]
    negative = QUESTIONS[(number + 1) % len(QUESTIONS)][1]
    made: dict = {"query": query, "pos": [positive], "neg": [negative], "task": "qa"}
    made.update(fields)
    return {name: value for name, value in made.items() if value is not ...}


RECORDS = [record(number) for number in range(6)]
GOOD = rows(*RECORDS)
SCORED = rows(*(record(n, teacher_scores=[2.0, 0.5 - n / 10]) for n in range(6)))
PAIRS = rows(*({"text1": q, "text2": k, "score": n % 2, "task": "sts"} for n, (q, k) in enumerate(QUESTIONS)))
LABELLED = rows(*({"text": k, "label": "甲乙"[n % 2], "task": "icl"} for n, (_, k) in enumerate(QUESTIONS)))
TEXTS = rows(*({"id": f"d{n}", "text": key} for n, (_, key) in enumerate(QUESTIONS)))
PARAGRAPH = "春天的早晨，河边的柳树刚刚发芽。孩子们沿着石板路去上学，老人们在桥头下棋。"
PARAGRAPH += "卖豆浆的小贩推着车走过，热气在冷风里散开。"
CORPUS = rows(*({"text": PARAGRAPH * 3 + f"这是第{n}篇文章。", "title": f"第{n}篇"} for n in range(30)))
TRUNCATED_GZIP = gzip.compress((GOOD * 50).encode())[:-40]
DEEP = '{"query": ' + "[" * 100_000 + "]" * 100_000 + ', "pos": ["a"]}\n'
SET = {
    "set/queries.jsonl": rows(*({"id": f"q{n}", "text": q, "task": "qa"} for n, (q, _) in enumerate(QUESTIONS))),
    "set/corpus.jsonl": TEXTS,
    "set/qrels.tsv": "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in range(6)),
}


def png() -> bytes:
    """A small picture."""
    body = zlib.compress(b"\x00\xff\x80\x10")
    chunk = b"IDAT" + body
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))


def options(base: dict[str, object], changes: dict[str, object]) -> list[str]:
    """Flags and values; None leaves a flag out, True is a switch, a list several values."""
    words: list[str] = []
    for name, value in {**base, **changes}.items():
        if value is None:
            continue
        words.append(f"--{name}")
        if value is not True:
            words += [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]
    return words


def train(**changes: object) -> list[str]:
    """A tiny training of nano-zh-static on train.jsonl."""
    base: dict[str, object] = {
        "query_encoder": "nano-zh-static",
        "train_data": "train.jsonl",
        "output_dir": "out",
        "version": "none",
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "train_group_size": 2,
        "report_to": "none",
    }
    return ["train", *options(base, changes)]


def pretrain(**changes: object) -> list[str]:
    """A tiny pretraining from random weights on corpus.jsonl."""
    base: dict[str, object] = {
        "from_scratch": True,
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "max_positions": 64,
        "corpus": "corpus.jsonl",
        "output_dir": "out",
        "max_steps": 2,
        "tokens_per_device": 256,
        "report_to": "none",
    }
    return ["pretrain", *options(base, changes)]


def evaluate(**changes: object) -> list[str]:
    """nano-zh-static on the set."""
    models = changes.pop("models", ["nano-zh-static"])
    return ["evaluate", *models, *options({"data": "set"}, changes)]  # type: ignore[misc]


def encode(*inputs: str, model: str = "nano-zh-static", **changes: object) -> list[str]:
    """nano-zh-static on texts.jsonl."""
    return ["encode", model, *(inputs or ("texts.jsonl",)), *options({"output_dir": "out"}, changes)]


def split(*inputs: str, **changes: object) -> list[str]:
    """Into two parts."""
    return ["split", *(inputs or ("train.jsonl",)), *options({"output_dir": "out", "ratios": [0.5, 0.5]}, changes)]


def mine(*inputs: str, **changes: object) -> list[str]:
    """With BM25."""
    base: dict[str, object] = {"output": "out.jsonl", "method": "bm25", "range": [0, 5], "negatives": 2}
    return ["mine", *(inputs or ("train.jsonl",)), *options(base, changes)]


def score(*inputs: str, **changes: object) -> list[str]:
    """With nano-zh-static as the teacher."""
    base: dict[str, object] = {"output": "out.jsonl", "method": "embedder", "model": "nano-zh-static"}
    return ["score", *(inputs or ("train.jsonl",)), *options(base, changes)]


def generate(*inputs: str, **changes: object) -> list[str]:
    """At an endpoint where nobody listens."""
    base: dict[str, object] = {
        "output": "out.jsonl",
        "model": "m",
        "base_url": "http://127.0.0.1:9/v1",
        "retries": 0,
        "timeout": 2,
        "give_up": 1,
    }
    return ["generate", *(inputs or ("doc.txt",)), *options(base, changes)]


def convert(source: str, *words: str, output: str = "out.jsonl") -> list[str]:
    """One source to out.jsonl."""
    return ["convert", source, "--output", output, *words]


def do(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    """Several steps, one after another."""

    def run(work: Path) -> None:
        for step in steps:
            step(work)

    return run


def every(pattern: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Change all files of a pattern, of which there must be one."""

    def run(work: Path) -> None:
        found = sorted(work.glob(pattern))
        if not found:
            raise FileNotFoundError(pattern)
        for path in found:
            change(path)

    return run


def halve(path: Path) -> None:
    """Cut a file in two."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def garble(path: Path) -> None:
    """Replace a file by what is no JSON and no tensor."""
    path.write_bytes(b"\x00\xffgarbage{{{")


def holds(path: str, text: str) -> Callable[[Path, str], str | None]:
    """A file of the result contains a text."""

    def check(work: Path, _: str) -> str | None:
        file = work / path
        if not file.is_file():
            return f"{path} was not written"
        return None if text in file.read_text(encoding="utf-8") else f"{path} does not contain {text!r}"

    return check


def lacks(path: str, text: str) -> Callable[[Path, str], str | None]:
    """A file of the result does not contain a text."""

    def check(work: Path, _: str) -> str | None:
        file = work / path
        if not file.is_file():
            return f"{path} was not written"
        return f"{path} contains {text!r}" if text in file.read_text(encoding="utf-8") else None

    return check


def counts(path: str, number: int) -> Callable[[Path, str], str | None]:
    """A file of the result has so many lines."""

    def check(work: Path, _: str) -> str | None:
        file = work / path
        if not file.is_file():
            return f"{path} was not written"
        opened = gzip.decompress(file.read_bytes()) if path.endswith(".gz") else file.read_bytes()
        found = opened.count(b"\n")
        return None if found == number else f"{path} has {found} lines, expected {number}"

    return check


def exists(*paths: str) -> Callable[[Path, str], str | None]:
    """Paths are there."""

    def check(work: Path, _: str) -> str | None:
        missing = [path for path in paths if not (work / path).exists()]
        return f"missing: {missing}" if missing else None

    return check
