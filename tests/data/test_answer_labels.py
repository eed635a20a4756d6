"""Labels of records and keys: who has which, that no draw takes a key of the own label, and what the log is told."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer

from tests.data.test_collator import plain
from zh_embedder.core.hashing import text_identity
from zh_embedder.data.answer_labels import NO_LABEL, answer_labels, label_hint, label_of
from zh_embedder.data.collator import Collator
from zh_embedder.data.groups import SelectionRule
from zh_embedder.data.records import limit_rows, load_datasets
from zh_embedder.data.token_cache import token_table
from zh_embedder.data.train_rows import RowRequest, TrainRows, TrainSet

MOODS = {"喜": ["甲1", "甲2", "甲3"], "怒": ["乙1", "乙2", "乙3"], "哀": ["丙1", "丙2", "丙3"]}
KEPT = "2 negatives with the answers of the record itself: kept, as the record lists it"


@pytest.fixture
def dataset(tmp_path):
    """A dataset of these records."""

    def make(records, name="train.jsonl"):
        lines = [json.dumps({"query": f"问{i}", "task": "icl", **r}, ensure_ascii=False) for i, r in enumerate(records)]
        (tmp_path / name).write_text("\n".join(lines), "utf-8")
        (found,) = load_datasets([tmp_path / name], cache_dir=str(tmp_path / "cache"))
        return found

    return make


def by_mood(**more):
    """A record for each key: it is the positive, and the others of its mood are not listed."""
    return [{"pos": [key], "answers": [mood], **more} for mood, keys in MOODS.items() for key in keys]


def labels_of(found, *texts):
    return found.of_keys([text_identity(text) for text in texts])


def test_a_key_has_the_label_of_the_records_that_list_it_as_a_positive(dataset):
    records = [
        {"pos": ["甲", "共"], "neg": ["乙", "外"], "answers": ["喜"]},
        {"pos": ["甲", "丁"], "neg": ["外"], "answers": ["喜"]},
        {"pos": ["乙", "共"], "neg": ["甲"], "answers": ["怒"]},
        {"pos": ["无"]},
        {"pos": ["丙"], "answers": ["怒", "哀"]},
        {"pos": ["戊"], "answers": ["哀", "怒", "怒"]},
    ]
    one = dataset(records)
    found, notes = answer_labels(one)
    glad, angry, both = (label_of(answers, one.name) for answers in (["喜"], ["怒"], ["哀", "怒"]))
    assert found.records.tolist() == [glad, glad, angry, NO_LABEL, both, both]
    assert labels_of(found, "甲", "丁", "乙", "丙", "戊") == [glad, glad, angry, both, both]
    assert (
        labels_of(found, "共", "外", "无", "别处") == [NO_LABEL] * 4
    )  # of two labels, no positive, no answers, unknown
    assert notes == [
        "answers are labels: 3 labels, no negatives of each other (--label_tasks)",
        "1 record without answers: only texts tell their positives",
    ]


def test_two_datasets_have_no_label_in_common(dataset):
    one, other = (answer_labels(dataset(by_mood(), name))[0] for name in ("a.jsonl", "b.jsonl"))
    assert set(one.records.tolist()).isdisjoint(other.records.tolist())
    assert NO_LABEL not in one.records.tolist()


def test_labels_follow_the_rows_that_are_kept(dataset):
    whole = dataset(by_mood())
    part = limit_rows(whole, 5, seed=1)
    kept = [whole.line(row) for row in range(9)]
    lines = [part.line(row) for row in range(5)]
    found, _ = answer_labels(part)
    every, _ = answer_labels(whole)
    assert found.records.tolist() == [every.records[kept.index(line)] for line in lines]


def test_listed_negatives_of_the_own_label_are_counted_and_stay(dataset):
    records = by_mood()
    records[0]["neg"], records[1]["neg"] = ["甲2", "乙1"], ["甲3"]
    one = dataset(records)
    labels, notes = answer_labels(one)
    assert notes[-1] == KEPT
    rows = TrainRows([set_of(one, labels, group_size=3, random_negatives=0)], seed=3)
    assert set(rows[request(0)].key_texts) == {text_identity(text) for text in ("甲1", "甲2", "乙1")}


@pytest.mark.parametrize("answers", [[None] * 4, [["一"], ["二"], ["三"], None]])
def test_answers_that_are_all_different_or_missing_are_no_labels(dataset, answers):
    records = [{"pos": [f"键{i}"], **({"answers": a} if a else {})} for i, a in enumerate(answers)]
    assert answer_labels(dataset(records)) == (None, [])


def test_few_answers_for_many_records_are_hinted_at(dataset):
    records = [{"pos": [f"键{i}"], "answers": [("是", "否")[i % 2]]} for i in range(40)]
    hint = "40 records with 2 different answers: if those are class labels, add the task to --label_tasks"
    assert label_hint(dataset(records)) == [hint]
    assert label_hint(dataset(records[:39], "fewer.jsonl")) == []
    assert label_hint(dataset([{"pos": ["键"]}], "none.jsonl")) == []


# ---- groups ---------------------------------------------------------------------------------------------------------


def set_of(records, labels, **rule) -> TrainSet:
    rule = SelectionRule(**{"group_size": 4, "random_negatives": 3, **rule})
    return TrainSet(records=records, task="icl", rule=rule, query_prefix="问：", key_prefix="", labels=labels)


def request(row, epoch=0):
    return RowRequest(epoch, row, True, 0, (row,), 1)


def own_labels(rows, labels, *, rows_count=9, epochs=20):
    """Of every drawn negative: whether it has the label of its record."""
    found = []
    for epoch in range(epochs):
        for row in range(rows_count):
            example = rows[request(row, epoch)]
            found += [label == labels.records[row] for label in labels.of_keys(example.key_texts[1:])]
    return found


def test_no_negative_drawn_from_other_records_has_the_records_label(dataset):
    one = dataset(by_mood(neg=["外"]))
    labels, _ = answer_labels(one)
    with_labels, without = (TrainRows([set_of(one, given)], seed=3) for given in (labels, None))
    assert not any(own_labels(with_labels, labels))
    assert any(own_labels(without, labels))
    example = with_labels[request(4)]
    assert example.answers == labels.records[4]
    assert list(example.key_answers) == labels.of_keys(example.key_texts)
    assert (without[request(4)].answers, without[request(4)].key_answers) == (NO_LABEL, ())


def test_prepared_tokens_carry_the_labels_of_the_texts(dataset, tmp_path, tiny_bert):
    collator = Collator(AutoTokenizer.from_pretrained(tiny_bert), query_max_length=16, key_max_length=16)
    one = dataset(by_mood(neg=["外", "乙1"]))
    chosen = set_of(one, answer_labels(one)[0], random_negatives=2)
    tokens = replace(chosen, tokens=token_table(chosen, tmp_path / "tokens.arrow", collator))
    for epoch in range(4):
        asked = [request(row, epoch) for row in range(9)]
        batches = [collator([TrainRows([s], seed=3)[r] for r in asked]) for s in (chosen, tokens)]
        assert plain(batches[0]) == plain(batches[1])
        assert batches[0].answers.tolist() == chosen.labels.records.tolist()
        assert torch.equal(batches[0].key_answers[::4], batches[0].answers)


def test_a_batch_without_labels_has_none(dataset, tiny_bert):
    collator = Collator(AutoTokenizer.from_pretrained(tiny_bert), query_max_length=16, key_max_length=16)
    rows = TrainRows([set_of(dataset(by_mood()), None)], seed=3)
    batch = collator([rows[request(0)], rows[request(5)]])
    assert batch.answers.tolist() == [NO_LABEL] * 2
    assert batch.key_answers.tolist() == [NO_LABEL] * 8
