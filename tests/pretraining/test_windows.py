"""Windows: the tokens of a document, all of them, cut where a sentence ends if one does."""

import random
from itertools import pairwise

import numpy as np
import pytest

from zh_embedder.pretraining.windows import cuts, document_windows, marks, windows_of
from zh_embedder.text.words import word_starts


def test_words_of_a_text_as_it_stands_are_found():
    text = "我在ＢＥＩＪＩＮＧ的北京大学，\n  好 GPT-4。"
    starts = word_starts(text)
    bounds = [*starts, len(text)]
    assert starts[0] == 0
    words = [text[a:b] for a, b in pairwise(bounds)]
    assert "".join(words) == text
    assert "北京大学" in words


def test_a_place_within_a_token_counts_for_the_next():
    tokens = np.array([0, 2, 5, 6])  # "ab" "cde" "f" "g..."
    assert marks(tokens, [0, 3, 6]).tolist() == [True, False, True, True]
    assert marks(tokens, []).tolist() == [True, False, False, False]
    assert marks(np.array([1, 2]), [0, 2]).tolist() == [True, True]


def flags(size, *places):
    found = np.zeros(size, bool)
    found[list(places)] = True
    return found


@pytest.mark.parametrize(
    ("sentences", "words", "expected"),
    [
        ((0, 3, 4, 8), range(10), [0, 4, 8, 10]),  # the last sentence that fits, each time
        ((0,), (0, 2, 4, 7), [0, 4, 7, 10]),  # no sentence: the last word
        ((0, 1), (0, 1, 9), [0, 1, 6, 10]),  # neither: by force, where the limit is
        ((0, 5), (0, 5), [0, 5, 10]),  # exactly full windows
        ((0, 6), (0, 2, 6), [0, 2, 6, 10]),  # a word here, a sentence there
    ],
)
def test_a_document_is_cut_before_a_sentence_else_a_word_else_at_the_limit(sentences, words, expected):
    assert cuts(flags(10, *sentences), flags(10, *words), 5) == expected


def test_a_document_that_fits_is_one_window():
    assert cuts(flags(5, 0, 3), flags(5, 0), 5) == [0, 5]
    assert cuts(flags(1, 0), flags(1, 0), 5) == [0, 1]


def test_no_token_is_lost_and_no_window_is_too_long(tiny_bert):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    letters = "我们今天去北京，吃饭。\nabc defg！“好”？ 𠀀3.14;"
    rng = random.Random(0)
    texts = ["".join(rng.choice(letters) for _ in range(rng.randrange(300))) for _ in range(60)] + ["", " \n "]
    whole = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for limit in (1, 7, 64):
        found = windows_of(tokenizer, texts, limit=limit)
        assert [np.concatenate([[], *(w.ids for w in own)]).astype(int).tolist() for own in found] == whole
        sizes = [len(w.ids) for own in found for w in own]
        assert max(sizes) <= limit
        assert min(sizes) >= 1
        assert all(w.starts[0] for own in found for w in own)


def test_word_starts_are_those_of_jieba(tiny_bert):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    ((window,),) = windows_of(tokenizer, ["我在北京大学，好。"], limit=64)
    words, tokens = [], tokenizer.convert_ids_to_tokens(window.ids)
    for token, starts in zip(tokens, window.starts, strict=True):
        words = [*words, token] if starts else [*words[:-1], words[-1] + token]
    assert words == ["我", "在", "北京大学", "，", "好", "。"]


def test_a_word_that_was_cut_goes_on_as_a_word():
    first, second = document_windows("北京大学", [7, 8, 9, 10], range(4), limit=3)
    assert (first.ids.tolist(), first.starts.tolist()) == ([7, 8, 9], [True, False, False])
    assert (second.ids.tolist(), second.starts.tolist()) == ([10], [True])


def test_words_of_a_dictionary_stay_whole(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("向量检索库\n", "utf-8")
    (plain,) = document_windows("向量检索库", range(5), range(5), limit=9)
    (own,) = document_windows("向量检索库", range(5), range(5), limit=9, dictionary=str(path))
    assert plain.starts.sum() > 1
    assert own.starts.tolist() == [True, False, False, False, False]
