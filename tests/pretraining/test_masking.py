"""Masks: as many tokens as asked, whole words, nothing special, 80/10/10; the same from the same generator."""

import numpy as np
import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.data.groups import row_rng
from zh_embedder.pretraining.masking import MaskRule, draw_visible, draw_words, mask, mask_rule

CLS, SEP, MASK, UNK, FIRST = 1, 2, 3, 4, 10  # tokens from FIRST on are words
SIZE = 200


def rule(probability=0.15, *, whole_words=True):
    hidden = np.zeros(SIZE, bool)
    hidden[:5] = True
    return MaskRule(probability, whole_words, MASK, hidden, np.arange(FIRST, SIZE))


def window(rng, length=120):
    """Words of one to four tokens, special tokens around, an unknown token now and then."""
    ids = rng.integers(FIRST, SIZE, size=length).astype(np.int32)
    ids[rng.random(length) < 0.02] = UNK
    starts = rng.random(length) < 0.5
    ids[0], ids[-1] = CLS, SEP
    starts[[0, -1]] = False
    return ids, starts


def words_of(ids, starts):
    """Number of each token's word, -1 for special tokens: a naive loop."""
    number, found, behind = -1, [], True
    for token, begins in zip(ids, starts, strict=True):
        special = token < 5
        if not special and (begins or behind):
            number += 1
        found.append(-1 if special else number)
        behind = special
    return np.array(found)


def test_words_are_hidden_whole_and_special_tokens_never():
    rng = np.random.default_rng(0)
    for probability in (0.15, 0.5):
        for _ in range(200):
            ids, starts = window(rng)
            seen, places, labels = mask(ids, starts, rule(probability), rng)
            word = words_of(ids, starts)
            assert (word[places] >= 0).all()
            assert (np.diff(places) > 0).all()
            assert set(np.flatnonzero(np.isin(word, word[places]))) == set(places)
            assert labels.tolist() == ids[places].tolist()
            untouched = np.setdiff1d(np.arange(len(ids)), places)
            assert (seen[untouched] == ids[untouched]).all()


@pytest.mark.parametrize(("probability", "whole_words"), [(0.15, True), (0.15, False), (0.4, True)])
def test_the_share_of_predicted_tokens_is_what_was_asked(probability, whole_words):
    """Over 2,000 windows of 118 candidates; the standard error of the mean share is below 0.0006."""
    rng, chosen, candidates = np.random.default_rng(1), 0, 0
    counts = []
    for _ in range(2000):
        ids, starts = window(rng)
        _, places, _ = mask(ids, starts, rule(probability, whole_words=whole_words), rng)
        own = int((ids >= 5).sum())
        chosen, candidates = chosen + len(places), candidates + own
        counts.append(len(places) - probability * own)
    assert chosen / candidates == pytest.approx(probability, abs=0.002)
    longest = 20  # words of a geometric length; and the draw is for one word alone
    assert max(map(abs, counts)) < (longest if whole_words else 1.01)


def test_the_expected_number_of_tokens_is_exact():
    """Words of 1, 2 and 5 tokens, half of them: 4 in every draw's expectation, over all orders and draws."""
    rng, sizes = np.random.default_rng(2), np.array([1, 2, 5])
    taken = [int(sizes[draw_words(sizes, 0.5, rng)].sum()) for _ in range(40_000)]
    assert np.mean(taken) == pytest.approx(4, abs=0.05)


def test_of_the_predicted_tokens_80_percent_are_masks_10_random_10_unchanged():
    rng, masks, random, same, total = np.random.default_rng(3), 0, 0, 0, 0
    drawn = set()
    for _ in range(3000):
        ids, starts = window(rng)
        seen, places, labels = mask(ids, starts, rule(), rng)
        own = seen[places]
        masks += int((own == MASK).sum())
        same += int((own == labels).sum())
        other = own[(own != MASK) & (own != labels)]
        random += len(other)
        drawn |= set(other.tolist())
        total += len(places)
    assert masks / total == pytest.approx(0.8, abs=0.01)
    assert random / total == pytest.approx(0.1, abs=0.01)
    assert same / total == pytest.approx(0.1, abs=0.01)
    assert min(drawn) >= FIRST


def test_a_word_has_one_fate():
    rng = np.random.default_rng(4)
    for _ in range(300):
        ids, starts = window(rng)
        seen, places, _ = mask(ids, starts, rule(0.5), rng)
        word = words_of(ids, starts)
        for number in set(word[places].tolist()):
            own = seen[word == number] == MASK
            assert own.all() or not own.any()


def test_a_mask_is_a_function_of_seed_epoch_and_row():
    ids, starts = window(np.random.default_rng(5))
    one, again, later, other = (
        mask(ids, starts, rule(), row_rng(*key)).places.tolist()
        for key in ((7, 0, 0, 3), (7, 0, 0, 3), (7, 1, 0, 3), (7, 0, 0, 4))
    )
    assert one == again
    assert len({tuple(one), tuple(later), tuple(other)}) == 3


def test_the_window_itself_is_left_as_it_is():
    ids, starts = window(np.random.default_rng(6))
    before = ids.copy(), starts.copy()
    mask(ids, starts, rule(0.9), np.random.default_rng(0))
    assert (ids == before[0]).all()
    assert (starts == before[1]).all()


def test_a_window_of_special_tokens_predicts_nothing():
    ids = np.array([CLS, UNK, SEP], np.int32)
    seen, places, labels = mask(ids, np.ones(3, bool), rule(0.9), np.random.default_rng(0))
    assert (seen.tolist(), len(places), len(labels)) == ([CLS, UNK, SEP], 0, 0)


def test_every_row_sees_its_share_the_first_place_and_never_itself():
    visible = draw_visible(400, 0.5, np.random.default_rng(0))
    assert visible[:, 0].all()
    assert not visible.diagonal()[1:].any()
    assert visible[:, 1:].mean() == pytest.approx(0.5, abs=0.01)
    assert (visible[5, 1:] != visible[6, 1:]).mean() == pytest.approx(0.5, abs=0.1)


def test_a_rule_knows_what_is_special_and_what_no_text_has(tmp_path):
    from transformers import AutoTokenizer

    from zh_embedder.bases.tiny import build

    tokenizer = AutoTokenizer.from_pretrained(build(tmp_path, hidden=8, layers=1, heads=1, vocabulary_size=7000))
    made = mask_rule(tokenizer, size=7040, probability=0.15, whole_words=True)
    assert np.flatnonzero(made.hidden).tolist() == sorted(tokenizer.all_special_ids)
    assert len(made.hidden) == 7040
    tokens = tokenizer.convert_ids_to_tokens(made.drawn)
    assert "的" in tokens
    assert not [token for token in tokens if token.startswith("[")][1:]  # `[` itself
    tokenizer._special_tokens_map["mask_token"] = None
    with pytest.raises(UserError, match="has no mask token"):
        mask_rule(tokenizer, size=7040, probability=0.15, whole_words=True)
