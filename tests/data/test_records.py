"""Training files become checked, memory-mapped tables, prepared once; what is wrong is said and leaves no trace."""

import gzip
import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.jsonl import as_lines
from tests.processes import forked, start
from zh_embedder.core.errors import UserError
from zh_embedder.data import record_tables as tables
from zh_embedder.data import sources
from zh_embedder.data.record_tables import cache_folder, content_hash
from zh_embedder.data.records import (
    Record,
    column,
    filter_scores,
    limit_rows,
    load_datasets,
    merge_small,
    score_range,
    scores_sample,
    with_parts,
)
from zh_embedder.data.sources import find_files


def record(number: int, **fields) -> dict:
    return {"query": f"问{number}", "pos": [f"答{number}"], "neg": [f"否{number}"], "task": "qa", **fields}


def lines(records) -> bytes:
    return as_lines(records).encode()


def write(path: Path, records) -> Path:
    """Write records, or bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(records if isinstance(records, bytes) else lines(records))
    return path


@pytest.fixture
def cache(tmp_path) -> Path:
    """A cache folder that does not exist yet."""
    return tmp_path / "new" / "cache"


@pytest.fixture
def load(cache):
    return lambda *paths: load_datasets(paths, cache_dir=str(cache))


@pytest.fixture
def load_one(tmp_path, load):
    """The only dataset of a file with these records."""

    def one(records, name: str = "train.jsonl"):
        (dataset,) = load(write(tmp_path / name, records))
        return dataset

    return one


def refusal(load, *paths: Path) -> list[str]:
    """The lines of the message, the folder cut off."""
    with pytest.raises(UserError) as error:
        load(*paths)
    return str(error.value).replace(f"{paths[0].parent}/", "").split("\n")


def queries(dataset) -> list[str]:
    return [dataset[row].query for row in range(len(dataset))]


def arrow_files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.arrow"))


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Every name below a folder, with the inode and time of its last change."""
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*")}


# ---- which files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.jsonl", "a.json", "sub/d.jsonl.gz", "sub/c.json.zst", "sub/deep/e.jsonl", ".hidden.jsonl"):
        write(tmp_path / "data" / name, [record(0)])
    for name in ("README.md", "qrels.tsv", "e.jsonl.bak", "f.jsonl.zip"):
        write(tmp_path / "data" / name, b"no data")
    (tmp_path / "data" / "folder.jsonl").mkdir()
    write(tmp_path / "data" / "odd[1].jsonl", [record(1)])
    return tmp_path


IN_ORDER = ["data/a.json", "data/b.jsonl", "data/odd[1].jsonl", "data/sub/c.json.zst", "data/sub/d.jsonl.gz"]
IN_ORDER += ["data/sub/deep/e.jsonl"]


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        (["data"], IN_ORDER),
        (["data/sub"], IN_ORDER[3:]),
        (["data/b.jsonl", "data/a.json"], ["data/b.jsonl", "data/a.json"]),
        (["data/b.jsonl", "data/b.jsonl"], ["data/b.jsonl", "data/b.jsonl"]),
        (["data/b.jsonl", "data/sub/deep"], ["data/b.jsonl", "data/sub/deep/e.jsonl"]),
        (["data/*.jsonl*"], ["data/b.jsonl", "data/e.jsonl.bak", "data/f.jsonl.zip", "data/odd[1].jsonl"]),  # as asked
        (["data/a*", "data/sub/*.gz"], ["data/a.json", "data/sub/d.jsonl.gz"]),
        (["data/**/*.jsonl"], ["data/b.jsonl", "data/odd[1].jsonl", "data/sub/deep/e.jsonl"]),
        (["data/odd[1].jsonl"], ["data/odd[1].jsonl"]),  # a file that is there is no pattern
        (["llm-embedder:a.json", "data/b.jsonl"], ["data/a.json", "data/b.jsonl"]),
        (["llm-embedder:sub"], IN_ORDER[3:]),
        (["llm-embedder:sub/*.gz"], ["data/sub/d.jsonl.gz"]),
    ],
)
def test_files_folders_and_patterns_give_their_files_in_order(specs, expected, tree):
    assert [str(path) for path in find_files(specs, data_root="data")] == expected


def test_a_path_below_the_home_folder_is_found(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    assert find_files(["~/data/a.json"], data_root=None) == [tree / "data" / "a.json"]


@pytest.mark.parametrize(
    ("spec", "data_root", "expected"),
    [
        ("data/bb.jsonl", None, "--train_data: no such file: data/bb.jsonl; did you mean 'data/b.jsonl'?"),
        ("data/*.csv", None, "--train_data: no such file: data/*.csv"),
        ("nowhere/a.jsonl", None, "--train_data: no such file: nowhere/a.jsonl"),
        ("data/folder.jsonl", None, "--train_data: no .jsonl or .json file (plain, .gz or .zst) in folder data/folder"),
        ("llm-embedder:a.json", None, "--train_data: got 'llm-embedder:a.json', expected --data_root to say where"),
        ("llm-embedder:zz.json", "data", "--train_data: no such file: data/zz.json"),
    ],
)
def test_a_path_that_gives_no_file_is_an_error(spec, data_root, expected, tree):
    with pytest.raises(UserError) as error:
        find_files([spec], data_root=data_root)
    assert str(error.value).startswith(expected)


# ---- what a file becomes --------------------------------------------------------------------------------------------


SOME = [record(n) for n in range(5)]


@pytest.mark.parametrize(
    ("name", "data", "copies"),
    [
        ("train.jsonl", lines(SOME), 1),
        ("train.json", lines(SOME), 1),
        ("no_suffix", lines(SOME), 1),
        ("train.jsonl", b"\xef\xbb\xbf" + lines(SOME), 1),
        ("train.jsonl", lines(SOME).replace(b"\n", b"\r\n"), 1),
        ("train.jsonl", lines(SOME).rstrip(b"\n"), 1),
        ("train.jsonl.gz", gzip.compress(lines(SOME), mtime=0), 1),
        ("train.jsonl.gz", gzip.compress(lines(SOME), mtime=0) * 2, 2),
        ("train.jsonl.zst", None, 1),
        ("train.jsonl.zst", None, 2),
    ],
)
def test_plain_and_compressed_files_hold_the_same_records(name, data, copies, tmp_path, load_one):
    if data is None:
        with pa.output_stream(str(tmp_path / "frame"), compression="zstd") as stream:
            stream.write(lines(SOME))
        data = (tmp_path / "frame").read_bytes() * copies
    dataset = load_one(data, name)
    assert queries(dataset) == [r["query"] for r in SOME] * copies
    assert column(dataset.parts[0].table, "line").to_pylist() == list(range(1, 5 * copies + 1))


def test_a_record_comes_back_as_it_was_written(load_one):
    text = "全角　空格\t\n😀𠮷"
    dataset = load_one(
        [
            {"query": text, "pos": [text, "二"], "neg": ["三"], "teacher_scores": [1, 0.5, -0.25], "prompt": "查询："},
            {"query": "问", "pos": ["答"], "pos_scores": [0.1]},
            {"query": "问", "history": ["一", "二"]},
        ]
    )
    first, second, third = (dataset[row] for row in range(3))
    assert (first.query, first.pos, first.neg) == (text, [text, "二"], ["三"])
    assert (first.teacher_scores, first.prompt) == ([1.0, 0.5, -0.25], "查询：")
    assert (second.neg, second.teacher_scores, second.prompt) == ([], [0.1], None)
    assert (third.pos, third.neg, third.teacher_scores) == ([], ["一", "二"], None)
    with pytest.raises(IndexError):
        dataset[3]


def test_blank_lines_are_skipped_and_counted_in_the_log(load_one, caplog):
    caplog.set_level(logging.INFO, "zh_embedder")
    dataset = load_one(b"\n" + lines(SOME[:2]) + b"  \t\n\n" + lines(SOME[2:]) + b"\n")
    assert queries(dataset) == [r["query"] for r in SOME]
    assert column(dataset.parts[0].table, "line").to_pylist() == [2, 3, 6, 7, 8]
    assert "train.jsonl: 4 blank lines skipped" in caplog.text


def test_fields_without_use_are_named_once_in_the_log(load_one, caplog):
    caplog.set_level(logging.INFO, "zh_embedder")
    load_one([record(n, type="normal", neg_rank=[n], id=str(n)) for n in range(3)])
    (message,) = [r.getMessage() for r in caplog.records]
    assert message.endswith("train.jsonl: fields that training does not use: neg_rank, type")


def test_each_task_and_kind_of_a_file_is_a_dataset_in_order_of_appearance(tmp_path, load):
    tasks = ["qa", "icl", "qa", None, "icl", "qa"]
    records = [record(n, task=task) for n, task in enumerate(tasks)]
    records.insert(3, {"text1": "甲", "text2": "乙", "score": 1, "task": "qa"})
    found = load(write(tmp_path / "train.jsonl", records))
    assert [(d.name, d.task, d.kind) for d in found] == [
        ("qa:train.jsonl", "qa", "group"),
        ("icl:train.jsonl", "icl", "group"),
        ("qa:train.jsonl", "qa", "pair"),
        ("no task:train.jsonl", None, "group"),
    ]
    assert [queries(d) for d in found] == [["问0", "问2", "问5"], ["问1", "问4"], ["甲"], ["问3"]]


def test_a_task_with_a_tab_in_its_name_stays_one_task(load_one):
    assert load_one([record(0, task="a\tb")]).task == "a\tb"


def test_the_same_file_twice_is_two_datasets_on_one_table(tmp_path, load, cache):
    path = write(tmp_path / "tool.jsonl", SOME)
    first, second = load(path, path)
    assert (first.name, second.name) == ("qa:tool.jsonl", "qa:tool.jsonl (2)")
    assert queries(first) == queries(second)
    assert len(arrow_files(cache)) == 1


def test_names_take_as_much_of_the_path_as_tells_files_apart(tmp_path, load):
    paths = [write(tmp_path / name, [record(n)]) for n, name in enumerate(("a/x/train.jsonl", "b/x/train.jsonl"))]
    assert [d.name for d in load(*paths)] == ["qa:a/x/train.jsonl", "qa:b/x/train.jsonl"]


@pytest.mark.parametrize(
    ("records", "teacher", "some_teacher", "negatives", "history"),
    [
        ([record(0)], False, False, True, False),
        ([record(0, neg=[]), record(1, neg=[])], False, False, False, False),
        ([record(0, neg=[]), record(1)], False, False, True, False),
        ([record(0, teacher_scores=[1, 0]), record(1, pos_scores=[1], neg_scores=[0])], True, True, True, False),
        ([record(0, teacher_scores=[1, 0]), record(1)], False, True, True, False),
        ([{"query": "问", "history": ["一"], "task": "qa"}, record(1)], False, False, True, True),
    ],
)
def test_a_dataset_knows_what_its_records_have(records, teacher, some_teacher, negatives, history, load_one):
    d = load_one(records)
    assert (d.has_teacher, d.some_teacher, d.has_negatives, d.has_history) == (
        teacher,
        some_teacher,
        negatives,
        history,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sts.jsonl", True),
        ("sts_no_in_batch_neg.jsonl", False),
        ("sts_no_in_batch_neg.jsonl.gz", False),
        ("sts_no_in_batch_neg/part1.jsonl", False),
        ("no_in_batch_neg_sts.jsonl", True),
    ],
)
def test_a_name_ending_in_no_in_batch_neg_switches_in_batch_negatives_off(name, expected, load_one):
    data = gzip.compress(lines(SOME), mtime=0) if name.endswith(".gz") else SOME
    assert load_one(data, name).in_batch_negatives is expected


@pytest.mark.parametrize(
    ("other", "kind", "expected"),
    [
        (
            {"text1": "甲", "text2": "乙", "score": 1, "task": "sts"},
            "pair",
            Record("甲", ["乙"], [], None, None, score=1.0),
        ),
        ({"text": "甲", "label": 7}, "labelled", Record("甲", [], [], None, None, label="7")),
    ],
)
def test_pairs_and_labelled_texts_are_datasets_of_their_own(other, kind, expected, tmp_path, load):
    path = write(tmp_path / "mixed.jsonl", [record(0), other, other])
    group, odd = load(path)
    assert (group.kind, odd.kind) == ("group", kind)
    assert odd[1] == odd.read([0, 1])[0] == expected
    assert odd.line(0) == 2


def test_the_range_of_the_scores_is_that_of_the_datasets_rows(tmp_path, load):
    rows = [{"text1": "甲", "text2": "乙", "score": s, "task": "sts"} for s in (2, 5, -1, 0)]
    (pairs,) = load(write(tmp_path / "pairs.jsonl", rows))
    assert score_range(pairs) == (-1.0, 5.0)
    assert score_range(with_parts(pairs, [replace(pairs.parts[0], rows=np.array([0, 3]))])) == (0.0, 2.0)


def test_a_sample_of_teacher_scores_is_of_the_datasets_rows(tmp_path, load, monkeypatch):
    rows = [{"query": f"问{i}", "pos": ["甲"], "neg": ["乙"], "teacher_scores": [i, 0]} for i in range(20)]
    (scored,) = load(write(tmp_path / "scored.jsonl", rows))
    assert scores_sample(scored) == [[i, 0.0] for i in range(20)]
    monkeypatch.setattr("zh_embedder.data.records.SCORES_SAMPLE", 5)
    some = scores_sample(scored)
    assert len(some) == 5
    assert len({first for first, _ in some}) == 5


# ---- what is refused ------------------------------------------------------------------------------------------------

GOOD = lines([record(0)])


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", lines(SOME).decode().encode("utf-16"), "a.jsonl:1: the file is UTF-16, expected UTF-8"),
        ("a.jsonl", b"\xfe\xff" + GOOD.decode().encode("utf-16-be"), "a.jsonl:1: the file is UTF-16, expected UTF-8"),
        ("a.jsonl", GOOD.decode().encode("utf-16-le"), "a.jsonl:1: not UTF-8 (byte 23), it looks like UTF-16"),
        (
            "a.jsonl",
            gzip.compress(GOOD),
            "a.jsonl:1: not UTF-8 (byte 2), it is packed with gzip, expected a name that ",
        ),
        ("a.jsonl", b"PK\x03\x04\xff\x00", "a.jsonl:1: not UTF-8 (byte 5), it is a zip archive"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd\x00", "a.jsonl:1: not UTF-8 (byte 2), it is packed with zstd"),
        ("a.jsonl", bytes(range(253, 128, -1)) + b"\x00", "a.jsonl:1: not UTF-8 (byte 1: fd fc"),
        (
            "a.jsonl",
            GOOD.decode().encode("gb18030"),
            "a.jsonl:1: not UTF-8 (byte 12), it may be Big5 or GB18030: convert",
        ),
        (
            "a.jsonl",
            GOOD + b'{"query": "\xff\xff"}\n',
            "a.jsonl:2: not UTF-8 (byte 12: ff ff 22 7d), expected a UTF-8 file",
        ),
        ("a.jsonl", GOOD + b"\n{\n", "a.jsonl:3: not valid JSON at character 2: "),
        ("a.json", b"[" + GOOD.strip() + b"]", "a.json:1: a JSON array, expected JSON Lines"),
        ("a.json", b"[\n" + GOOD.strip() + b"\n]", "a.json:1: a JSON array, expected JSON Lines"),
        (
            "a.jsonl",
            GOOD + lines([record(1, pos="答")]),
            "a.jsonl:2: pos: got '答', expected a list of strings: [\"答\"]",
        ),
        ("a.jsonl", b"", "a.jsonl: the file holds no records"),
        ("a.jsonl", b"\n \n", "a.jsonl: the file holds no records"),
        ("a.jsonl.gz", GOOD, "a.jsonl.gz: cannot be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(lines(SOME), mtime=0)[:40], "a.jsonl.gz: cannot be read: Compressed file ended"),
        (
            "a.jsonl.gz",
            gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 40,
            "a.jsonl.gz: cannot be read: Error -3 while decompress",
        ),
        ("a.jsonl.zst", GOOD, "a.jsonl.zst: cannot be read: ZSTD decompress failed"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_and_nothing_is_left_behind(name, data, expected, tmp_path, load, cache):
    path = write(tmp_path / name, data)
    assert refusal(load, path)[0].startswith(expected)
    assert not cache.parent.exists()


def test_a_zst_file_that_ends_too_early_is_refused(tmp_path, load):
    with pa.output_stream(str(tmp_path / "whole"), compression="zstd") as stream:
        stream.write(lines(record(n) for n in range(5000)))
    path = write(tmp_path / "a.jsonl.zst", (tmp_path / "whole").read_bytes()[:-100])
    assert refusal(load, path) == ["a.jsonl.zst: cannot be read: Truncated compressed stream"]


def test_an_error_leaves_an_old_cache_exactly_as_it_was(tmp_path, load, cache):
    load(write(tmp_path / "good.jsonl", SOME))
    before = everything(cache)
    refusal(load, write(tmp_path / "bad.jsonl", lines(SOME) + b"x\n"))
    after = everything(cache)
    folders = {str(p) for p in cache.rglob("*") if p.is_dir()}  # their time changes when a name comes and goes
    assert before.keys() == after.keys()
    assert [after[n] for n in after if n not in folders] == [before[n] for n in before if n not in folders]


@pytest.mark.parametrize(("wrong", "shown", "more"), [(1, 1, None), (20, 20, None), (21, 20, 1), (25, 20, 5)])
def test_up_to_20_wrong_lines_are_shown_then_counted(wrong, shown, more, tmp_path, load):
    path = write(tmp_path / "a.jsonl", GOOD + lines({"query": n} for n in range(wrong)) + GOOD)
    messages = refusal(load, path)
    assert [m.split(": ")[0] for m in messages[:shown]] == [f"a.jsonl:{n}" for n in range(2, 2 + shown)]
    assert messages[shown:] == ([] if more is None else [f"... and {more} more"])


def test_the_wrong_lines_of_all_files_are_counted_together(tmp_path, load):
    paths = [
        write(tmp_path / f"{n}.jsonl", lines({"query": i} for i in range(wrong))) for n, wrong in enumerate((3, 25, 7))
    ]
    messages = refusal(load, *paths)
    assert [m.split(":")[0] for m in messages[:-1]] == ["0.jsonl"] * 3 + ["1.jsonl"] * 17
    assert messages[-1] == "... and 15 more"  # 3 + 25 + 7 - 20


def test_a_mistake_of_many_lines_is_one_message_with_their_number(tmp_path, load):
    others = [{"id": "0" * 5000}] * 3967  # several blocks
    messages = refusal(load, write(tmp_path / "a.jsonl", GOOD + lines([*others, {"query": 1}, *others[:1]]) + GOOD))
    assert len(messages) == 2
    assert messages[0].startswith("a.jsonl:2: query: is missing; found 'id', expected ")
    assert messages[0].endswith(" (and in 3,967 more lines)")
    assert messages[1].startswith("a.jsonl:3969: query: got 1, expected a string")


def test_a_wrong_line_at_the_end_of_a_long_file_leaves_nothing_behind(tmp_path, load, cache):
    path = write(tmp_path / "a.jsonl", lines(record(n) for n in range(5000)) + b"x\n")  # more than one write
    assert len(refusal(load, path)) == 1
    assert not cache.parent.exists()


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_a_file_is_read_once_and_its_table_is_used_again(tmp_path, load, cache, caplog):
    caplog.set_level(logging.INFO, "zh_embedder")
    path = write(tmp_path / "train.jsonl", b"\n" + lines(SOME))
    load(path)
    for lock in cache.rglob("*.lock"):
        lock.unlink()
    before = everything(cache)
    (again,) = load(path)  # touches nothing, so a cache that may only be read serves too
    assert everything(cache) == before
    assert caplog.text.count("blank lines skipped") == 1  # said while reading
    assert queries(again) == [r["query"] for r in SOME]


def test_a_copy_of_a_file_uses_the_same_table(tmp_path, load, cache):
    load(write(tmp_path / "a" / "train.jsonl", SOME))
    load(write(tmp_path / "b" / "other.json", SOME))
    assert len(arrow_files(cache)) == 1


def test_changed_content_of_the_same_length_makes_a_new_table(tmp_path, load, cache):
    path = write(tmp_path / "train.jsonl", [record(1)])
    (old,) = load(path)
    write(path, [record(2)])
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 1_000_000))
    (new,) = load(path)
    assert (queries(old), queries(new)) == (["问1"], ["问2"])
    assert len(arrow_files(cache)) == 2


@pytest.fixture
def hashed(monkeypatch):
    """The files that were read through for their hash."""
    read, real = [], tables._hash.__wrapped__
    monkeypatch.setattr(tables, "_hash", lambda path, *seen: (read.append(path.name), real(path, *seen))[1])
    return read


def test_a_file_that_did_not_change_is_not_read_again_for_its_hash(tmp_path, load, hashed, monkeypatch):
    monkeypatch.setattr(tables, "CLOCK_TICK", -1.0)
    path = write(tmp_path / "train.jsonl", [record(1)])
    first, again = load(path)[0], load(path)[0]
    assert hashed == ["train.jsonl"]
    assert first.parts[0].content == again.parts[0].content == content_hash(path)
    times = path.stat()
    write(path, [record(2)])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size and, it says, age
    (new,) = load(path)
    assert queries(new) == ["问2"]
    other = write(tmp_path / "other.jsonl", [record(3)])
    other.rename(path)
    assert queries(load(path)[0]) == ["问3"]


def test_a_file_that_changed_a_moment_ago_may_change_unseen_and_is_read_again(tmp_path, load, hashed):
    path = write(tmp_path / "train.jsonl", [record(1)])
    assert [queries(load(path)[0]) for _ in range(2)] == [["问1"]] * 2
    assert hashed == ["train.jsonl"] * 2


@pytest.mark.parametrize("broken", [None, 57, 58])
def test_many_processes_read_what_one_reads(broken, tmp_path, load, cache, monkeypatch):
    """Blocks of a few lines, in one process and in three: the same table, or the same messages."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 300)
    monkeypatch.setattr(tables, "BLOCK_BYTES", 300)
    rows = [lines([record(n, neg=["否"] * (n % 5))]) for n in range(100)]
    rows[3], rows[50] = b"\n", b"  \n"
    if broken:
        rows[10] = b"x\n"
        rows[broken] = '{"query": "问"}\n'.encode("gb18030")
    found = []
    for count in (1, 3):
        monkeypatch.setattr(tables, "processes_for", lambda _, count=count: count)
        path = write(tmp_path / str(count) / "train.jsonl", b"".join(rows))
        os.utime(path, ns=(count, count))
        if broken:
            found.append(refusal(load, path))
        else:
            (dataset,) = load(path)
            found.append((queries(dataset), [dataset.line(row) for row in range(len(dataset))]))
            arrow_files(cache)[0].unlink()
    assert found[0] == found[1]
    if broken:  # what follows the line in another encoding is not read
        assert [m.split(": ")[:2] for m in found[0]] == [
            ["train.jsonl:11", "not valid JSON at character 1"],
            [f"train.jsonl:{broken + 1}", "not UTF-8 (byte 12), it may be Big5 or GB18030"],
        ]
    else:
        assert len(found[0][0]) == 98
        assert found[0][1] == [n for n in range(1, 101) if n not in (4, 51)]


def test_a_file_that_is_not_what_its_suffix_says_is_refused_though_its_bytes_are_cached(tmp_path, load):
    load(write(tmp_path / "a.jsonl", SOME))
    assert "Not a gzipped file" in refusal(load, write(tmp_path / "a.jsonl.gz", SOME))[0]


def test_a_table_is_mapped_from_its_file_and_not_held_in_memory(tmp_path, load, cache):
    path = write(tmp_path / "train.jsonl", [record(n, neg=["很长的文字" * 200]) for n in range(1000)])
    load(path)
    (file,) = arrow_files(cache)
    assert file.stat().st_size > 3_000_000  # 1000 records of 1000 characters of 3 bytes
    before = pa.total_allocated_bytes()
    (dataset,) = load(path)
    assert dataset[999].neg == ["很长的文字" * 200]
    assert pa.total_allocated_bytes() - before < 100_000
    assert [entry["filename"] for entry in dataset.parts[0].table.cache_files] == [str(file)]


def test_the_cache_is_where_the_flag_says_else_the_environment_else_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("ZH_EMBEDDER_CACHE", "/scratch")
    assert cache_folder("given") == Path("given/records")
    assert cache_folder(None) == Path("/scratch/records")
    monkeypatch.delenv("ZH_EMBEDDER_CACHE")
    assert cache_folder(None) == Path("/home/someone/.cache/zh_embedder/records")


RANK = """
import logging, sys, time
from pathlib import Path
import datasets, filelock, tqdm.auto
from zh_embedder.core.errors import UserError
from zh_embedder.data.records import load_datasets
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
path, cache, go = map(Path, sys.argv[1:4])
Path(sys.argv[4]).touch()  # ready
while not go.exists():
    time.sleep(0.001)
try:
    print([(d.name, len(d), d[len(d) - 1].query) for d in load_datasets([path], cache_dir=str(cache))])
except UserError as error:
    print("refused", error)
"""


def run_ranks(count: int, path: Path, cache: Path, go: Path) -> list[list[str]]:
    """Load a file in several processes that start at the same moment; what each of them said."""
    ready = [go.with_name(f"ready-{number}") for number in range(count)]
    ranks = [start([*forked(), "-c", RANK, path, cache, go, mark], go.parent, apart=True) for mark in ready]
    while not all(mark.exists() for mark in ready):
        assert [rank.poll() for rank in ranks] == [None] * count, [rank.communicate() for rank in ranks]
        time.sleep(0.001)
    go.touch()
    results = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * count, results
    return [out.splitlines() for out, _ in results]


@pytest.mark.slow
def test_two_processes_at_once_prepare_a_file_once(tmp_path, cache):
    path = write(tmp_path / "train.jsonl", b"\n" + lines(record(n) for n in range(30_000)))
    said = run_ranks(2, path, cache, tmp_path / "go")
    assert [out[-1] for out in said] == ["[('qa:train.jsonl', 30000, '问29999')]"] * 2
    readers = [any("1 blank lines skipped" in line for line in out) for out in said]
    assert sorted(readers) == [False, True]
    (file,) = arrow_files(cache)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.slow
def test_processes_that_refuse_a_file_at_once_all_say_why_and_leave_no_file(tmp_path, cache):
    path = write(tmp_path / "train.jsonl", lines(record(n) for n in range(10_000)) + b"x\n")
    said = run_ranks(3, path, cache, tmp_path / "go")
    assert said == [[f"refused {path}:10001: not valid JSON at character 1: Expecting value"]] * 3
    assert [p for p in cache.rglob("*") if p.is_file()] == []


# ---- fewer records --------------------------------------------------------------------------------------------------

SCORES = {"问0": [0.9, 0.1], "问1": [0.5, 0.45], "问2": [0.2, 0.6], "问3": None, "问4": [0.125, 0.375]}


@pytest.fixture
def scored(load_one):
    return load_one([record(n, teacher_scores=SCORES[f"问{n}"]) for n in range(5)])


@pytest.mark.parametrize(
    ("minimum", "margin", "kept"),
    [
        (None, None, "01234"),
        (0.5, None, "0123"),  # best 0.9, 0.5, 0.6, none, 0.375
        (0.6, None, "023"),
        (None, 0.25, "0234"),  # apart by 0.8, 0.05, 0.4, none, 0.25
        (0.6, 0.5, "03"),
        (2.0, None, "3"),
    ],
)
def test_records_are_dropped_below_the_least_best_score_or_difference(minimum, margin, kept, scored):
    assert queries(filter_scores(scored, minimum=minimum, margin=margin)) == [f"问{n}" for n in kept]
    assert queries(scored) == [f"问{n}" for n in range(5)]  # the given one is unchanged


@pytest.fixture
def hundred(tmp_path, load):
    """100 records in two parts of 40 and 60."""
    for name, numbers in (("a", range(40)), ("b", range(40, 100))):
        write(tmp_path / "parts" / f"{name}.jsonl", [record(n) for n in numbers])
    ((merged,), _) = merge_small(load(*sorted((tmp_path / "parts").iterdir())), small=61, drop=0)
    assert [len(part.rows) for part in merged.parts] == [40, 60]
    return merged


@pytest.mark.parametrize("rows", [[], [0], [99, 0, 40, 39, 0], range(30, 50), range(40, 100)])
def test_many_records_are_read_as_one_by_one(rows, hundred):
    assert hundred.read(rows) == [hundred[row] for row in rows]


def test_a_limited_dataset_is_drawn_by_its_seed_and_stays_in_file_order(hundred):
    numbers = lambda dataset: [int(q.removeprefix("问")) for q in queries(dataset)]  # noqa: E731
    drawn = numbers(limit_rows(hundred, 30, seed=1))
    assert drawn == numbers(limit_rows(hundred, 30, seed=1))
    assert drawn != numbers(limit_rows(hundred, 30, seed=2))
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 30
    assert min(drawn) < 40 <= max(drawn)  # from both parts
    assert len(hundred) == 100


def test_every_record_is_drawn_as_often_as_any_other(hundred):
    counts = np.zeros(100)
    for seed in range(400):
        for part, first in zip(limit_rows(hundred, 30, seed=seed).parts, (0, 40), strict=True):
            counts[first + part.rows] += 1
    # 400 draws at 0.3 each: mean 120, standard deviation sqrt(400 * 0.3 * 0.7) = 9.2
    assert counts.mean() == 120
    assert abs(counts - 120).max() < 5 * 9.2


@pytest.mark.parametrize("count", [None, 100, 101])
def test_a_limit_that_all_records_meet_changes_nothing(count, hundred):
    assert limit_rows(hundred, count, seed=1) is hundred


def test_limiting_what_was_filtered_draws_from_what_is_left(scored):
    left = filter_scores(scored, minimum=0.5, margin=None)
    assert set(queries(limit_rows(left, 3, seed=0))) < {"问0", "问1", "问2", "问3"}


@pytest.fixture
def folders(tmp_path, load):
    """Two folders: one with files of 3, 2, 10 and 4 (another task), one with a file of 2."""
    sizes = {"x/a": (3, "qa"), "x/b": (2, "qa"), "x/c": (10, "qa"), "x/d": (4, "icl"), "y/a": (2, "qa")}
    paths = [
        write(tmp_path / f"{name}.jsonl", [record(f"{name}{n}", task=task) for n in range(size)])
        for name, (size, task) in sizes.items()
    ]
    return load(*paths)


@pytest.mark.parametrize("small", [5, 10])  # 10 records are not fewer than 10
def test_small_datasets_of_one_folder_and_task_become_one(small, folders):
    found, notes = merge_small(folders, small=small, drop=0)
    assert [(d.name, len(d)) for d in found] == [
        ("qa:x/c.jsonl", 10),
        ("qa:x (2 small files)", 5),
        ("icl:x/d.jsonl", 4),
        ("qa:y/a.jsonl", 2),
    ]
    assert queries(found[1]) == ["问x/a0", "问x/a1", "问x/a2", "问x/b0", "问x/b1"]
    assert notes == [f"small_threshold {small}: qa:x (2 small files) holds qa:x/a.jsonl, qa:x/b.jsonl"]


def test_what_is_merged_and_still_too_small_is_dropped_and_said(folders):
    found, notes = merge_small(folders, small=5, drop=5)
    assert [d.name for d in found] == ["qa:x/c.jsonl", "qa:x (2 small files)"]
    assert notes[1:] == [
        "drop_threshold 5: icl:x/d.jsonl dropped, 4 records",
        "drop_threshold 5: qa:y/a.jsonl dropped, 2 records",
    ]


def test_without_a_threshold_nothing_is_merged_or_dropped(folders):
    found, notes = merge_small(folders, small=0, drop=100)
    assert (found, notes) == (folders, [])


def test_a_merged_dataset_has_a_teacher_only_if_all_its_records_have(tmp_path, load):
    scores = {"teacher_scores": [1, 0]}
    rows = {"a": [record(0, **scores)], "b": [record(1, neg=[])], "c_no_in_batch_neg": [record(2, **scores)]}
    found, _ = merge_small(load(*(write(tmp_path / f"{n}.jsonl", r) for n, r in rows.items())), small=9, drop=0)
    assert [(len(d), d.has_teacher, d.some_teacher, d.has_negatives, d.in_batch_negatives) for d in found] == [
        (2, False, True, True, True),
        (1, True, True, True, False),
    ]


# ---- real data ------------------------------------------------------------------------------------------------------

REAL = {
    "qa/cmrc2018": 2001,
    "qa/medical": 3654,
    "law/stard": 843,
    "convsearch/kdconv": 3199,
    "chat/smile": 1249,
    "lrlm/lctt": 3000,
    "icl/ewect": 3000,
    "tool/acebench": 597,
    "title/csl": 2799,
}


@pytest.mark.real
def test_every_real_training_file_loads_with_the_counts_of_its_readme(real_data, load):
    files = find_files([f"llm-embedder:{name}/train.jsonl*" for name in REAL], data_root=str(real_data))
    found = load(*files)
    assert {Path(d.path).relative_to(real_data).parent.as_posix(): len(d) for d in found} == REAL
    assert [d.task for d in found] == [name.split("/")[0] for name in REAL]
    assert sum(len(d) for d in found) == 20_342
    assert len({d.name for d in found}) == len(found)


@pytest.mark.real
@pytest.mark.parametrize("name", ["qa/cmrc2018", "tool/acebench"])
def test_real_records_come_back_as_the_file_has_them(name, real_data, load):
    (path,) = real_data.glob(f"{name}/train.jsonl*")
    data = path.read_bytes()
    raw = [json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()]
    (dataset,) = load(path)
    found = [dataset[row] for row in range(len(dataset))]
    assert [(r.query, r.pos, r.neg) for r in found] == [(r["query"], r["pos"], r["neg"]) for r in raw]


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raw/medical/neike_first500lines_gb18030.csv", ":1: not valid JSON at character 1"),
        ("raw/medical/neike_first500lines_gb18030.csv", ":2: not UTF-8 (byte 1), it looks like GB18030"),
        ("raw/cmrc2018/cmrc2018_trial.json", ":1: "),
    ],
)
def test_real_files_of_other_formats_are_refused_line_by_line(name, expected, real_data, load, cache):
    with pytest.raises(UserError) as error:
        load(real_data / name)
    assert f"{real_data / name}{expected}" in str(error.value)
    assert not cache.parent.exists()
