"""Which candidates may not be negatives: numbers by hand, and no rule speaks where it is switched off."""

import pytest

from data_tools.mining.false_negatives import Candidate, JudgedQuery, RefusalLimits, refusal, trigram_jaccard
from data_tools.mining.pools import normalised
from zh_embedder.core.hashing import text_hash


def judged(text, *, score=None, limits=None, query="感冒了怎么办", pos=("多喝热水，注意休息。",), **more):
    known = frozenset(text_hash(normalised(own)) for own in pos)
    return refusal(
        JudgedQuery(query, pos, known=known, **more), Candidate(0, 1, text, score), limits or RefusalLimits()
    )


def test_the_jaccard_of_character_trigrams_is_the_one_by_hand():
    assert trigram_jaccard("甲乙丙丁", "乙丙丁戊") == 1 / 3  # 甲乙丙 乙丙丁 | 乙丙丁 丙丁戊
    assert trigram_jaccard("甲，乙丙", "甲乙丙！") == 1  # punctuation does not count
    assert trigram_jaccard("甲", "乙") == 0


@pytest.mark.parametrize("text", ["多喝热水，注意休息。", "多喝热水注意休息", "多 喝热水，注意休息"])
def test_a_positive_is_no_negative_however_it_is_punctuated(text):
    assert judged(text) == "positive"


def test_a_positive_of_the_same_query_in_another_record_is_no_negative():
    query = JudgedQuery("感冒了怎么办", ["多喝热水"], known=frozenset({text_hash(normalised("吃点药。"))}))
    assert refusal(query, Candidate(0, 1, "吃点药"), RefusalLimits()) == "positive"


def test_the_query_is_no_negative():
    assert judged("感冒了，怎么办？") == "query"


def test_a_near_copy_of_any_positive_is_refused_and_only_above_the_limit():
    copy = "患者应当多喝热水并且注意休息按时吃药"
    assert judged(copy + "吧", pos=("别的答案", copy)) == "near_positive"  # 16 of 17 grams
    assert judged(copy + "吧", pos=(copy,), limits=RefusalLimits(overlap=0.95)) is None
    assert judged(copy + "吧", pos=(copy,), limits=RefusalLimits(overlap=1)) is None
    assert judged("完全不同的一句话在这里", pos=(copy,)) is None


def test_a_key_with_an_answer_is_refused_where_asked_for_and_width_does_not_matter():
    asked = RefusalLimits(answers=True)
    assert judged("我用ＧＰＴ写的", answers=["gpt"], limits=asked) == "answer"
    assert judged("我用ＧＰＴ写的", answers=["gpt"]) is None
    assert judged("我写的", answers=["gpt"], limits=asked) is None


@pytest.mark.parametrize(
    ("limits", "refused_above"),
    [
        (RefusalLimits(margin=0.1), 0.5 - 0.1),
        (RefusalLimits(margin=0.1, reference="highest"), 0.9 - 0.1),
        (RefusalLimits(percent=0.95), 0.5 * 0.95),
        (RefusalLimits(percent=0.95, reference="highest"), 0.9 * 0.95),
        (RefusalLimits(percent=0.95, reference="mean"), 0.7 * 0.95),
    ],
)
def test_scores_are_refused_just_above_the_bar_of_the_positive_named(limits, refused_above):
    of = {"scores": [0.9, 0.5], "pos": ("甲", "乙"), "limits": limits}
    assert judged("丙", score=refused_above - 1e-6, **of) is None
    assert judged("丙", score=refused_above + 1e-6, **of) == ("margin" if limits.margin else "percent")


def test_percent_of_a_score_below_zero_never_lets_in_what_scores_above_the_positive():
    limits = RefusalLimits(percent=0.95)
    assert judged("丙", score=-2.05, scores=[-2.0], limits=limits) == "percent"
    assert judged("丙", score=-2.11, scores=[-2.0], limits=limits) is None
