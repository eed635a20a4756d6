"""Texts for encoding are found, checked and streamed; a wrong line is named by file, line and field."""

import gzip
import hashlib
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pytest

from tests.search.test_vector_store import MANIFEST
from zh_embedder.core.errors import UserError
from zh_embedder.data import text_files as texts
from zh_embedder.data.text_files import InputFile, Reader, find_texts


def write(path: Path, *lines) -> Path:
    """Lines as they are, objects as JSON; compressed as the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)}\n" for one in lines)
    raw = text.encode()
    if path.suffix == ".gz":
        raw = gzip.compress(raw, mtime=0)
    if path.suffix == ".zst":
        raw = pa.compress(raw, codec="zstd", asbytes=True)
    path.write_bytes(raw)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def manifest(reader: Reader, shard_size: int):
    return replace(MANIFEST, inputs=reader.inputs(), shard_size=shard_size)


def read(*paths, shard_size=4, shards=None, **options) -> list[tuple[str, str]]:
    reader = Reader([Path(path) for path in paths], **options)
    whole = manifest(reader, shard_size)
    return list(reader.texts(whole.inputs, whole.shards if shards is None else shards, shard_size=whole.shard_size))


# ---- what is a text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "deep/a.jsonl.zst"])
def test_objects_give_their_id_and_their_text(name):
    path = write(
        Path(name),
        {"id": "甲", "text": "一", "query": "不"},
        {"_id": 7, "query": "二", "contents": "不"},
        "",
        {"contents": "三", "id": None},
        {"id": "不", "_id": "丁", "text": ""},
    )
    assert read(path) == [("甲", "一"), ("7", "二"), (f"{name}:4", "三"), ("丁", "")]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst"])
def test_plain_files_give_a_text_per_line(name):
    path = write(Path(name), " 一 ", "", '{"text": "二"}', "[]")
    assert read(path) == [(f"{name}:1", "一"), (f"{name}:3", '{"text": "二"}'), (f"{name}:4", "[]")]


def test_a_field_can_be_named_and_a_title_joined_as_evaluation_does():
    path = write(
        Path("a.jsonl"), {"text": "不", "body": "一", "title": "题"}, {"body": "二", "title": ""}, {"body": "三"}
    )
    assert [text for _, text in read(path, field="body")] == ["一", "二", "三"]
    assert [text for _, text in read(path, field="body", with_title=True)] == ["题 一", "二", "三"]


def test_files_are_found_as_training_finds_them_and_plain_texts_too(tmp_path):
    for name in ("in/b.txt", "in/a.jsonl", "in/deep/c.json.gz", "in/readme.md", "in/.hidden.txt", "in/x.tsv"):
        write(tmp_path / name, {"text": "一"})
    assert list(map(str, find_texts(["in"]))) == ["in/a.jsonl", "in/b.txt", "in/deep/c.json.gz"]
    assert list(map(str, find_texts(["in/*.txt", "in/a.jsonl"]))) == ["in/b.txt", "in/a.jsonl"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("in/corups.jsonl", "INPUT: no such file: in/corups.jsonl; did you mean 'in/corpus.jsonl'?"),
        ("in/table.tsv", r"INPUT: got 'in/table.tsv', expected a .jsonl, .json or .txt file, plain, .gz or .zst"),
        ("empty", "INPUT: no .jsonl or .json or .txt file (plain, .gz or .zst) in folder empty"),
    ],
)
def test_what_is_not_there_or_of_another_kind_is_refused(tmp_path, spec, message):
    write(tmp_path / "in" / "corpus.jsonl", {"text": "一"})
    write(tmp_path / "in" / "table.tsv", "一\t二")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        find_texts([spec])
    assert str(caught.value) == message


# ---- wrong lines ----------------------------------------------------------------------------------------------------

GOOD = {"id": "0", "text": "好", "body": "好"}


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ("{", {}, "a.jsonl:2: not valid JSON at character 2: "),
        ("[1]", {}, "a.jsonl:2: a JSON array, expected JSON Lines"),
        ('"文"', {}, 'a.jsonl:2: got \'文\', expected an object such as {"id": ..., "text": ...}'),
        ({}, {}, "a.jsonl:2: text: is missing (nor is query or contents); found an empty object; --field names"),
        (
            {"txet": "一", "n": 1},
            {},
            "a.jsonl:2: text: is missing; did you mean 'txet'? found 'txet', 'n'; --field names",
        ),
        ({"text": "一"}, {"field": "body"}, "a.jsonl:2: body: is missing; found 'text'; --field names"),
        ({"text": 12}, {}, "a.jsonl:2: text: got 12, expected a string"),
        ({"text": ["一", 1]}, {}, "a.jsonl:2: text: got ['一', 1], expected a string, or a list"),
        ({"text": None}, {}, "a.jsonl:2: text: got None, expected a string"),
        ({"text": "一", "id": 1.5}, {}, "a.jsonl:2: id: got 1.5, expected a string or a whole number"),
        ({"text": "一", "_id": True}, {}, "a.jsonl:2: _id: got True, expected a string or a whole number"),
        ({"text": "一", "id": " "}, {}, "a.jsonl:2: id: got ' ', expected a string that is not empty"),
        ({"text": "一", "title": ["3"]}, {"with_title": True}, "a.jsonl:2: title: got ['3'], expected a string or a"),
        ('{"text": "\\ud83d"}', {}, "a.jsonl:2: text: holds half of a surrogate pair"),
    ],
    ids=str,
)
def test_a_wrong_line_is_named_before_anything_is_read_for_use(line, options, message):
    path = write(Path("a.jsonl"), GOOD, line, GOOD)
    with pytest.raises(UserError) as caught:
        Reader([path], **options).inputs()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.txt", "中文\n".encode("gb18030"), "a.txt:1: not UTF-8 (byte 1), it may be Big5 or GB18030"),
        ("a.txt", "中文\n".encode("utf-16"), "a.txt:1: the file is UTF-16, expected UTF-8"),
        ("a.jsonl.gz", b"not gzip", "a.jsonl.gz: cannot be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "1"}\n' * 99, mtime=0)[:-9], "a.jsonl.gz: cannot be read: "),
        ("a.jsonl", b"", "INPUT: no texts in a.jsonl"),
        ("a.txt", b"\n \n", "INPUT: no texts in a.txt"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(name, raw, message):
    Path(name).write_bytes(raw)
    with pytest.raises(UserError) as caught:
        Reader([Path(name)]).inputs()
    assert message in str(caught.value)


def test_wrong_lines_of_all_files_are_told_at_once_and_counted():
    one, two = write(Path("a.jsonl"), *[{"text": 1}] * 15, GOOD), write(Path("b.jsonl"), GOOD, *["{"] * 15)
    with pytest.raises(UserError) as caught:
        Reader([one, two]).inputs()
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert (lines[0][:10], lines[15][:10], lines[20]) == ("a.jsonl:1:", "b.jsonl:2:", "... and 10 more")


def test_blank_lines_and_empty_files_are_said(caplog):
    files = [write(Path("a.txt"), "一", "", " "), write(Path("b.txt")), write(Path("c.txt"), "二")]
    caplog.set_level("INFO", logger="zh_embedder")
    assert Reader(files).inputs() == tuple(
        InputFile(path.name, count, hashlib.sha256(path.read_bytes()).hexdigest())
        for path, count in zip(files, (1, 0, 1), strict=True)
    )
    assert "a.txt: 2 blank lines skipped" in caplog.messages
    assert "b.txt: the file holds no texts" in caplog.messages
    assert read(*files, shard_size=1) == [("a.txt:1", "一"), ("c.txt:1", "二")]


# ---- a stream -------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """Counts of the lines that were read, by file, in the order of opening."""
    found: dict[str, int] = {}
    original = texts.read_lines

    def counting(path):
        found[str(path)] = 0
        for one in original(path):
            found[str(path)] += 1
            yield one

    monkeypatch.setattr(texts, "read_lines", counting)
    return found


def three_files() -> list[Path]:
    """Rows 0 to 4, 5 to 9 and 10 to 14."""
    return [write(Path(f"{n}.txt"), *(f"文{5 * n + i}" for i in range(5))) for n in range(3)]


def test_shards_are_rows_of_all_files_in_order():
    got = read(*three_files(), shard_size=4)
    assert got == [(f"{row // 5}.txt:{row % 5 + 1}", f"文{row}") for row in range(15)]


@pytest.mark.parametrize("shard_size", [1, 3, 4, 5, 7, 15, 99])
def test_any_choice_of_shards_is_that_part_of_the_whole(shard_size):
    files = three_files()
    whole = read(*files, shard_size=shard_size)
    count = -(-15 // shard_size)
    for rank in range(3):
        for ranks in range(rank + 1, 4):
            own = range(count)[rank::ranks]
            assert read(*files, shard_size=shard_size, shards=own) == [
                one for row, one in enumerate(whole) if row // shard_size in own
            ]


def test_nothing_is_read_before_it_is_asked_for_nor_behind_the_last_shard(opened):
    reader = Reader(three_files())
    whole = manifest(reader, 4)
    opened.clear()
    stream = reader.texts(whole.inputs, [0, 1], shard_size=whole.shard_size)
    assert opened == {}
    assert len(list(islice(stream, 3))) == 3
    assert opened == {"0.txt": 3}
    assert len(list(stream)) == 5
    assert opened == {"0.txt": 5, "1.txt": 4}  # rows 0 to 7, and row 8 to see that they end


def test_lines_of_other_shards_are_not_parsed_and_other_files_not_opened(opened, monkeypatch):
    reader = Reader(three_files())
    whole = manifest(reader, 4)
    opened.clear()
    parsed = []
    original = Reader.parse
    monkeypatch.setattr(
        Reader, "parse", lambda self, line, *a, **k: parsed.append(line) or original(self, line, *a, **k)
    )
    assert [text for _, text in reader.texts(whole.inputs, [3], shard_size=whole.shard_size)] == [
        "文12",
        "文13",
        "文14",
    ]
    assert opened == {"2.txt": 5}
    assert parsed == ["文12", "文13", "文14"]


@pytest.mark.parametrize("lines", [4, 6])
def test_a_file_that_changed_after_it_was_checked_is_noticed(lines):
    files = three_files()
    reader = Reader(files)
    whole = manifest(reader, 4)
    write(files[1], *("文",) * lines)
    with pytest.raises(UserError, match=f"1.txt: has changed while it was read: got {lines} texts"):
        list(reader.texts(whole.inputs, whole.shards, shard_size=whole.shard_size))


def test_empty_texts_and_repeated_ids_are_counted(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": ""}\n{"text": "y"}\n', "utf-8")
    with caplog.at_level("WARNING"):
        assert Reader([path]).inputs()[0].texts == 3
    assert "1 empty text" in caplog.text
    assert "1 id of an earlier text" in caplog.text
