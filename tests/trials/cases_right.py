"""Trials that are odd but right: they must work."""

import gzip
import json
from pathlib import Path

from tests.trials.case import Cases
from tests.trials.material import (
    CORPUS,
    GOOD,
    LABELLED,
    PAIRS,
    PARAGRAPH,
    QUESTIONS,
    RECORDS,
    SCORED,
    SET,
    TEXTS,
    convert,
    counts,
    encode,
    evaluate,
    exists,
    holds,
    mine,
    pretrain,
    record,
    rows,
    score,
    split,
    train,
)

cases = Cases()
DATA = {"train.jsonl": GOOD}
ODD = "\ufeff" + GOOD.replace("\n", "\r\n\r\n").rstrip()
ESCAPED = "".join(json.dumps(made) + "\n" for made in RECORDS)  # \uXXXX instead of characters
SHUFFLED = "".join(
    json.dumps(dict(reversed(list(made.items()))), ensure_ascii=False, separators=(" ,  ", " :\t")) + "  \n"
    for made in RECORDS
)

# The same six records, written in other ways, in commands that read records.
for name, content in (
    ("BOM, CRLF, blank lines", ODD),
    ("escaped characters", ESCAPED),
    ("other order and white space", SHUFFLED),
    ("surrogate pairs of an emoji", ESCAPED.replace("\\u600e", "\\ud83d\\ude80", 1)),
):
    files = {"train.jsonl": content}
    cases.works(f"{name}", split(), exists("out/train.jsonl"), files=files)
    cases.works(f"{name}", mine(), counts("out.jsonl", 6), files=files)
    cases.works(f"{name}", score(), counts("out.jsonl", 6), files=files)
    cases.works(f"{name}", ["doctor", "train.jsonl"], files=files, codes=(0, 1))
    cases.works(f"{name}", convert("train.jsonl", "--from", "flagembedding"), counts("out.jsonl", 6), files=files)
    cases.works(f"{name}", evaluate(data="train.jsonl", json="out.json"), exists("out.json"), files=files)

# Places.
NESTED = {"甲/乙 丙/train.jsonl": GOOD, "甲/丁.jsonl.gz": gzip.compress(rows(record(0, query="另一个问题")).encode())}
cases.works("a folder in a folder, mixed compression", split("甲"), exists("out"), files=NESTED)
cases.works(
    "a folder with . and ..", train(train_data="./甲/../甲/乙 丙//train.jsonl"), exists("out/encoder"), files=NESTED
)
cases.works(
    "a linked folder",
    ["doctor", "link"],
    files=NESTED,
    make=lambda work: (work / "link").symlink_to("甲"),
    codes=(0, 1),
)
cases.works(
    "a chain of links",
    mine("a.jsonl"),
    counts("out.jsonl", 6),
    files=DATA,
    make=lambda work: ((work / "a.jsonl").symlink_to("b.jsonl"), (work / "b.jsonl").symlink_to("train.jsonl")),
)
cases.works(
    "quotes, brackets and an ampersand in a name",
    mine("a'b\"c&d[e]{f}.jsonl"),
    counts("out.jsonl", 6),
    files={"a'b\"c&d[e]{f}.jsonl": GOOD},
)
cases.works(
    "an input that may only be read",
    split(),
    exists("out/train.jsonl"),
    files=DATA,
    make=lambda work: (work / "train.jsonl").chmod(0o444),
    permissions=True,
)
cases.works(
    "data below --data_root",
    train(train_data="llm-embedder:train.jsonl", data_root="root"),
    exists("out/encoder"),
    files={"root/train.jsonl": GOOD},
)
cases.works(
    "an empty folder as output", train(), exists("out/encoder"), files=DATA, make=lambda work: (work / "out").mkdir()
)
cases.works(
    "an empty folder as output",
    encode(),
    exists("out"),
    files={"texts.jsonl": TEXTS},
    make=lambda work: (work / "out").mkdir(),
)
cases.works(
    "an output folder that is a link to an empty one",
    split(),
    exists("out/train.jsonl"),
    files=DATA,
    make=lambda work: ((work / "out-real").mkdir(), (work / "out").symlink_to("out-real")),
)
cases.works(
    "an absolute output",
    convert("{T}/train.jsonl", "--from", "flagembedding", output="{T}/out.jsonl.zst"),
    exists("out.jsonl.zst"),
    files=DATA,
)
cases.works("an upper-case ending", mine("TRAIN.JSONL"), files={"TRAIN.JSONL": GOOD}, codes=(0, 2))

# Numbers at their border and in other spellings.
for flag_, value in (
    ("learning_rate", "0"),
    ("learning_rate", "1E-3"),
    ("max_grad_norm", "0"),
    ("cos_temperature", "1e-2"),
    ("key_max_length", "512"),
    ("seed", "0"),
    ("matryoshka_dims", "368"),
    ("sub_batch_size", "1"),
    ("max_sample_num", "1"),
    ("lr_scheduler_type", "constant"),
    ("gradient_accumulation_steps", "3"),
):
    cases.works(f"--{flag_} {value}", train(**{flag_: value}), exists("out/encoder"), files=DATA)
cases.works(
    "near 1, ratios of thirds",
    split(near=1, ratios=["0.3333", "0.3333", "0.3334"]),
    exists("out/train.jsonl"),
    files=DATA,
)
cases.works("a part with all but one", split(ratios=None, counts=["rest", 1]), counts("out/dev.jsonl", 1), files=DATA)
cases.works(
    "percent 1, overlap 1, margin 0",
    mine(model="nano-zh-static", percent=1, max_overlap=1, margin=0),
    counts("out.jsonl", 6),
    files=DATA,
)
cases.works(
    "limit 1", convert("train.jsonl", "--from", "flagembedding", "--limit", "1"), counts("out.jsonl", 1), files=DATA
)
cases.works(
    "k1 0, b 0, hits 1",
    evaluate(models=[], bm25=True, k1=0, b=0, hits=1, metrics="mrr@1", json="out.json"),
    exists("out.json"),
    files=SET,
)
cases.works(
    "hits beyond the corpus",
    evaluate(hits=100_000, metrics="recall@1000", json="out.json"),
    exists("out.json"),
    files=SET,
)

# Contents.
cases.works(
    "scores that are whole numbers and negative",
    train(train_data="s.jsonl"),
    exists("out/encoder"),
    files={"s.jsonl": SCORED.replace("2.0", "-3")},
)
cases.works(
    "booleans of YAML's words as text",
    ["versions", "v.yaml"],
    files={"v.yaml": 'tasks:\n  "yes":\n    query: "no"\n    key: "null"\n'},
)
cases.works(
    "labels that are whole numbers",
    evaluate(data="l.jsonl", json="out.json"),
    exists("out.json"),
    files={"l.jsonl": LABELLED.replace('"甲"', "1").replace('"乙"', "2")},
)
cases.works(
    "scores written as floats",
    evaluate(data="p.jsonl", json="out.json"),
    exists("out.json"),
    files={"p.jsonl": PAIRS.replace('"score": 1', '"score": 4.5')},
)
cases.works(
    "whole numbers as ids",
    evaluate(json="out.json"),
    exists("out.json"),
    files={
        "set/queries.jsonl": rows({"id": 1, "text": "怎么退货"}),
        "set/corpus.jsonl": rows(*({"id": n, "text": key} for n, (_, key) in enumerate(QUESTIONS))),
        "set/qrels.tsv": "query-id\tcorpus-id\tscore\n1\t0\t1\n",
    },
)
cases.works(
    "BEIR's _id",
    evaluate(json="out.json"),
    exists("out.json"),
    files={name: text.replace('"id"', '"_id"') for name, text in SET.items()},
)
cases.works(
    "qrels in a folder",
    evaluate(json="out.json"),
    exists("out.json"),
    files={
        "set/queries.jsonl": SET["set/queries.jsonl"],
        "set/corpus.jsonl": TEXTS,
        "set/qrels/test.tsv": SET["set/qrels.tsv"],
    },
)
cases.works(
    "a corpus compressed",
    evaluate(json="out.json"),
    exists("out.json"),
    files={
        "set/queries.jsonl": SET["set/queries.jsonl"],
        "set/corpus.jsonl.gz": gzip.compress(TEXTS.encode()),
        "set/qrels.tsv": SET["set/qrels.tsv"],
    },
    codes=(0, 2),
)
cases.works(
    "texts of one character", pretrain(), exists("out/encoder"), files={"corpus.jsonl": CORPUS + '{"text": "好"}\n'}
)
cases.works(
    "paragraphs between blank lines with blanks in them",
    pretrain(corpus="c.txt", text_documents="paragraphs"),
    exists("out/encoder"),
    files={"c.txt": (PARAGRAPH + "\n" + PARAGRAPH + "\n \t\n") * 20},
)
cases.works(
    "Traditional characters kept",
    ["vocabulary", "c.txt", "--output_dir", "out", "--min_count", "1", "--keep_traditional"],
    exists("out"),
    files={"c.txt": "電腦與網路的發展\n" * 30},
)
cases.works(
    "a csv with quotes in Chinese and a comma in a cell",
    convert("a.csv", "--from", "columns", "--columns", "query=问", "pos=答"),
    holds("out.jsonl", "第一，第二, 第三"),
    files={"a.csv": '问,答\n“怎么”办,"第一，第二, 第三"\n'},
)
cases.works(
    "lines ending in carriage returns of an old Mac in a csv",
    convert("a.csv", "--from", "columns", "--columns", "query=问", "pos=答"),
    counts("out.jsonl", 2),
    files={"a.csv": "问,答\r甲,乙\r丙,丁\r"},
    codes=(0, 2),
)


def same_text(work: Path, _: str) -> str | None:
    """Converted records have the texts that went in."""
    made = [json.loads(text) for text in (work / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    return None if [m["query"] for m in made] == ["问\u2028题 ", "\u3000甲"] else "texts were changed without a word"


cases.works(
    "texts stay as they are",
    convert("t.jsonl", "--from", "flagembedding"),
    same_text,
    files={"t.jsonl": rows(record(query="问\u2028题 "), record(1, query="\u3000甲"))},
)
