"""Every line of a training file becomes the row that its format means, or a message that names the field."""

import json
import re
from pathlib import Path

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.data.schema import ROW_FIELDS, parse_line

WHERE = "train.jsonl:17"
GROUP = {"query": "问", "pos": ["答"], "neg": ["否", "错"], "task": "qa"}
FILLED = {"neg": ["否", "错"], "task": "qa"}  # what GROUP has beyond the least record
SCORED = {**FILLED, "teacher_scores": [3, 1.5, -2]}


def row(record: dict) -> dict:
    return parse_line(json.dumps(record, ensure_ascii=False), WHERE)[0]


def refused(record: object) -> str:
    """The message of a record (or of a line of text), without the place, which must lead it."""
    text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)
    with pytest.raises(UserError) as error:
        parse_line(text, WHERE)
    assert str(error.value).startswith(f"{WHERE}: ")
    return str(error.value).removeprefix(f"{WHERE}: ")


# ---- the formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(GROUP, FILLED, id="ours"),
        pytest.param({"query": "问", "pos": ["答"]}, {}, id="no neg, no task"),
        pytest.param({**GROUP, "neg": None, "task": None}, {}, id="null is absent"),
        pytest.param({**GROUP, "teacher_scores": [3, 1.5, -2]}, SCORED, id="teacher_scores"),
        pytest.param({**GROUP, "pos_scores": [3], "neg_scores": [1.5, -2]}, SCORED, id="FlagEmbedding's scores"),
        pytest.param(
            {"query": "问", "pos": ["答", "对"], "pos_scores": [3, 2]},
            {"pos": ["答", "对"], "teacher_scores": [3, 2]},
            id="scores without neg",
        ),
        pytest.param({**GROUP, "prompt": "查询："}, {**FILLED, "prompt": "查询："}, id="FlagEmbedding's prompt"),
        pytest.param({**GROUP, "prompt": ""}, {**FILLED, "prompt": ""}, id="an empty prompt is no instruction"),
        pytest.param(
            {"query": "问", "history": ["一", "二"], "teacher_scores": [0.1, 0.9]},
            {"pos": [], "neg": ["一", "二"], "teacher_scores": [0.1, 0.9]},
            id="history",
        ),
        pytest.param(
            {"query": "问", "history": ["一"], "pos": [], "neg": []},
            {"pos": [], "neg": ["一"]},
            id="history beside an empty pos",
        ),
    ],
)
def test_every_spelling_of_a_group_becomes_the_same_row(record, expected):
    least = {"kind": "group", "query": "问", "pos": ["答"], "neg": []}
    assert row(record) == {**dict.fromkeys(ROW_FIELDS), **least, **expected}


def test_a_scored_pair_is_a_query_with_one_key_and_its_score():
    found = row({"text1": "甲", "text2": "乙", "score": 4, "task": "sts", "id": "7"})
    assert (found["kind"], found["query"], found["pos"], found["neg"]) == ("pair", "甲", ["乙"], [])
    assert found["score"] == 4.0


@pytest.mark.parametrize(("label", "stored"), [("高兴", "高兴"), (3, "3")])
def test_a_labelled_text_is_a_query_with_its_label(label, stored):
    found = row({"text": "甲", "label": label, "task": "emotion"})
    assert (found["kind"], found["query"], found["pos"], found["label"]) == ("labelled", "甲", [], stored)


@pytest.mark.parametrize(
    ("record", "kind", "text"),
    [
        ({"text": "甲"}, "text", "甲"),
        ({"_id": "1", "title": "题", "text": "甲", "side": "key"}, "text", "题 甲"),
        ({"title": "", "text": "甲", "side": "query"}, "query_text", "甲"),
    ],
)
def test_a_line_of_a_corpus_is_a_text_alone_with_its_title_in_front(record, kind, text):
    found = row(record)
    assert (found["kind"], found["query"], found["pos"], found["label"]) == (kind, text, [], None)


def test_texts_are_kept_to_the_character():
    text = " 全角　空格\t换行\n制表\u200b😀𠮷 "
    found = row({"query": text, "pos": [text], "neg": [text]})
    assert (found["query"], found["pos"], found["neg"]) == (text, [text], [text])


def test_both_halves_of_a_surrogate_pair_are_one_character():
    found, _ = parse_line(r'{"query": "\ud83d\ude00", "pos": ["\uD842\uDFB7"]}', WHERE)
    assert (found["query"], found["pos"]) == ("😀", ["𠮷"])


@pytest.mark.parametrize(
    ("extra", "unused"),
    [
        ({"id": "1", "group": "g", "pos_index": [0], "neg_index": [1, 2], "title": "t", "answers": ["a"]}, set()),
        ({"type": "symmetric_sts", "neg_rank": [3]}, {"type", "neg_rank"}),
    ],
)
def test_fields_that_training_does_not_use_are_reported_unless_the_format_names_them(extra, unused):
    assert parse_line(json.dumps({**GROUP, **extra}), WHERE)[1] == unused


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"query": "问", "pos": ["答"]',
            "not valid JSON at character 28: ",
        ),  # 27 are there, and no }
        ("{'query': '问'}", "not valid JSON at character 2: "),
        ('[{"query": "问"},', "a JSON array, expected JSON Lines: one object per line"),
        ('[{"query": "问", "pos": ["答"]}]', "a JSON array, expected JSON Lines: one object per line"),
        ('"问"', "got '问', expected an object"),
        ("null", "got None, expected an object"),
        ('{"query": "问", "pos": ["答"]} {}', "not valid JSON at character 30: Extra data"),
        ("[" * 100_000, "JSON nested too deeply"),
        ('{"query": "问", "pos": ["答"], "teacher_scores": [' + "1" * 5000 + "]}", "not valid JSON: Exceeds the limit"),
    ],
)
def test_broken_json_is_refused(text, expected):
    assert refused(text).startswith(expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"query": None}, "query: got None, expected a string"),
        ({"query": ["问"]}, "query: got ['问'], expected a string"),
        ({"query": ""}, "query: got '', expected a string that is not empty"),
        ({"query": " \t\u3000\n"}, "query: got ' \\t\\u3000\\n', expected a string that is not empty"),
        ({"pos": "答"}, "pos: got '答', expected a list of strings: [\"答\"]"),
        ({"pos": {"a": 1}}, "pos: got {'a': 1}, expected a list of strings"),
        ({"pos": []}, "pos: got [], expected at least one text (or a `history`"),
        ({"pos": None}, "pos: got None, expected at least one text (or a `history`"),
        ({"pos": ["答", ""]}, "pos[1]: got '', expected a string that is not empty"),
        ({"pos": ["答", None]}, "pos[1]: got None, expected a string"),
        ({"neg": "否"}, "neg: got '否', expected a list of strings: [\"否\"]"),
        ({"neg": ["否", 3]}, "neg[1]: got 3, expected a string"),
        ({"neg": ["否", "　"]}, "neg[1]: got '\\u3000', expected a string that is not empty"),
        ({"answers": "甲"}, "answers: got '甲', expected a list of strings"),
        ({"history": ["一"]}, "history: stands beside pos or neg"),
        ({"history": ["一"], "pos": []}, "history: stands beside pos or neg"),
        ({"history": [1], "pos": [], "neg": []}, "history[0]: got 1, expected a string"),
        ({"task": ""}, "task: got '', expected a task name"),
        ({"task": "  "}, "task: got '  ', expected a task name"),
        ({"task": 3}, "task: got 3, expected a task name"),
        ({"prompt": 1}, "prompt: got 1, expected a string, this record's own query instruction"),
        ({"teacher_scores": 0.5}, "teacher_scores: got 0.5, expected a list of numbers"),
        ({"teacher_scores": [1, 2]}, "teacher_scores: got 2 scores, expected 3, one for each of pos then neg"),
        ({"teacher_scores": []}, "teacher_scores: got 0 scores, expected 3, one for each of pos then neg"),
        ({"teacher_scores": [1, 2, "3"]}, "teacher_scores[2]: got '3', expected a finite number"),
        ({"teacher_scores": [1, True, 3]}, "teacher_scores[1]: got True, expected a finite number"),
        ({"teacher_scores": [1, None, 3]}, "teacher_scores[1]: got None, expected a finite number"),
        ({"teacher_scores": [float("nan"), 2, 3]}, "teacher_scores[0]: got nan, expected a finite number"),
        ({"teacher_scores": [1, float("inf"), 3]}, "teacher_scores[1]: got inf, expected a finite number"),
        ({"teacher_scores": [1, 10**400, 3]}, "teacher_scores[1]: got 1000"),
        ({"pos_scores": [1]}, "neg_scores: is missing, expected it beside the other half"),
        ({"neg_scores": [1, 2]}, "pos_scores: is missing, expected it beside the other half"),
        ({"pos_scores": [1, 2], "neg_scores": [1, 2]}, "pos_scores: got 2 scores, expected 1, one for each of pos"),
        ({"pos_scores": [1], "neg_scores": [1]}, "neg_scores: got 1 scores, expected 2, one for each of neg"),
        ({"pos_scores": [1], "neg_scores": [1, float("nan")]}, "neg_scores[1]: got nan, expected a finite number"),
        (
            {"teacher_scores": [1, 2, 3], "pos_scores": [1], "neg_scores": [2, 3]},
            "teacher_scores: stands beside pos_scores or neg_scores, expected one spelling",
        ),
    ],
)
def test_a_wrong_field_of_a_group_is_refused_by_name(changes, expected):
    assert refused({**GROUP, **changes}).startswith(expected)


def test_history_scores_are_counted_against_the_history():
    message = refused({"query": "问", "history": ["一", "二"], "teacher_scores": [1]})
    assert message == "teacher_scores: got 1 scores, expected 2, one for each of history"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"qurey": "问", "pos": ["答"]},
            "query: is missing, but 'qurey' is there; did you mean 'query'? found 'qurey', 'pos', expected query,",
        ),
        (
            {"query": "问", "positive": ["答"]},
            "pos: is missing, but 'positive' is there; did you mean 'pos'? found 'query', 'positive', expected query,",
        ),
        ({"query": "问", "answer": ["答"]}, "pos: is missing; found 'query', 'answer', expected query, pos,"),
        ({}, "query: is missing; found an empty object"),
        ({"text": "问", "pos": ["答"]}, "query: is missing; found 'text', 'pos'"),
        ({"text": "", "task": "qa"}, "text: got '', expected a string that is not empty"),
        ({"text": "问", "side": "passage"}, "side: got 'passage', expected key or query"),
        ({"text": "问", "title": ["题"]}, "title: got ['题'], expected"),
        ({"text1": "甲", "score": 1}, "text2: is missing; found 'text1', 'score'"),
        ({"text2": "甲", "score": 1}, "text1: is missing; found 'text2', 'score'"),
        ({"text1": "甲", "text2": "", "score": 1}, "text2: got '', expected a string that is not empty"),
        ({"text1": "甲", "text2": "乙"}, "score: is missing, expected a number"),
        ({"text1": "甲", "text2": "乙", "score": "0.5"}, "score: got '0.5', expected a finite number"),
        ({"text1": "甲", "text2": "乙", "score": float("nan")}, "score: got nan, expected a finite number"),
        ({"text": "", "label": "a"}, "text: got '', expected a string that is not empty"),
        ({"text": "甲", "label": None}, "label: got None, expected a string or a whole number"),
        ({"text": "甲", "label": 1.5}, "label: got 1.5, expected a string or a whole number"),
        ({"text": "甲", "label": True}, "label: got True, expected a string or a whole number"),
    ],
)
def test_a_missing_or_wrong_field_of_any_format_is_refused(record, expected):
    assert refused(record).startswith(expected)


@pytest.mark.parametrize("half", [r"\ud83d", r"\uDE00", r"\ude00\ud83d"])
@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("query", '{"query": "好%s", "pos": ["答"]}'),
        ("pos", '{"query": "问", "pos": ["答", "%s"]}'),
        ("neg", '{"query": "问", "pos": ["答"], "neg": ["%s"]}'),
        ("prompt", '{"query": "问", "pos": ["答"], "prompt": "%s"}'),
        ("text2", '{"text1": "甲", "text2": "%s", "score": 1}'),
        ("label", '{"text": "甲", "label": "%s"}'),
    ],
)
def test_half_of_a_surrogate_pair_is_refused(field, line, half):
    assert refused(line % half).startswith(f"{field}: holds half of a surrogate pair")


def test_a_message_stays_short_however_long_the_value_is():
    message = refused({**GROUP, "pos": "很" * 10_000})
    assert message.startswith("pos: got '很很很")
    assert "(10002 characters)" in message  # two of them are the quotes
    assert len(message) < 300


def test_the_expected_fields_are_those_of_the_page():
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text("utf-8")
    table = page.partition("| field | meaning |")[2].partition("\n\n")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert {"query", "group", "id", "answers"} <= named
    expected = refused({"query": "问"}).partition("expected ")[2].split(", ")
    assert named - set(expected) == set()
