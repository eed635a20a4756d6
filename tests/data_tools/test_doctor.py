"""The doctor: every kind on records made by hand, nothing on clean ones; the cleaned copy, exit codes, JSON."""

import json
import random

import pytest

from data_tools.doctor import main
from data_tools.doctoring.findings import Findings
from data_tools.doctoring.survey import SEVERITY
from tests.conftest import ROOT

WORDS = [
    "我们",
    "公司",
    "明天",
    "开会",
    "讨论",
    "数据",
    "模型",
    "训练",
    "北京",
    "上海",
    "天气",
    "晴朗",
    "学生",
    "老师",
    "读书",
    "写字",
    "医院",
    "检查",
    "结果",
    "正常",
    "法律",
    "合同",
    "签订",
]
POSITIVE = "公司明天在北京开会讨论数据和模型的训练结果大家都要准时参加"
OTHER = "医院检查的结果正常所以学生和老师继续读书写字等待天气晴朗"
THIRD = "签订合同之前应当请懂法律的人看一看免得以后说不清楚责任"
PREFIX = "为这个问题生成表示，以用于检索能够回答它的段落："


def sentence(rng, words=8):
    return "".join(rng.sample(WORDS, words))


def clean(count=40, seed=0, **fields):
    rng = random.Random(seed)
    return [
        {"query": sentence(rng, 5), "pos": [sentence(rng)], "neg": [sentence(rng) for _ in range(3)], "task": "qa"}
        | fields
        for _ in range(count)
    ]


def record(**fields):
    return {"query": "公司什么时候开会呢", "pos": [POSITIVE], "neg": [OTHER, THIRD], "task": "qa"} | fields


def write(path, records):
    lines = [r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def examine(tmp_path, records, *flags):
    """Found (kind, line), and the exit code."""
    write(tmp_path / "train.jsonl", records)
    code = main([str(tmp_path / "train.jsonl"), "--json", str(tmp_path / "out.json"), *flags])
    report = json.loads((tmp_path / "out.json").read_text("utf-8"))
    return [(f["kind"], f["line"]) for f in report["findings"]], code


def test_clean_records_give_no_finding_and_exit_code_0(tmp_path, capsys):
    scores = [3.0, 0.1, -1.0, 0.5]
    assert examine(tmp_path, clean(teacher_scores=scores), "--train_group_size", "4") == ([], 0)
    out = capsys.readouterr().out
    assert "nothing found" in out
    assert "40 records in 1 file, 1 dataset" in out
    assert "not checked: leaks" in out


RECORDS = {
    "schema": [record(pos="一段文字")],
    "encoding": [json.dumps(record(), ensure_ascii=False).encode("gb18030")],
    "empty_text": [record(neg=["", OTHER])],
    "teacher_length": [record(teacher_scores=[1.0, 2.0])],
    "unused_field": [record(negs=["什么"])],
    "mojibake": [record(query="公司什么时候开会".encode().decode("gbk", "ignore"))],
    "misread": [record(query="臺北天氣如何？請參考觀光局網頁".encode("big5").decode("gb18030"))],
    "written_list": [record(pos=["['七天内可以退货', '如何申请']"])],
    "empty_cell": [record(neg=[OTHER, "nan"])],
    "subtitle": [record(query="{\\an8}公司什么时候开会")],
    "special_token": [record(query="公司什么时候[UNK]开会")],
    "escaped": [record(query="公司\\u4ec0\\u4e48时候开会")],
    "percent_encoded": [record(query="公司%E4%BB%80%E4%B9%88时候开会")],
    "repetition": [record(neg=["每桶" * 60])],
    "control": [record(query="公司\u200b什么时候开会")],
    "private_use": [record(query="公司\ue001什么时候开会")],
    "markup": [record(query="公司<br/>什么时候开会&nbsp;")],
    "short_text": [record(neg=[OTHER, "无"])],
    "negative_is_positive": [record(neg=[OTHER, f" {POSITIVE}。"])],
    "negative_near_positive": [record(neg=[OTHER, POSITIVE.replace("大家", "大伙")])],
    "query_is_key": [record(pos=["公司什么时候开会呢？"])],
    "repeated_key": [record(neg=[OTHER, OTHER + "！"])],
    "baked_instruction": [record(query=PREFIX + "公司什么时候开会")],
    "teacher_constant": [record(neg=[OTHER, THIRD, "别的"], teacher_scores=[1, 1, 1, 1])],
    "teacher_reversed": [record(neg=[OTHER, THIRD, "别的"], teacher_scores=[-2, 1, 1.5, 3])],
    "width_letters": [
        record(query="公司用ＧＰＴ开会吗"),
        record(query="公司用BERT开会吗"),
        *[record(query=f"用{i}x会吗", pos=[f"{OTHER}{i}"]) for i in range(9)],
    ],
    "script_mixture": [record(query="公司什麼時候開會討論這個問題")],
    "length_outlier": [record(pos=[POSITIVE * 30])],
    "duplicate_record": [record(), record(neg=[THIRD, OTHER], query="公司什么时候开会呢？？")],
    "negative_elsewhere_positive": [record(neg=[OTHER]), record(pos=[THIRD], neg=[POSITIVE])],
    "contradicting_keys": [record(), record(pos=[OTHER], neg=[POSITIVE])],
    "query_repeated": [record(neg=[OTHER]), record(pos=[THIRD], neg=[])],
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_with_one_defect_is_found_on_its_line(tmp_path, kind):
    found, code = examine(tmp_path, clean() + RECORDS[kind], "--version", "zh_llm_embedder")
    assert kind in [k for k, line in found if line > 40]
    assert [(k, line) for k, line in found if line <= 40] == []
    assert code == int(any(SEVERITY[k] == "error" for k, _ in found))


@pytest.mark.parametrize(
    ("kind", "records", "flags"),
    [
        ("unknown_task", clean(task="qaa"), ["--version", "zh_llm_embedder"]),
        ("small_dataset", clean(10), []),
        ("few_negatives", clean(20), ["--train_group_size", "8"]),
        ("shared_prefix", [r | {"query": "请找出资料：" + r["query"]} for r in clean()], []),
        ("teacher_flat", clean(teacher_scores=[0.6, 0.5, 0.4, 0.45]), []),
        ("teacher_disagrees", clean(teacher_scores=[0.1, 5.0, -4.0, 0.4]), []),
        (
            "label_imbalance",
            [{"text": sentence(random.Random(i)), "label": "好" if i else "坏"} for i in range(40)],
            [],
        ),
    ],
)
def test_a_defect_of_a_dataset_is_one_finding(tmp_path, kind, records, flags):
    found, _ = examine(tmp_path, records, *flags)
    assert {k for k, _ in found} == {kind}
    if kind not in ("unknown_task", "few_negatives"):
        assert found == [(kind, 1)]


def test_squeezed_scores_are_fine_at_the_temperature_they_want(tmp_path):
    records = clean(teacher_scores=[0.6, 0.5, 0.4, 0.45])
    assert examine(tmp_path, records, "--teacher_temperature", "0.05")[0] == []
    assert examine(tmp_path, [r | {"task": "chat"} for r in records])[0] == [("teacher_flat", 1)]


def test_a_version_s_own_teacher_temperature_is_the_one_that_counts(tmp_path):
    records = clean(teacher_scores=[0.9, 0.4, 0.1, 0.3], task="chat")
    assert [k for k, _ in examine(tmp_path, records, "--teacher_temperature", "9")[0]] == ["teacher_flat"]
    assert examine(tmp_path, records, "--teacher_temperature", "9", "--version", "zh_llm_embedder")[0] == []


def test_texts_that_are_cut_are_counted_with_the_model_s_tokenizer(tmp_path, tiny_bert):
    flags = ["--query_encoder", str(tiny_bert), "--key_max_length"]
    assert examine(tmp_path, clean(), *flags, "8")[0] == [("truncated", 1)]
    assert examine(tmp_path, clean(), *flags, "64")[0] == []


def test_texts_that_the_tokenizer_does_not_know_are_an_error(tmp_path, tiny_bert):
    records = clean() + [r | {"query": "བོད་ཡིག" * 3, "pos": ["ཀཁགང" * 5], "neg": [], "task": "bo"} for r in clean(20)]
    found, code = examine(tmp_path, records, "--query_encoder", str(tiny_bert))
    assert ([line for kind, line in found if kind == "unknown_characters"], code) == ([41], 1)


def test_leftovers_are_taken_out_where_they_cannot_be_meant(tmp_path):
    texts = {
        "{\\an8}公司什么时候开会": "公司什么时候开会",
        "[CLS]公司何时开会[SEP]": "公司何时开会",
        "公司<|im_end|>是什么意思": "公司<|im_end|>是什么意思",
        "\\u516c\\u53f8": "公司",
        "公司的\\u516c\\u53f8": "公司的\\u516c\\u53f8",
        "%E5%85%AC%E5%8F%B8": "公司",
        "\\u516c\\u200b\\u53f8": "公司",
        "https://a.cn/%E5%85%AC%E5%8F%B8": "https://a.cn/%E5%85%AC%E5%8F%B8",
    }
    examine(tmp_path, [record(query=text) for text in texts], "--fix", str(tmp_path / "out"))
    lines = (tmp_path / "out/records/train.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["query"] for line in lines] == list(texts.values())


@pytest.mark.parametrize("task", [["a"], {"a": 1}, 5, False])
def test_a_task_of_a_wrong_type_is_left_out_of_the_copy(tmp_path, task):
    found, code = examine(tmp_path, [*clean(), record(task=task)], "--fix", str(tmp_path / "out"))
    assert (found, code) == ([("schema", 41)], 1)
    assert len((tmp_path / "out/records/train.jsonl").read_text("utf-8").splitlines()) == 40


def test_a_tokenizer_is_enough_to_count_lengths_and_a_missing_one_is_said(tmp_path, tiny_bert, capsys):
    alone = tmp_path / "run" / "encoder"
    alone.mkdir(parents=True)
    for path in [*tiny_bert.glob("tokenizer*"), tiny_bert / "config.json"]:
        (alone / path.name).write_bytes(path.read_bytes())
    flags = ["--key_max_length", "8", "--query_encoder"]
    assert examine(tmp_path, clean(), *flags, str(alone.parent))[0] == [("truncated", 1)]
    for path in alone.glob("tokenizer*"):
        path.unlink()
    for name, said in ((alone.parent, "has no tokenizer"), (tmp_path / "nowhere", "expected a folder that is there")):
        assert main([str(tmp_path / "train.jsonl"), *flags, str(name)]) == 2
        assert "--query_encoder: " in (error := capsys.readouterr().err) and said in error


def eval_set(folder):
    (folder / "set").mkdir(parents=True)
    write(
        folder / "set" / "queries.jsonl",
        [{"id": "q", "text": "签订合同之前要请谁看一看，责任如何划分才能说清楚呢", "task": "qa"}],
    )
    write(folder / "set" / "corpus.jsonl", [{"id": "k", "text": THIRD}, {"id": "other", "text": OTHER}])
    (folder / "set" / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\tk\t1\n")
    return str(folder)


LEAKS = {
    "leak_query": record(query="签订合同之前要请谁看一看 责任如何划分才能说清楚呢？", neg=[]),
    "leak_query_near": record(query="签订合同之前要请谁看一看，责任如何划分才能说清楚", neg=[]),
    "leak_key": record(pos=[THIRD + "。"], neg=[]),
    "leak_key_near": record(pos=[THIRD.replace("免得", "免")], neg=[]),
    "shared_key": record(neg=[OTHER]),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_evaluation_texts_are_found_in_training_records(tmp_path, kind):
    found, _ = examine(tmp_path, [*clean(), LEAKS[kind]], "--eval", eval_set(tmp_path / "eval"))
    assert found == [(kind, 41)]


def test_pairs_and_labelled_texts_that_say_two_things_contradict(tmp_path):
    pairs = [{"text1": "甲公司开会", "text2": "乙公司开会", "score": s, "task": "sts"} for s in (1, 0, 1)]
    assert ("contradicting_keys", 2) in examine(tmp_path, pairs)[0]
    assert ("duplicate_record", 3) in examine(tmp_path, pairs)[0]
    labelled = [{"text": "今天高兴", "label": label} for label in ("喜", "悲")]
    assert ("contradicting_keys", 2) in examine(tmp_path, labelled)[0]


def test_a_negative_that_another_record_calls_right_is_no_contradiction_of_both(tmp_path):
    found, _ = examine(tmp_path, [*clean(), record(neg=[OTHER]), record(pos=[THIRD], neg=[POSITIVE])])
    assert found == [("negative_elsewhere_positive", 42), ("query_repeated", 42)]


def test_the_same_query_of_another_task_is_another_query(tmp_path):
    records = [*clean(), *clean(20, 1, task="chat"), record(), record(pos=[OTHER], neg=[POSITIVE], task="chat")]
    assert examine(tmp_path, records)[0] == []


def test_every_wrong_line_is_found_and_the_file_is_read_to_its_end(tmp_path):
    bad = json.dumps(record(), ensure_ascii=False).encode("gb18030")
    records = [bad, *clean(), b"{", bad, b"", record(query="公\x07司什么时候开会")]
    found, code = examine(tmp_path, records)
    assert (sorted(found, key=lambda f: f[1]), code) == (
        [("encoding", 1), ("schema", 42), ("encoding", 43), ("control", 45)],
        1,
    )


def test_a_file_without_records_is_an_error(tmp_path):
    assert examine(tmp_path, [b""]) == ([("schema", 1)], 1)


# ---- the cleaned copy -----------------------------------------------------------------------------------------------


def test_the_copy_is_mended_and_every_change_stands_in_the_ledger(tmp_path):
    bad = [
        record(query=PREFIX + "公司\u200b什么时候开会"),
        record(neg=[POSITIVE, OTHER, OTHER, " ", THIRD], teacher_scores=[5, 4, 3, 2, 1, 0], query="甲的问题"),
        record(query="乙的问题"),
        record(query="乙的问题。"),
        record(query="丙的问题", pos=[THIRD], neg=[]),
        record(query="丁的问题", pos=7),
        record(query="戊的问题", neg=[OTHER]),
        record(query="戊的问题", pos=["双方都同意就可以改"], neg=[POSITIVE, "法律"]),
    ]
    evals = eval_set(tmp_path / "eval")
    examine(tmp_path, clean() + bad, "--fix", str(tmp_path / "out"), "--eval", evals)
    fixed = [json.loads(line) for line in (tmp_path / "out/records/train.jsonl").read_text("utf-8").splitlines()]
    assert fixed[:40] == clean()
    assert fixed[40:] == [
        record(query="公司什么时候开会"),
        record(neg=[OTHER, THIRD], teacher_scores=[5, 3, 0], query="甲的问题"),
        record(query="乙的问题"),
        record(query="戊的问题", neg=[OTHER]),
        record(query="戊的问题", pos=["双方都同意就可以改"], neg=["法律"]),
    ]
    ledger = [json.loads(line) for line in (tmp_path / "out/ledger.jsonl").read_text("utf-8").splitlines()]
    assert [(c["line"], c["kind"], c["action"], c["field"]) for c in ledger] == [
        (41, "control", "changed text", "query"),
        (41, "baked_instruction", "changed text", "query"),
        (42, "negative_is_positive", "dropped key", "neg[0]"),
        (42, "repeated_key", "dropped key", "neg[2]"),
        (42, "empty_text", "dropped key", "neg[3]"),
        (44, "duplicate_record", "dropped record", ""),
        (45, "leak_key", "dropped record", ""),
        (46, "schema", "dropped record", ""),
        (48, "negative_elsewhere_positive", "dropped key", "neg[0]"),
    ]
    assert json.loads(ledger[5]["before"])["query"] == "乙的问题。"
    assert {c["file"] for c in ledger} == {str(tmp_path / "train.jsonl")}


def test_the_copy_has_none_of_the_defects_that_were_mended(tmp_path):
    apart = lambda kind, r: r if isinstance(r, bytes) else r | {"query": f"{r['query']}{kind}"}  # noqa: E731
    records = clean() + [apart(kind, r) for kind in RECORDS for r in RECORDS[kind]]
    examine(tmp_path, records, "--fix", str(tmp_path / "out"))
    (tmp_path / "again").mkdir()
    again = [line.encode() for line in (tmp_path / "out/records/train.jsonl").read_text("utf-8").splitlines()]
    found = {kind for kind, _ in examine(tmp_path / "again", again)[0]}
    mended = {"schema", "encoding", "empty_text", "teacher_length", "control", "negative_is_positive", "repeated_key"}
    mended |= {"baked_instruction", "duplicate_record", "negative_elsewhere_positive"}
    assert not found & mended
    assert {"mojibake", "negative_near_positive", "script_mixture"} <= found


def test_wrongly_decoded_texts_keep_every_character(tmp_path):
    broken = record(query="公司什么时候开会".encode().decode("latin-1"))
    assert examine(tmp_path, [*clean(), broken], "--fix", str(tmp_path / "out")) == ([("mojibake", 41)], 1)
    lines = (tmp_path / "out/records/train.jsonl").read_text("utf-8").split("\n")
    assert json.loads(lines[40]) == broken


def test_both_spellings_of_scores_are_cut_with_their_keys(tmp_path):
    bad = record(neg=[POSITIVE, OTHER], pos_scores=[5], neg_scores=[4, 1], neg_index=[8, 9])
    examine(tmp_path, [bad], "--fix", str(tmp_path / "out"))
    fixed = json.loads((tmp_path / "out/records/train.jsonl").read_text("utf-8"))
    assert (fixed["neg"], fixed["neg_scores"], fixed["pos_scores"], fixed["neg_index"]) == ([OTHER], [1], [5], [9])


def test_files_keep_their_folders_and_compression(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.jsonl", clean(seed=ord(name)))
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--fix", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/records/a/train.jsonl").read_bytes() == (tmp_path / "a/train.jsonl").read_bytes()
    assert (tmp_path / "out/records/b/train.jsonl").is_file()


def test_a_file_is_never_written_over_itself_and_a_wrong_flag_is_code_2(tmp_path, capsys):
    (tmp_path / "records").mkdir()
    write(tmp_path / "records/a.jsonl", clean())
    assert main([str(tmp_path / "records"), "--fix", str(tmp_path)]) == 2
    assert "contains the input" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing.jsonl")]) == 2
    assert main([str(tmp_path / "records"), "--near", "2"]) == 2
    assert main([str(tmp_path / "records"), "--version", "zh_llm_embeder"]) == 2


# ---- what is shown --------------------------------------------------------------------------------------------------


def test_few_findings_of_each_kind_are_shown_and_all_are_counted(tmp_path, capsys):
    path = write(tmp_path / "train.jsonl", clean() + [record(query=f"第{i}个\u200b问题是什么") for i in range(5)])
    assert main([str(path), "--show", "2"]) == 0
    out = capsys.readouterr().out
    assert f"{path}:41: warning: control: query: U+200B\n{path}:42: warning: control" in out
    assert f"{path}:43:" not in out
    assert "... and 3 more of control" in out
    assert "warning   control          5  41, 42, 43, 44, 45" in out


def test_the_json_has_findings_and_their_summary(tmp_path):
    examine(tmp_path, [*clean(), record(query="公司\u200b什么时候开会")])
    report = json.loads((tmp_path / "out.json").read_text("utf-8"))
    file = str(tmp_path / "train.jsonl")
    finding = {"file": file, "line": 41, "kind": "control", "severity": "warning", "message": "query: U+200B"}
    assert report["findings"] == [finding]
    row = {"kind": "control", "severity": "warning", "count": 1, "kept": 1, "first": [f"{file}:41"]}
    assert report["summary"] == [row]
    assert (report["records"], report["files"]) == (41, [file])


def test_findings_are_counted_beyond_what_is_kept(monkeypatch):
    monkeypatch.setattr("data_tools.doctoring.findings.MAX_KEPT", 2)
    findings = Findings(SEVERITY)
    for line in range(5):
        findings.add("a", line, "schema", "wrong")
    assert (findings.errors, len(findings.kept["schema"])) == (5, 2)


def test_lengths_that_many_records_have_are_one_finding(tmp_path):
    short = [r | {"query": r["query"][:2]} for r in clean(4, seed=5)]
    long = [r | {"query": r["query"] * 4} for r in clean(76)]
    assert examine(tmp_path, long + short)[0] == [("length_outlier", 1)]
    assert examine(tmp_path, long + short[:1])[0] == [("length_outlier", 77)]


def test_the_documentation_names_every_kind():
    text = (ROOT / "docs" / "doctor.md").read_text("utf-8")
    assert [kind for kind in SEVERITY if f"`{kind}`" not in text] == []
