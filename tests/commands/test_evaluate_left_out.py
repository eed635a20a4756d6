"""What sets leave out, from the files to the table, the JSON, the page and the log of training, each count held."""

import json
import re

import pytest

from tests.evaluation.test_left_out import HEADER, KEYS, QUERIES, folder
from tests.jsonl import write
from tests.processes import ROOT
from zh_embedder.cli import main

DEMO = ROOT / "examples" / "demo"
# Counts that differ, so that none can pass for another.
MORE = [{"_id": f"u{n}", "text": f"问题{n}"} for n in range(4)]
QRELS = (
    f"{HEADER}q0\td0\t1\nq0\td0\t1\nq1\td1\t1\nq2\td2\t1\n"
    + "".join(f"x{n}\td1\t1\n" for n in range(3))
    + "".join(f"q0\tz{n}\t1\n" for n in range(5))
    + "".join(f"u{n}\td1\t0\n" for n in range(2))
)
COUNTS = {
    "unknown_queries": (3, "x0"),
    "unjudged_queries": (2, "u2"),
    "unknown_keys": (5, "q0 z0"),
    "no_relevant": (2, "u0"),
    "repeated_judgements": (1, "q0 d0"),
}
LINES = [
    "3 judged queries are missing from the queries: they are left out of the mean (such as 'x0')",
    "2 queries have no judgement: they are not measured (such as 'u2')",
    "5 judgements name keys that are missing from the corpus: relevant ones count as not found (such as 'q0 z0')",
    "2 queries have no relevant key: they count as 0 (such as 'u0')",
    "1 judgement is there more than once: it counts once (such as 'q0 d0')",
]


@pytest.fixture
def partial(tmp_path):
    """A set that lacks something of every kind, with what it lacks."""
    return folder(tmp_path, queries=[*QUERIES, *MORE], keys=KEYS, qrels=QRELS)


def counts(found) -> dict[str, tuple[int, str]]:
    return {one["kind"]: (one["count"], one["example"]) for one in found}


def page_of(path) -> dict:
    """The data that a page carries."""
    (found,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', path.read_text("utf-8"))
    return json.loads(found)


def test_what_a_set_leaves_out_is_in_front_of_the_table_in_the_json_and_on_the_page(
    tmp_path, partial, tiny_bert, capsys
):
    whole = folder(tmp_path, name="whole")
    files = ("--json", tmp_path / "scores.json", "--report", tmp_path / "page.html")
    words = ["evaluate", tiny_bert, "--data", partial, whole, "--metrics", "recall@10", "--dtype", "fp32", *files]
    assert main([str(word) for word in words]) == 0
    shown = capsys.readouterr().out
    name = f"{tmp_path.name}/set"
    notes, rest = shown.split("\n\n", 1)
    assert notes.splitlines() == [f"note: {name}: {line}" for line in LINES]
    # All four keys are found: q0 has 1 of its 6, q1 and q2 theirs; u0 and u1 have none. x0 to x2 do not count.
    value = (1 / 6 + 1 + 1 + 0 + 0) / 5
    assert f"{value:.4f}" in rest.splitlines()[1]
    rows = {row["data"]: row for row in json.loads((tmp_path / "scores.json").read_text("utf-8"))}
    assert rows[name]["value"] == pytest.approx(value)
    assert counts(rows[name]["left_out"]) == COUNTS
    assert rows[f"{tmp_path.name}/whole"].keys() == {"model", "data", "metric", "value"}  # as ever
    sets = {one["name"]: one for one in page_of(tmp_path / "page.html")["sets"]}
    assert counts(sets[name]["left_out"]) == COUNTS
    assert [one["english"] for one in sets[name]["left_out"]] == LINES
    assert all(str(one["count"]) in one["chinese"] for one in sets[name]["left_out"])
    assert sets[name]["size"] == {"queries": 5, "keys": 4}
    assert sets[f"{tmp_path.name}/whole"]["left_out"] == []


def train(base, *more) -> int:
    flags = [
        "train", "--output_dir", "out", "--query_encoder", base, "--train_data", DEMO / "train" / "qa.jsonl",
        "--max_steps", 1, "--per_device_train_batch_size", 4, "--train_group_size", 2, "--cos_temperature", 0.05,
        "--dtype", "fp32", "--report_to", "none", "--metrics", "recall", "--cutoffs", 10, "--eval_task", "qa", *more,
    ]  # fmt: skip
    return main([str(flag) for flag in flags])


def test_training_says_it_before_step_1_under_each_table_and_in_its_files(workdir, partial, tiny_bert, capfd):
    assert train(tiny_bert, "--eval_data", partial) == 0
    said = capfd.readouterr().err
    name = f"{partial.parent.name}/set"
    first, *tables = re.split(r"step \d+: evaluated", said)
    assert len(tables) == 2
    for line in LINES:
        assert f"{name}: {line}\n" in first
        assert all(f"  note: {name}: {line}\n" in table for table in tables)
    summary = json.loads((workdir / "out" / "evaluation" / "summary.json").read_text("utf-8"))
    for row in (*summary["base"], *summary["saved"]):
        assert (row["value"], counts(row["left_out"])) == (pytest.approx((1 / 6 + 2) / 5), COUNTS)
    (one,) = page_of(workdir / "out" / "report.html")["sets"]
    assert counts(one["left_out"]) == COUNTS


@pytest.mark.parametrize("flag", ["--eval_data", "--canary"])
def test_no_step_is_chosen_by_a_set_without_a_usable_judgement(workdir, tmp_path, tiny_bert, capfd, flag):
    path = folder(tmp_path, qrels="0\td0\t1\n", name="none")
    more = () if flag == "--eval_data" else ("--eval_data", folder(tmp_path))
    assert train(tiny_bert, flag, path, *more) == 2
    said = capfd.readouterr().err
    assert f"none/qrels.tsv: no query of a judgement is in {path}/queries.jsonl: got '0', expected ids such as" in said
    assert not (workdir / "out").exists()


def test_run_dense_alone_says_it_too(workdir, partial, capfd):
    words = ["train", "--eval_data", partial, "--retrieval_method", "bm25", "--metrics", "recall", "--cutoffs", 10]
    assert main([str(word) for word in [*words, "--output_dir", "out"]]) == 0
    shown = capfd.readouterr().out
    assert all(f"note: {partial.parent.name}/set: {line}\n" in shown for line in LINES)
    (row,) = json.loads((workdir / "out" / "metrics.json").read_text("utf-8"))
    assert counts(row["left_out"]) == COUNTS


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--metrics", "nix"), "--metrics: got 'nix', expected one of ndcg"),
        (("--metrics", "ndcg@0"), "--metrics: got 'ndcg@0', expected one of ndcg"),
        (("--dtype", "nix"), "--dtype: unknown name 'nix'"),
        (("--kind", "clustering"), "--kind: got 'clustering' of a set for retrieval"),
    ],
)
def test_messages_name_the_flag_that_was_typed(tmp_path, capsys, flags, message):
    words = ["evaluate", "nano-zh-static", "--data", folder(tmp_path), *flags]
    assert main([str(word) for word in words]) == 2
    assert message in capsys.readouterr().err


# ---- one text of a line, whoever reads it ---------------------------------------------------------------------------

TITLES = {
    '"退货"': "退货 七天内",
    "NaN": "七天内",
    "null": "七天内",
    '""': "七天内",
    '" "': "七天内",
    "2024": "2024 七天内",
}


@pytest.mark.parametrize("title", TITLES)
def test_a_line_of_a_corpus_is_the_same_text_everywhere(tmp_path, title):
    from data_tools.mining.pools import corpus_texts
    from zh_embedder.data.text_files import Reader
    from zh_embedder.evaluation.read_retrieval import read_eval_data, read_retrieval_set
    from zh_embedder.search.encode_files import EncodeOptions

    path = folder(tmp_path)
    line = f'{{"_id": "d0", "title": {title}, "text": "七天内"}}\n'
    (path / "corpus.jsonl").write_text(line, "utf-8")
    (path / "qrels.tsv").write_text("q0\td0\t1\n", "utf-8")
    corpus = path / "corpus.jsonl"
    evals = write(tmp_path / "eval.jsonl", [{"query": "怎么退货", "pos_index": 0}])
    assert main(["convert", str(path), "--from", "beir", "--output", str(tmp_path / "out.jsonl"), "--task", "qa"]) == 0
    reader = Reader([corpus], with_title=EncodeOptions(side="key").titled)
    found = {
        "evaluate": read_retrieval_set(path).keys["d0"],
        "run_dense": read_eval_data(evals, corpus).keys["0"],
        "convert": json.loads((tmp_path / "out.jsonl").read_text("utf-8"))["pos"][0],
        "mine": next(iter(corpus_texts([corpus]))),
        "encode": reader.parse(line, "corpus.jsonl:1", plain=False)[1],
    }
    assert found == dict.fromkeys(found, TITLES[title])


def test_encode_puts_titles_in_front_of_keys_and_its_manifest_says_so(workdir, tiny_bert, capsys):
    from zh_embedder.models.encoder import Encoder
    from zh_embedder.search.vector_store import open_vectors

    write(workdir / "a.jsonl", [{"_id": "1", "id": 7, "title": "退货", "text": "七天内"}, {"_id": "2", "text": "很长"}])
    write(workdir / "b.jsonl", [{"_id": "2", "text": "很长"}])
    encoder = Encoder.from_pretrained(str(tiny_bert), device="cpu", dtype="fp32")

    def encode(*words) -> tuple[int, str]:
        flags = ["encode", tiny_bert, *words, "--dtype", "fp32", "--output_dir", "vectors"]
        return main([str(word) for word in flags]), capsys.readouterr().err

    for words, text, titled in (
        (("--side", "key"), "退货 七天内", True),
        ((), "退货 七天内", True),
        (("--side", "key", "--no_title"), "七天内", False),
        (("--side", "query"), "七天内", False),
        (("--side", "query", "--with_title"), "退货 七天内", True),
    ):
        code, said = encode("a.jsonl", *words, "--overwrite")
        found = open_vectors("vectors")
        ((ids, rows),) = found
        assert (code, found.manifest.with_title, "titles in front of texts" in said) == (0, titled, titled)
        assert list(ids) == ["1", "2"]  # BEIR's name of an id first, so that judgements match
        assert rows[0] == pytest.approx(encoder.encode(text), abs=1e-6)
    code, said = encode("a.jsonl", "--side", "key", "--no_title")
    assert (code, "with_title: True there, False now" in said) == (2, True)
    # Where no line has a title, asking for titles changes nothing, and a folder of an earlier release is gone on with.
    assert encode("b.jsonl", "--side", "query", "--overwrite")[0] == 0
    assert encode("b.jsonl", "--side", "key")[0] == 0
    code, said = encode("b.jsonl", "--with_title", "--no_title")
    assert (code, "not allowed with argument --with_title" in said) == (2, True)
