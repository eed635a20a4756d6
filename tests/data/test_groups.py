import gzip
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from zh_embedder.core.errors import UserError
from zh_embedder.data.groups import (
    DRAWS_PER_NEGATIVE,
    SELECT_NEGATIVE,
    SELECT_POSITIVE,
    UNSCORED,
    SelectionRule,
    pick_negatives,
    pick_positive,
    row_rng,
    select_group,
    shuffle_chunks,
)
from zh_embedder.data.records import Record

# Candidates in order: 正0 正1 负0 负1 负2 负3, with the teacher's scores of them.
RECORD = Record(
    query="问",
    pos=["正0", "正1"],
    neg=["负0", "负1", "负2", "负3"],
    teacher_scores=[0.5, 0.7, 0.9, 0.1, 0.3, 0.2],
)
TEACHER = dict(zip(RECORD.candidates, RECORD.teacher_scores, strict=True))


def draw_from(texts):
    return lambda rng: texts[int(rng.integers(len(texts)))]


POOL = draw_from(["正0", "别0", "正1", "别1", "别2", "别3"])


def nothing_else(rng):
    raise AssertionError("no text of another record was needed")


def group_of(record=RECORD, *, seed=7, epoch=0, dataset=0, row=0, draw=POOL, **rule):
    rule.setdefault("group_size", 4)
    return select_group(record, SelectionRule(**rule), row_rng(seed, epoch, dataset, row), draw)


def many_groups(count=200, **rule):
    return [group_of(row=row, **rule) for row in range(count)]


# The positive.


@pytest.mark.parametrize(
    ("how", "expected"),
    [("first", {"正0"}), ("random", {"正0", "正1"}), ("teacher-pos", {"正1"}), ("teacher", {"负0"})],
)
def test_the_positive_is_the_chosen_one(how, expected):
    groups = many_groups(select_positive=how)
    assert {group.keys[0] for group in groups} == expected
    assert {group.positives[0] for group in groups} == expected  # its text, whatever becomes of the key


def test_a_random_positive_is_any_of_them_equally_often():
    counts = Counter(group.keys[0] for group in many_groups(1000, select_positive="random"))
    assert counts["正0"] + counts["正1"] == 1000
    assert abs(counts["正0"] - 500) < 4 * 16  # four standard deviations of a fair coin: sqrt(1000) / 2


def test_a_negative_that_the_teacher_chooses_leaves_the_negatives():
    for group in many_groups(select_positive="teacher", draw=nothing_else):
        assert sorted(group.keys) == ["负0", "负1", "负2", "负3"]
        assert group.positives == ("负0", "正0", "正1")  # the record's own positives stay known


def test_every_copy_of_a_chosen_negative_leaves():
    record = replace(RECORD, neg=["负0", "负1", "负0", "负3"])
    for row in range(50):
        group = group_of(record, row=row, select_positive="teacher")
        assert Counter(group.keys)["负0"] == 1


@pytest.mark.parametrize("how", ["first", "random", "teacher-pos"])
def test_history_needs_a_teacher(how):
    history = Record(query="问", pos=[], neg=["旧0", "旧1", "旧2"], teacher_scores=[0.1, 0.9, 0.4])
    with pytest.raises(UserError, match=f"select_positive '{how}': the record has history and no pos"):
        group_of(history, select_positive=how)
    group = group_of(history, group_size=3, select_positive="teacher", select_negative="first", draw=nothing_else)
    assert group.keys == ("旧1", "旧0", "旧2")
    assert group.positives == ("旧1",)


@pytest.mark.parametrize("how", ["teacher", "teacher-pos"])
def test_a_teachers_choice_without_scores_says_so(how):
    with pytest.raises(UserError, match=f"select_positive '{how}': the records have no teacher_scores"):
        pick_positive(replace(RECORD, teacher_scores=None), how, row_rng(0, 0, 0, 0))


# The negatives.


@pytest.mark.parametrize(
    ("how", "expected"),
    [("first", ["负0", "负1", "负2"]), ("teacher+", ["负0", "负2", "负3"]), ("teacher-", ["负1", "负3", "负2"])],
)
def test_negatives_stand_in_the_order_asked_for(how, expected):
    assert list(group_of(select_negative=how, draw=nothing_else).keys[1:]) == expected


def test_random_negatives_of_the_record_are_drawn_without_repetition_and_evenly():
    groups = many_groups(1000, draw=nothing_else)
    assert all(len(set(group.keys)) == 4 for group in groups)
    counts = Counter(key for group in groups for key in group.keys[1:])
    assert sorted(counts) == sorted(RECORD.neg)
    assert all(abs(n - 750) < 4 * 14 for n in counts.values())  # sqrt(1000 * 3/4 * 1/4) = 13.7


@pytest.mark.parametrize("how", SELECT_NEGATIVE)
def test_too_few_negatives_are_repeated_evenly(how):
    keys = group_of(group_size=11, select_negative=how, draw=nothing_else).keys[1:]
    assert sorted(Counter(keys).values()) == [2, 2, 3, 3]  # 10 places for 4 negatives
    assert keys[4:8] == keys[:4]
    assert keys[8:] == keys[:2]


@pytest.mark.parametrize("how", ["teacher+", "teacher-"])
def test_ranked_negatives_without_scores_say_so(how):
    with pytest.raises(UserError, match=r"select_negative 'teacher[+-]': the records have no teacher_scores"):
        pick_negatives([2, 3], None, 1, how, row_rng(0, 0, 0, 0))


@pytest.mark.parametrize(("indices", "count"), [([], 3), ([2, 3], 0), ([2, 3], -1)])
def test_no_negatives_are_an_empty_list(indices, count):
    assert pick_negatives(indices, None, count, "random", row_rng(0, 0, 0, 0)) == []


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_random_negatives_come_from_other_records_and_the_rest_from_the_own(wanted):
    for group in many_groups(50, random_negatives=wanted):
        negatives = group.keys[1:]
        assert [key in RECORD.neg for key in negatives] == [True] * (3 - wanted) + [False] * wanted
        assert len(set(negatives)) == 3


@pytest.mark.parametrize("how", ["first", "random"])
def test_a_record_without_negatives_draws_positives_of_others(how):
    record = replace(RECORD, neg=[], teacher_scores=None)
    drawn = Counter()
    for row in range(100):
        group = group_of(record, row=row, select_positive=how)
        assert set(group.keys[1:]) <= {"别0", "别1", "别2", "别3"}
        assert len(set(group.keys)) == 4
        drawn.update(group.keys[1:])
    assert len(drawn) == 4


@pytest.mark.parametrize("random_negatives", [0, 3])
@pytest.mark.parametrize("how", SELECT_POSITIVE)
def test_an_own_positive_is_never_a_negative(how, random_negatives):
    careless = replace(RECORD, neg=["负0", "正1", "负2", "正0"])
    for row in range(100):
        group = group_of(careless, row=row, select_positive=how, random_negatives=random_negatives)
        assert not set(group.keys[1:]) & set(group.positives)
        assert set(group.positives) >= {"正0", "正1"}


def test_a_random_negative_does_not_repeat_an_own_one():
    draw = draw_from(["负0", "负1", "负2", "负3", "别0"])
    for row in range(50):
        assert len(set(group_of(row=row, random_negatives=1, draw=draw).keys)) == 4


@pytest.mark.parametrize("others", [["正0"], ["正0", "正1", "别0"]])
def test_where_nothing_else_is_left_the_known_positive_fills_the_group(others):
    record = replace(RECORD, neg=[], teacher_scores=None)
    group = group_of(record, draw=draw_from(others))
    drawn = [text for text in others if text.startswith("别")]
    assert list(group.keys) == ["正0", *drawn, *["正0"] * (3 - len(drawn))]


def test_drawing_from_others_comes_to_an_end():
    draws = []

    def draw(rng):
        draws.append(0)
        return "正0"

    assert group_of(replace(RECORD, neg=[], teacher_scores=None), draw=draw).keys == ("正0",) * 4
    assert len(draws) == DRAWS_PER_NEGATIVE * 3


@pytest.mark.parametrize("size", [1, 2, 5, 8, 15])
@pytest.mark.parametrize("how", SELECT_POSITIVE)
@pytest.mark.parametrize("neg", [RECORD.neg, ["负0"], []])
def test_a_group_has_its_size_whatever_the_record_offers(size, how, neg):
    record = replace(RECORD, neg=neg, teacher_scores=RECORD.teacher_scores[: 2 + len(neg)])
    group = group_of(record, group_size=size, select_positive=how, with_teacher=True)
    assert len(group.keys) == len(group.teacher) == size


# The teacher.


@pytest.mark.parametrize("select_negative", SELECT_NEGATIVE)
@pytest.mark.parametrize("select_positive", SELECT_POSITIVE)
def test_teacher_scores_stay_with_their_keys(select_positive, select_negative):
    rule = {"select_positive": select_positive, "select_negative": select_negative, "group_size": 8}
    for group in many_groups(20, with_teacher=True, **rule):
        assert group.teacher == tuple(TEACHER[key] for key in group.keys)


def test_keys_of_other_records_have_no_share_of_the_teachers_target():
    group = group_of(random_negatives=2, with_teacher=True)
    assert group.teacher[:2] == (0.5, TEACHER[group.keys[1]])
    assert torch.tensor(group.teacher).softmax(0)[2:].tolist() == [0.0, 0.0]
    assert torch.tensor(group.teacher).log_softmax(0).isfinite().all()


def test_a_positive_that_fills_the_group_keeps_its_score():
    record = Record(query="问", pos=["正0", "正1"], neg=[], teacher_scores=[0.5, 0.2])
    group = group_of(record, draw=draw_from(["正0", "别0"]), with_teacher=True)
    assert group.keys == ("正0", "别0", "正0", "正0")
    assert group.teacher == (0.5, 0.2 - UNSCORED, 0.5, 0.5)


@pytest.mark.parametrize(("scores", "with_teacher"), [(None, True), (RECORD.teacher_scores, False)])
def test_no_teacher_where_there_is_none_or_none_is_wanted(scores, with_teacher):
    assert group_of(replace(RECORD, teacher_scores=scores), with_teacher=with_teacher).teacher is None


# Randomness.

RANDOM_RULE = {"select_positive": "random", "group_size": 4, "random_negatives": 1}


def drawn(**place):
    return [group_of(row=row, **RANDOM_RULE, **place) for row in range(30)]


def test_a_group_is_a_function_of_seed_epoch_dataset_and_row():
    np.random.seed(0)
    once = drawn()
    np.random.seed(1)
    assert drawn() == once
    assert np.random.randint(2**31) == np.random.RandomState(1).randint(2**31)  # global state was not touched
    backwards = [group_of(row=row, **RANDOM_RULE) for row in reversed(range(30))]
    assert backwards[::-1] == once


@pytest.mark.parametrize("other", [{"seed": 8}, {"epoch": 1}, {"dataset": 1}])
def test_another_seed_epoch_or_dataset_draws_anew(other):
    same = sum(a == b for a, b in zip(drawn(), drawn(**other), strict=True))
    assert same < 5  # of 30; 2 positives x 12 ordered pairs of negatives x 4 others: 1 in 96 agrees by chance
    assert len({group.keys for group in drawn()}) > 15  # and rows differ among themselves


def test_over_the_epochs_every_negative_has_its_turn():
    epochs = [group_of(epoch=epoch, group_size=2).keys[1] for epoch in range(60)]
    assert set(epochs) == set(RECORD.neg)


# Shuffled positives.

LONG = "".join(chr(0x4E00 + i) for i in range(101))  # 101 different characters


def thirds(text):
    return [text[:34], text[34:68], text[68:]]


def test_a_long_text_is_cut_in_three_and_loses_no_character():
    shuffled = {shuffle_chunks(LONG, 1.0, row_rng(0, 0, 0, row)) for row in range(200)}
    a, b, c = thirds(LONG)
    assert shuffled == {a + b + c, a + c + b, b + a + c, b + c + a, c + a + b, c + b + a}


def test_short_texts_stay_as_they_are():
    assert {shuffle_chunks(LONG[:100], 1.0, row_rng(0, 0, 0, row)) for row in range(50)} == {LONG[:100]}


def test_the_ratio_is_the_share_of_texts_that_are_shuffled():
    changed = sum(shuffle_chunks(LONG, 0.3, row_rng(0, 0, 0, row)) != LONG for row in range(2000))
    assert abs(changed - 2000 * 0.3 * 5 / 6) < 4 * 20  # one order of six is the old one; sqrt(2000 * .25 * .75) = 19.4
    assert {shuffle_chunks(LONG, 0.0, row_rng(0, 0, 0, row)) for row in range(50)} == {LONG}


def test_what_stands_for_a_text_does_not_matter():
    """Selection by numbers that are equal where the texts are draws the same places as selection by the texts."""
    names = [*RECORD.candidates, "别0", "别1", "别2", "别3"]
    number = {name: 100 + i for i, name in enumerate(names)}
    numbered = replace(RECORD, pos=[number[t] for t in RECORD.pos], neg=[number[t] for t in RECORD.neg])
    by_number = draw_from([number[t] for t in ["正0", "别0", "正1", "别1", "别2", "别3"]])
    for how in ("first", "random", "teacher"):
        rule = {"select_positive": how, "random_negatives": 2, "group_size": 5, "with_teacher": True}
        for row in range(50):
            texts, numbers = group_of(row=row, **rule), group_of(numbered, row=row, draw=by_number, **rule)
            assert numbers.keys == tuple(number[t] for t in texts.keys)
            assert numbers.positives == tuple(number[t] for t in texts.positives)
            assert numbers.teacher == texts.teacher


# Real records.


@pytest.mark.real
@pytest.mark.parametrize("folder", ["law/stard", "convsearch/kdconv", "icl/ewect"])
def test_groups_of_real_records_are_full_and_hold_no_known_positive_twice(folder, real_data):
    path = next((real_data / folder).glob("train.jsonl*"))
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        raw = [json.loads(line) for line in lines][:500]
    records = [Record(query=r["query"], pos=r["pos"], neg=r.get("neg", [])) for r in raw]

    def draw(rng):
        other = records[int(rng.integers(len(records)))]
        return other.pos[int(rng.integers(len(other.pos)))]

    for row, record in enumerate(records):
        group = group_of(record, row=row, draw=draw, group_size=15, select_positive="random", random_negatives=4)
        assert len(group.keys) == 15
        assert group.keys[0] in record.pos
        assert sum(key in record.neg for key in group.keys[1:]) >= 10
        assert not set(group.keys[1:]) & set(record.pos)
