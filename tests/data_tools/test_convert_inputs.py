"""What users' files are really like: objects and lists in cells, empty cells, numbered classes, Arrow, damage."""

import gzip
import json
import logging
import zipfile
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.convert import main
from data_tools.converting.values import texts_of, written
from tests.data_tools.test_convert import fails, run, write
from tests.jsonl import read
from tests.jsonl import write as write_lines
from zh_embedder.core.errors import UserError
from zh_embedder.text.empty_cells import EMPTY_CELLS

COLUMNS = ("--from", "columns", "--task", "qa", "--columns", "query=query", "pos=pos")
PASSAGE = {"docid": "1", "title": "长江", "text": "全长约6300公里。"}
NLI = [
    {"sentence1": "一个男人在弹吉他", "sentence2": "有人在弹乐器", "label": 1},
    {"sentence1": "一个男人在弹吉他", "sentence2": "他是专业歌手", "label": 0},
    {"sentence1": "一个男人在弹吉他", "sentence2": "没有人在弹琴", "label": 2},
]


# ---- objects and lists ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True], ids=["known", "columns"])
def test_passages_become_their_title_and_text(tmp_path, caplog, named):
    caplog.set_level(logging.INFO)
    rows = [{"query": "长江？", "positive_passages": [PASSAGE], "negative_passages": [{"title": None, "text": "黄河"}]}]
    words = ["--columns", "query=query", "pos=positive_passages", "neg=negative_passages"] if named else []
    words += ["--from", "columns"] if named else []
    (record,) = run(tmp_path, write_lines(tmp_path / "t.jsonl", rows), "--task", "qa", *words)
    assert (record["pos"], record["neg"]) == (["长江 全长约6300公里。"], ["黄河"])
    assert "the fields docid, left out" in caplog.text


def test_passages_of_dpr_have_hard_negatives_and_answers(tmp_path):
    row = {
        "question": "长江？",
        "answers": ["6300"],
        "positive_ctxs": [PASSAGE],
        "hard_negative_ctxs": [{"text": "黄河"}],
    }
    (record,) = run(tmp_path, write(tmp_path / "d.json", json.dumps([row])), "--task", "qa")
    assert (record["query"], record["neg"], record["answers"]) == ("长江？", ["黄河"], ["6300"])


def test_messages_are_read_for_their_content(tmp_path):
    row = {
        "messages": [{"role": "user", "content": "怎么退货"}],
        "positive_messages": [[{"role": "user", "content": "七天内"}]],
    }
    source = write_lines(tmp_path / "m.jsonl", [row])
    words = ["--from", "columns", "--columns", "query=messages", "pos=positive_messages"]
    for more in ([], words):
        (record,) = run(tmp_path, source, "--task", "qa", *more, "--overwrite")
        assert (record["query"], record["pos"]) == ("怎么退货", ["七天内"])
    scored = write_lines(tmp_path / "s.jsonl", [row | {"label": 0.5}])
    fails(tmp_path, r"s.jsonl:1: label: got 0.5, expected --as pairs", scored, "--task", "sts")
    (record,) = run(tmp_path, scored, "--task", "sts", "--as", "pairs")
    assert (record["text1"], record["text2"], record["score"]) == ("怎么退货", "七天内", 0.5)
    two = write_lines(tmp_path / "two.jsonl", [row | {"messages": row["messages"] * 2}])
    fails(tmp_path, r"two.jsonl:1: messages: got 2 messages \(user, user\), expected one", two, "--task", "qa")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1}, "query: got an object with 'a', expected a text"),
        (["x"], "query: got a list of 1, expected a text"),
        (True, "query: got True, expected a text"),
        (float("inf"), "query: got inf, expected a text or a finite number"),
        ("['甲', '乙']", "query: got .*, expected one text, not a list"),
        ("{'a': '甲'}", "query: got .*, expected one text, not a list or an object"),
    ],
)
def test_what_is_no_text_never_becomes_one(tmp_path, value, message):
    source = write_lines(tmp_path / "x.jsonl", [{"query": value, "pos": "答"}])
    fails(tmp_path, r"x.jsonl:1: " + message, source, *COLUMNS)


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("['七天内', '申请']", ["七天内", "申请"]),
        ("['七天内' '申请'\n '第三']", ["七天内", "申请", "第三"]),  # numpy's spelling
        ('["七天内", "a\\"b"]', ["七天内", 'a"b']),
        ("['七天内', nan]", ["七天内", ""]),
        ("[]", []),
        ("[{'title': '江', 'text': '长'}]", ["江 长"]),
        ("[1, 2]", ["[1, 2]"]),  # may be meant: a reference
        ("[笑] 你好 [哭]", ["[笑] 你好 [哭]"]),
        ('{"name": "f"}', ['{"name": "f"}']),
        ('[{"name": "f"}]', ['[{"name": "f"}]']),
        (7, ["7"]),
        ([7, {"text": "长"}, None], ["7", "长", ""]),
    ],
)
def test_a_list_written_into_a_cell_is_a_list_again(cell, found):
    assert texts_of(cell, "x") == found


@pytest.mark.parametrize("cell", ["['七天内', '申", "['甲' ... '乙']", "{'a': f(1)}", "[{'a': f(1)}]", "['\\N{x}']"])
def test_a_list_that_cannot_be_read_is_refused_or_a_text(cell):
    try:
        assert texts_of(cell, "x.csv:2: pos") == [cell]
        assert cell == "['七天内', '申"
    except UserError as error:
        assert str(error).startswith("x.csv:2: pos: got ")


def test_long_texts_that_look_like_lists_are_read_in_linear_time():
    for text in (
        "[" * 100000,
        "['" + "a" * 100000,
        "['a'" + " " * 100000 + "x]",
        "['" + "\\" * 100001 + "]",
        "[{'" * 50000 + "}]",
    ):
        with suppress(UserError):
            written(text, "x")


# ---- empty cells, classes -------------------------------------------------------------------------------------------


def test_empty_cells_are_dropped_and_counted_with_their_spelling(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [{"query": "问", "pos": [mark, "答"]} for mark in sorted(EMPTY_CELLS)]
    rows += [{"query": float("nan"), "pos": "答"}, {"query": "NULL", "pos": "答"}, {"query": "问", "pos": float("nan")}]
    records = run(tmp_path, write_lines(tmp_path / "x.jsonl", rows), *COLUMNS)
    assert [record["pos"] for record in records] == [["答"]] * len(EMPTY_CELLS)
    for mark in EMPTY_CELLS:
        assert f"1: pos texts that are empty cells ({mark}) left out" in caplog.text
    assert "dropped 1: query is an empty cell (NaN)" in caplog.text
    assert "dropped 1: query is an empty cell (NULL)" in caplog.text
    assert "dropped 1: no positive is left: pos texts that are empty cells (NaN)" in caplog.text


def test_a_class_may_be_called_none_but_not_nan(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [
        {"text": f"文{i}", "label": label} for i, label in enumerate(["None", "nan", "NULL", float("nan"), None, "a"])
    ]
    records = run(tmp_path, write_lines(tmp_path / "x.jsonl", rows), "--task", "topic")
    assert [record["label"] for record in records] == ["None", "NULL", "a"]
    assert "dropped 3: no label" in caplog.text


def test_a_score_that_is_empty_drops_the_pair_and_one_beyond_all_numbers_is_refused(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [
        {"text1": "甲", "text2": f"乙{i}", "score": score} for i, score in enumerate([1, float("nan"), "nan", None])
    ]
    source = write_lines(tmp_path / "x.jsonl", rows)
    assert len(run(tmp_path, source, "--from", "pairs")) == 1
    assert "dropped 3: no score" in caplog.text
    assert len(run(tmp_path, source, "--from", "pairs", "--as", "groups", "--task", "qa", name="g.jsonl")) == 1
    big = write_lines(tmp_path / "big.jsonl", [rows[0] | {"score": 10**400}])
    fails(tmp_path, r"big.jsonl:1: score: got 1000.*expected a number", big, "--from", "pairs")


@pytest.mark.parametrize(
    ("order", "pos"), [("neutral,entailment,contradiction", "有人在弹乐器"), ("蕴含,neutral,矛盾", "他是专业歌手")]
)
def test_numbered_classes_mean_what_labels_says(tmp_path, order, pos):
    (record,) = run(tmp_path, write_lines(tmp_path / "n.jsonl", NLI), "--from", "nli", "--labels", order)
    assert (record["pos"], record["neg"]) == ([pos], ["没有人在弹琴"])


def test_numbered_classes_are_refused_until_their_names_are_known(tmp_path):
    source = write_lines(tmp_path / "n.jsonl", NLI)
    fails(tmp_path, r"n.jsonl:1: label: got the number 1.*--labels with the names", source, "--from", "nli")
    for name in ("pairs", "sentence_transformers"):
        words = [source, "--from", name, "--task", "sts"]
        fails(tmp_path, r"n.jsonl: label: holds only whole numbers up to 2.*--from nli --labels", *words)
    known = ["--columns", "text1=sentence1", "text2=sentence2", "score=label"]
    assert len(run(tmp_path, source, "--from", "sentence_transformers", "--task", "sts", *known)) == 3
    for labels, message in (
        ("neutral,x", "unknown name 'x'"),
        ("neutral,neutral", "different names"),
        ("neutral", "different"),
    ):
        fails(tmp_path, f"--labels: .*{message}", source, "--from", "nli", "--labels", labels)
    fails(
        tmp_path,
        r"n.jsonl:3: label: got 2, expected a number of 0 to 1",
        source,
        "--from",
        "nli",
        "--labels",
        "neutral,entailment",
    )


def test_numbered_classes_are_named_by_the_file_itself(tmp_path):
    rows = [
        row | {"label_text": name} for row, name in zip(NLI, ("entailment", "neutral", "contradiction"), strict=True)
    ]
    (record,) = run(tmp_path, write_lines(tmp_path / "n.jsonl", rows), "--from", "nli")
    assert record["pos"] == ["有人在弹乐器"]
    features = {"label": {"names": ["neutral", "entailment", "contradiction"], "_type": "ClassLabel"}}
    table = pa.Table.from_pylist(NLI).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, tmp_path / "n.parquet")
    (record,) = run(tmp_path, tmp_path / "n.parquet", "--from", "nli", "--overwrite")
    assert record["pos"] == ["有人在弹乐器"]


# ---- containers -----------------------------------------------------------------------------------------------------


def saved(folder, rows):
    """A folder as `save_to_disk` writes it."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    write(folder / "state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


def test_folders_that_save_to_disk_wrote_are_read(tmp_path):
    rows = [{"query": "问一", "pos": ["答一", "答"]}, {"query": "问二", "pos": None}]
    one = saved(tmp_path / "one", rows)
    (record,) = run(tmp_path, one, *COLUMNS)
    assert (record["pos"], record["id"]) == (["答一", "答"], "one-1")
    (guessed,) = run(tmp_path, one, "--task", "qa", name="guessed.jsonl")
    assert guessed == record
    for name in ("train", "test"):
        saved(tmp_path / "two" / name, rows)
    write(tmp_path / "two" / "dataset_dict.json", '{"splits": ["train", "test"]}')
    assert len(run(tmp_path, tmp_path / "two", *COLUMNS, "--split", "test", name="test.jsonl")) == 1
    fails(tmp_path, r"--split: no 'tets' in .*two; did you mean 'test'", tmp_path / "two", *COLUMNS, "--split", "tets")
    write(one / "state.json", json.dumps({"_data_files": [{"filename": "../x.arrow"}]}))
    fails(tmp_path, r"state.json: names '../x.arrow', which is not in the folder", one, *COLUMNS)


def test_a_workbook_is_named_and_an_evaluation_set_is_found_below_a_folder(tmp_path):
    fails(
        tmp_path, r"INPUT: .*x.xlsx: is an Excel workbook, expected a CSV", write(tmp_path / "x.xlsx", "PK"), *COLUMNS
    )
    folder = tmp_path / "set" / "test"
    write_lines(folder / "corpus.jsonl", [{"_id": "d", "text": "文"}])
    write_lines(folder / "queries.jsonl", [{"_id": "q", "text": "问"}])
    write(folder / "qrels.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\n")
    fails(tmp_path, r"corpus.jsonl: looks like a file of an evaluation set", folder / "corpus.jsonl", "--task", "qa")
    for words in ([], ["--from", "beir"]):
        (record,) = run(tmp_path, tmp_path / "set", "--task", "qa", *words, name=f"{len(words)}.jsonl")
        assert (record["query"], record["pos"]) == ("问", ["文"])


def test_a_set_of_llama_index_becomes_records_and_an_evaluation_folder(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = {
        "queries": {"q1": "问", "q2": "问二", "q3": "无"},
        "corpus": {"d1": "文", "d2": "文二", "d3": ""},
        "relevant_docs": {"q1": ["d1"], "q2": ["d2", "dx", "d3"]},
        "mode": "text",
    }
    source = write(tmp_path / "l.json", json.dumps(data))
    records = run(tmp_path, source, "--task", "qa", "--output_eval", tmp_path / "eval")
    assert [(record["query"], record["pos"]) for record in records] == [("问", ["文"]), ("问二", ["文二"])]
    assert "dropped 1: no key is judged relevant to it" in caplog.text
    assert read(tmp_path / "eval" / "corpus.jsonl") == [{"_id": "d1", "text": "文"}, {"_id": "d2", "text": "文二"}]
    assert [row["_id"] for row in read(tmp_path / "eval" / "queries.jsonl")] == ["q1", "q2", "q3"]
    assert (tmp_path / "eval" / "qrels.tsv").read_text("utf-8").splitlines()[1:] == ["q1\td1\t1", "q2\td2\t1"]
    assert "1 text, 2 judgements" in caplog.text
    other = write_lines(tmp_path / "f.jsonl", [{"query": "问", "pos": ["答"]}])
    fails(
        tmp_path,
        "--output_eval: got an input of flagembedding, expected one of llama_index",
        other,
        "--task",
        "qa",
        "--output_eval",
        tmp_path / "e",
    )


# ---- damage ---------------------------------------------------------------------------------------------------------

LINES = "".join(f'{{"query": "第{i}问", "pos": ["答{i * i}"]}}\n' for i in range(500)).encode()


def damaged(path, suffix):
    """A file that ends too early."""
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.jsonl", LINES)
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([{"query": "问", "pos": "答"}]), path)
    else:
        path.write_bytes(gzip.compress(LINES) if suffix == "gz" else pa.compress(LINES, codec="zstd", asbytes=True))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize("suffix", ["gz", "zst", "zip", "parquet"])
def test_a_file_that_was_cut_short_is_one_line_that_names_it(tmp_path, capsys, suffix):
    path = damaged(tmp_path / ("x.parquet" if suffix == "parquet" else f"x.jsonl.{suffix}"), suffix)
    for words in (COLUMNS, ("--task", "qa")):
        assert main([str(path), *words, "--output", str(tmp_path / "out" / "r.jsonl")]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert line.startswith(f"error: {path}: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,query,pos\na,b,c\n", r"x.csv:1: column 'query' is there twice"),
        ('query,pos\na,b\nc,"d\ne,f\n', r"x.csv:3: got 'd\\ne,f\\n', expected a closing \" for the quote"),
    ],
)
def test_tables_that_would_lose_cells_are_refused(tmp_path, text, message):
    fails(tmp_path, message, write(tmp_path / "x.csv", text), *COLUMNS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"query": "一", "query": "二", "pos": ["答"]}', r"x.jsonl:1: .*'query': appears twice in an object"),
        ('{"query": ' + "[" * 100000, "x.jsonl:1: JSON nested too deeply"),
        (
            '{"query": "一", "pos": ["答"], "task": "../../x"}',
            r"x.jsonl:1: task: got '../../x', expected a task that can be",
        ),
        ('{"query": "一", "pos": [[]], "neg": ["x"]}', r"x.jsonl:1: pos\[0\]: got \[\], expected a string"),
        ('{"query": "\\ud83d", "pos": ["答"]}', "half of a surrogate pair"),
    ],
)
def test_objects_that_readers_would_take_differently_are_refused(tmp_path, text, message):
    fails(
        tmp_path,
        message,
        write(tmp_path / "x.jsonl", text),
        "--from",
        "llm_embedder",
        "--task" if "task" not in text else "--limit",
        "qa" if "task" not in text else "1",
    )


@pytest.mark.parametrize(
    "template",
    ["{text:>10000000000} {label}", "{text:d} {label}", "{text.x} {label}", "{text!r}{label}", "{text}", "{", "{0}"],
)
def test_templates_take_names_alone(tmp_path, template):
    source = write_lines(tmp_path / "x.jsonl", [{"text": f"文{i}", "label": "a"} for i in range(3)])
    fails(tmp_path, r"--template: got ", source, "--as", "icl", "--template", template)


@pytest.mark.parametrize("name", ["base64", "rot13", "undefined", "punycode", "nix"])
def test_encodings_are_those_of_texts(tmp_path, name):
    fails(tmp_path, "--encoding: unknown name", write_lines(tmp_path / "x.jsonl", [{}]), "--encoding", name, *COLUMNS)


def test_equal_records_are_equal_bytes_in_gzip(tmp_path):
    source = write_lines(tmp_path / "x.jsonl", [{"query": "问", "pos": ["答"]}])
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        run(tmp_path, source, "--task", "qa", name=name)
    first, second = ((tmp_path / "out" / name).read_bytes() for name in ("a.jsonl.gz", "b.jsonl.gz"))
    assert first == second
    assert first[3:8] == bytes(5)  # neither a name nor a time
