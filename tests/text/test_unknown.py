"""A tokenizer that does not know the language of the texts is refused, task by task."""

import logging

import pytest
from transformers import AutoTokenizer

from tests.text.test_tokens import without_chinese
from zh_embedder.core.errors import UserError
from zh_embedder.text.unknown import check_unknown, sample_of

CHINESE = ["今天天气", "abc"]


def test_the_share_of_each_task_is_said_and_the_tasks_above_the_limit_are_refused(tiny_bert, caplog):
    stranger = without_chinese("unknown pieces run together")
    with pytest.raises(UserError) as error:
        check_unknown([(stranger, {"qa": CHINESE, "code": ["abc"], "chat": ["今"]})], limit=0.2, base="latin")
    assert str(error.value) == (
        "--max_unknown: the tokenizer of latin does not know 57% of the characters of qa (天 今 气 ...), 100% of the "
        "characters of chat (今 ...), expected at most 20%; take another base, or this one all the same with "
        "--max_unknown 1"
    )
    with caplog.at_level(logging.INFO):
        assert check_unknown([(stranger, {"qa": CHINESE})], limit=0.6, base="latin") == {"qa": 4 / 7}
    assert "characters that the tokenizer of latin does not know: qa 57.1%" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        check_unknown([(AutoTokenizer.from_pretrained(tiny_bert), {"qa": CHINESE[:1]})], limit=0.0, base="tiny")
    assert not caplog.records


@pytest.mark.parametrize("count", [1, 99, 100, 101, 1000, 12345])
def test_a_sample_is_spread_over_all_texts(count):
    texts = {str(number): str(number) for number in range(count)}
    found = [int(text) for text in sample_of(texts.values())]
    assert min(count, 100) <= len(found) < 200
    assert found == sorted(set(found))
    assert found[-1] >= count * 0.9 - 1
