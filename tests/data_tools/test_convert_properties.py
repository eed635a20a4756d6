"""Every reader on values of any type at any depth: records whose texts occur in the input, or one UserError."""

import gzip
import io
import json
import math
import re
import zipfile
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from data_tools.converting.format_types import ReadOptions, Source
from data_tools.converting.formats import FORMATS
from data_tools.converting.pipeline import ConvertOptions, Ids, Tally, converted
from data_tools.converting.source_text import find_encoding
from tests.jsonl import as_lines
from zh_embedder.core.errors import UserError
from zh_embedder.text.empty_cells import EMPTY_CELLS

TEXTS = ("query", "text1", "text2", "text", "pos", "neg", "history", "answers")
GLUE = " ：:\nAB用户系统文本标签+"  # what readers put between texts
MESSAGE = {"role": "user", "content": "七天内"}
TOOLS = [{"name": "f", "description": "查天气"}, {"type": "function", "function": {"name": "g"}}]
QUESTION = {"id": "1-1", "question": "多长？", "answers": [{"text": "6300"}], "is_impossible": False}
KDCONV = {"name": "片", "attrname": "导演", "attrvalue": "王小明"}
SAID = ["我家的猫生病了怎么办", "带它去医院", "今天的天气真好", "是啊", "吃饭了吗", "吃了", "我家的猫还是生病了", "哦"]
CROSSWOZ = [
    ["找家餐馆", []],
    ["去讲礼吧", [["Inform", "餐馆", "名称", "讲礼"]]],
    ["地址", []],
    ["对面", [["Recommend", "餐馆", "地址", "对面"]]],
]
# Format -> file -> what is in it: an object or a list is a document, a tuple is a row for each line.
VALID = {
    "squad": {
        "x.json": {"data": [{"id": "1", "title": "江", "paragraphs": [{"context": "全长6300公里", "qas": [QUESTION]}]}]}
    },
    "beir": {
        "queries.jsonl": ({"_id": "q", "text": "多长？"},),
        "corpus.jsonl": ({"_id": "d", "title": "江", "text": "全长"}, {"_id": "e", "text": "短"}),
        "qrels.tsv": "query-id\tcorpus-id\tscore\nq\td\t1\nq\te\t0\n",
    },
    "msmarco": {
        "collection.tsv": "1\t全长\n2\t短\n",
        "queries.tsv": "1\t多长？\n",
        "qrels.tsv": "1\t0\t1\t1\n1\t0\t2\t0\n",
    },
    "llama_index": {
        "x.json": {"queries": {"q": "多长？"}, "corpus": {"d": "全长"}, "relevant_docs": {"q": ["d"]}, "mode": "text"}
    },
    "pairs": {
        "x.jsonl": (
            {"id": 3, "sentence1": "甲", "sentence2": "乙", "label": 1},
            {"sentence1": "甲", "sentence2": "丙", "label": "0"},
        )
    },
    "nli": {
        "x.jsonl": (
            {"sentence1": "甲", "sentence2": "乙", "label": "entailment", "prem_id": 1},
            {"sentence1": "甲", "sentence2": "丙", "label": 2},
        )
    },
    "labelled": {
        "x.jsonl": (
            {"id": 1, "sentence": "甲队赢", "label": "体育"},
            {"sentence": "乙队赢", "label": "体育"},
            {"sentence": "跌", "label": 3},
        )
    },
    "kdconv": {
        "x.json": [
            {
                "name": "片",
                "messages": [{"message": text} for text in SAID] + [{"message": "王小明导演", "attrs": [KDCONV]}],
            }
        ]
    },
    "crosswoz": {
        "x.json": {"1": {"messages": [{"role": "usr", "content": text, "dialog_act": acts} for text, acts in CROSSWOZ]}}
    },
    "acebench": {
        "x.json": ({"id": "1", "question": "user: 天气？\n", "function": TOOLS},),
        "possible_answer/x.json": ({"id": "1", "ground_truth": [{"f": {}}]},),
    },
    "tool_calls": {
        "x.jsonl": ({"id": 1, "query": "天气？", "tools": TOOLS, "answers": [{"name": "f", "arguments": {}}]},)
    },
    "tevatron": {
        "x.jsonl": (
            {
                "query_id": 1,
                "query": "多长？",
                "positive_passages": [{"docid": "1", "title": "江", "text": "全长"}],
                "negative_passages": [{"text": "短"}],
                "answers": ["长"],
            },
        )
    },
    "ms_swift": {
        "x.jsonl": (
            {
                "messages": [{"role": "user", "content": "退货"}],
                "positive_messages": [[MESSAGE]],
                "negative_messages": [[MESSAGE]],
            },
        )
    },
    "flagembedding": {
        "x.jsonl": (
            {
                "query": "多长？",
                "pos": ["全长"],
                "neg": ["短"],
                "pos_scores": [1.5],
                "neg_scores": [0],
                "id": 1,
                "prompt": "问",
            },
        )
    },
    "llm_embedder": {
        "x.jsonl": (
            {"query": "多长？", "history": ["全长", "短"], "teacher_scores": [1, 0], "task": "chat", "answers": ["长"]},
        )
    },
    "sentence_transformers": {
        "x.jsonl": (
            {"anchor": "多长？", "positive": "全长", "negative_1": "短"},
            {"anchor": "短？", "positive": ["短", "小"]},
        )
    },
    "columns": {
        "x.jsonl": (
            {"a": "多", "b": "长", "c": ["全长", {"title": "江", "text": "长"}], "d": 7},
            {"a": "短", "c": "短", "d": "文"},
        )
    },
}
OPTIONS = {
    "nli": ReadOptions(labels=("neutral", "entailment", "contradiction")),
    "columns": ReadOptions(columns={"query": "a+b", "pos": "c", "neg": "d", "group": "d"}),
}
SPECIAL = [
    "",
    " ",
    "nan",
    "NULL",
    "['甲', '乙']",
    "['甲' '乙']",
    "['甲",
    "[nan]",
    "{'a': '甲'}",
    '[{"text": "甲"}]',
    "\ud800",
    "../x",
    "\x00",
    "a" * 200,
    "1e999",
]
NAMES = [
    "text",
    "title",
    "content",
    "role",
    "name",
    "id",
    "label",
    "score",
    "query",
    "pos",
    "neg",
    "data",
    "messages",
    "context",
    "qas",
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**30, 10**400),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(SPECIAL),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=3)), inner, max_size=3),
    ),
    max_leaves=6,
)


def places(value, path=()):
    """Every place in a value, the value itself first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for name, one in inner:
        yield from places(one, (*path, name))


def put(value, path, new, action):
    """A value with something else at one of its places; or without it, or with it twice."""
    if not path:
        return new
    changed = [*value] if isinstance(value, tuple) else deepcopy(value)
    name, *rest = path
    if rest or action == "replace":
        changed[name] = put(changed[name], tuple(rest), new, action)
    elif action == "remove":
        del changed[name]
    elif isinstance(changed, list):
        changed.insert(name, changed[name])
    else:
        changed[new if isinstance(new, str) else str(name) * 2] = changed[name]
    return tuple(changed) if isinstance(value, tuple) else changed


def written(content):
    """The text of a file."""
    if isinstance(content, str):
        return content
    return "".join(f"{json.dumps(row)}\n" for row in content) if isinstance(content, tuple) else json.dumps(content)


def leaves(value):
    """Every text and number of a value, and the names of its fields."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(one)
            yield name
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from leaves(one)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        yield str(value)


def occurs(text, known):
    """Whether a text is made of texts of the input, and of nothing else but what readers put between them."""
    if any(text in one for one in known):
        return True
    for one in sorted(known, key=len, reverse=True):
        text = text.replace(one, "") if one.strip() else text
    return not text.strip(GLUE) or all(any(part.strip() in one for one in known) for part in text.split("\n"))


def check(name, shape, folder, files, **options):
    """Read files: returns their records, none where one message says what is wrong."""
    for file, content in files.items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else written(content).encode("utf-8", "surrogatepass"))
    own = FORMATS[name]
    path = folder if own.is_folder else folder / next(iter(files))
    reading = replace(OPTIONS.get(name, ReadOptions()), shape=shape, task="qa", **options)
    find_encoding.cache_clear()
    try:
        lines = converted(
            Source(str(path), "x"), own, ConvertOptions(inputs=[], output=Path(), reading=reading), Ids(), Tally()
        )
        return list(map(json.loads, lines))
    except UserError as error:
        assert str(error).strip()
        return []


def check_texts(records, files):
    """Every text of records is one of the input, and none of them is an empty cell."""
    known = {
        leaf
        for content in files.values()
        for leaf in leaves(re.split(r"[\t\n]", content) if isinstance(content, str) else content)
    }
    for record in records:
        found = [record[name] for name in TEXTS if name in record]
        for text in (text for one in found for text in ([one] if isinstance(one, str) else one)):
            assert text.strip()
            assert text.strip() not in EMPTY_CELLS
            assert occurs(text, known), (text, known)


CASES = [(name, shape) for name in VALID for shape in FORMATS[name].shapes]
FAST, FULL = 10, 200


def explore(count, read, *where):
    """Call a reader's test with drawn data, the same in every run."""

    def test(data):
        read(*where, data)

    chosen = settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    chosen(given(st.data())(test))()


def mutated(draw, files):
    """Files with one or two of their values replaced, removed or doubled."""
    for _ in range(draw(st.integers(1, 2))):
        file = draw(st.sampled_from(list(files)))
        if isinstance(files[file], str):
            cells = st.lists(st.sampled_from(["1", "q", "-", "²", "9" * 5000, ""]), max_size=5)
            files = files | {file: "\n".join("\t".join(row) for row in draw(st.lists(cells, max_size=4)))}
            continue
        path = draw(st.sampled_from(list(places(files[file]))))
        action = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
        files = files | {file: put(files[file], path, draw(values), action)}
    return files


def read_values(name, shape, folder, data):
    files = mutated(data.draw, VALID[name])
    check_texts(check(name, shape, folder, files), files)


def read_bytes(name, shape, folder, data):
    """Files in which some bytes are others, or that end early."""
    files = {file: bytearray(written(content).encode()) for file, content in VALID[name].items()}
    raw = files[data.draw(st.sampled_from(list(files)))]
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) if data.draw(st.booleans()) else len(raw) :]
    check(name, shape, folder, {file: bytes(content) for file, content in files.items()})


def read_table(suffix, folder, data):
    """Tables of arbitrary characters, quotes, separators and line ends among them."""
    text = data.draw(
        st.lists(st.sampled_from(['"', ",", "\t", "\n", "\r\n", "a", "b", "['甲']", "nan", "\x00"]), max_size=30)
    )
    text = "a,b\n".replace(",", "," if suffix == "csv" else "\t") + "".join(text)
    records = check("columns", "groups", folder, {f"x.{suffix}": text}, columns={"query": "a", "pos": "b"})
    assert all(record["query"].strip() and all(map(str.strip, record["pos"])) for record in records)


def read_packed(suffix, folder, data):
    """Compressed files and tables in which some bytes are others, or that end early."""
    raw = bytearray(packed(suffix))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) if data.draw(st.booleans()) else len(raw) :]
    check("columns", "groups", folder, {f"x.{suffix}": bytes(raw)}, columns={"query": "query", "pos": "pos"})


@cache
def packed(suffix):
    rows = [{"query": f"第{number}问", "pos": ["答"]} for number in range(50)]
    text, stream = as_lines(rows).encode(), io.BytesIO()
    if suffix == "jsonl.gz":
        return gzip.compress(text, mtime=0)
    if suffix == "jsonl.zst":
        return pa.compress(text, codec="zstd", asbytes=True)
    if suffix == "jsonl.zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.jsonl", text)
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), stream)
    else:
        with pa.ipc.new_stream(stream, (table := pa.Table.from_pylist(rows)).schema) as writer:
            writer.write_table(table)
    return stream.getvalue()


@pytest.mark.parametrize("at", range(1300, 1400, 4))
def test_offsets_of_a_damaged_arrow_file_are_not_followed(tmp_path, at):
    raw = bytearray(packed("arrow"))
    raw[at] = 1
    check("columns", "groups", tmp_path, {"x.arrow": bytes(raw)}, columns={"query": "query", "pos": "pos"})


PACKED = ("jsonl.gz", "jsonl.zst", "jsonl.zip", "parquet", "arrow")


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_values_of_any_type_at_any_depth(tmp_path, name, shape):
    explore(FAST, read_values, name, shape, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_many_values_of_any_type_at_any_depth(tmp_path, name, shape):
    explore(FULL, read_values, name, shape, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_bytes_that_are_others(tmp_path, name, shape):
    explore(FULL // 5, read_bytes, name, shape, tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables_of_any_characters(tmp_path, suffix):
    explore(FAST * 5, read_table, suffix, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("suffix", PACKED)
def test_damaged_archives_and_tables(tmp_path, suffix):
    explore(FULL // 5, read_packed, suffix, tmp_path)
