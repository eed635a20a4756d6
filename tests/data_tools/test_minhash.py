"""MinHash: estimates against exact similarity, neighbours against comparing with all, and bounded work."""

import random

import numpy as np
import pytest

from data_tools.shared import minhash
from data_tools.shared.minhash import Collection, Index, Signer, alike, band_keys, band_rows
from data_tools.shared.near_texts import apart, jaccard
from zh_embedder.text.words import letters

WORDS = [chr(0x4E00 + i) for i in range(0, 3000, 7)]


def passage(rng, length=120):
    return "".join(rng.choices(WORDS, k=length))


def edited(text, rng, edits):
    own = list(text)
    for place in rng.sample(range(len(own)), edits):
        own[place] = rng.choice(WORDS)
    return "".join(own)


def grams(text, size):
    return {text[at : at + size] for at in range(max(1, len(text) - size + 1))}


def exact(one, other, size):
    first, second = grams(one, size), grams(other, size)
    return len(first & second) / len(first | second)


def related(count, rng):
    """Pairs of texts of every similarity."""
    return [(text := passage(rng), edited(text, rng, rng.randrange(60))) for _ in range(count)]


@pytest.mark.parametrize("size", [2, 3])
def test_the_share_of_equal_hashes_is_the_jaccard_similarity(size):
    rng, sign = random.Random(1), Signer(gram=size, permutations=256)
    errors = [(sign(one) == sign(other)).mean() - exact(one, other, size) for one, other in related(300, rng)]
    # One estimate is off by at most sqrt(.25 / 256) = .031 on average, the mean of 300 by .0018.
    assert abs(np.mean(errors)) < 0.006
    assert 0.015 < np.std(errors) < 0.035


def test_each_character_of_an_n_gram_counts_and_so_does_its_place():
    sign = Signer(gram=3, permutations=8)
    hashed = {
        text: int(sign.hashes(text)[0]) for text in ("甲乙丙", "丙乙甲", "甲乙丁", "乙乙丙", "甲丙乙", "甲", "甲乙")
    }
    assert len(set(hashed.values())) == len(hashed)
    assert sign.hashes("甲乙丙甲乙丙").tolist()[::3] == [hashed["甲乙丙"]] * 2


def test_a_signature_is_the_same_in_every_process_and_does_not_depend_on_blocks(monkeypatch):
    sign = Signer(gram=2, permutations=4)
    assert sign("今天天气很好").tolist() == [1192777600, 755136923, 2073630406, 16461131]
    long = passage(random.Random(2), 1000)
    whole = sign(long)
    monkeypatch.setattr(minhash, "BLOCK", 7)
    assert sign(long).tolist() == whole.tolist()
    naive = [
        min((int(a) * h + int(b)) % 2**32 for h in sign.hashes(long).tolist())
        for a, b in zip(sign.scale[:, 0], sign.shift[:, 0], strict=True)
    ]
    assert whole.tolist() == naive


def test_bands_are_equal_only_where_all_their_rows_are():
    signatures = np.array([[1, 2, 3, 4, 9], [1, 2, 3, 5, 8], [3, 4, 1, 2, 7]], np.uint32)
    keys = band_keys(signatures, 2)
    assert keys.shape == (3, 2)  # the fifth row is in no band
    assert keys[0, 0] == keys[1, 0]
    assert len(set(keys.ravel().tolist())) == 5  # (1, 2) as a second band is another than as a first


def test_rows_of_a_band_are_the_most_that_find_what_is_just_near_enough():
    for near in (0.5, 0.8, 0.95):
        rows = band_rows(near, 128)
        found = [1 - (1 - near**r) ** (128 // r) for r in (rows, rows + 1)]
        assert found[0] >= 0.999 > found[1]
    assert (band_rows(0.8, 128), band_rows(0.8, 64)) == (5, 4)


def test_the_index_offers_every_near_text_and_few_others():
    rng = random.Random(3)
    known = [passage(rng) for _ in range(300)]
    index = Index(Signer(gram=2, permutations=64), known, 0.8)
    offered = 0
    for number in range(0, 300, 3):
        text = edited(known[number], rng, 3)
        found = index(text)
        offered += len(found)
        assert {n for n, other in enumerate(known) if exact(text, other, 2) >= 0.8} <= set(found)
    assert offered < 120
    assert Index(Signer(gram=2, permutations=64), [], 0.8)(known[0]) == []


def test_estimates_find_what_exact_similarity_finds():
    rng = random.Random(3)
    texts = [passage(rng) for i in range(40)]
    texts += [edited(text, rng, rng.randrange(1, 12)) for text in texts]
    found_exactly = {(i, j): exact(texts[i], texts[j], 3) for i in range(80) for j in range(i + 1, 80)}
    collection = Collection()
    for i, text in enumerate(texts):
        collection.add(text, i)
    found = {tuple(sorted(pair)) for pair in collection.pairs(0.75)}
    assert {pair for pair, value in found_exactly.items() if value >= 0.85} <= found
    assert found <= {pair for pair, value in found_exactly.items() if value >= 0.65}
    assert len(found) > 10


def test_texts_that_differ_in_width_case_or_punctuation_are_equal_and_a_band_finds_them():
    collection = Collection()
    for number, text in enumerate(["Ａ卡，怎么办？", "a卡怎么办", "别的问题呢", "a卡怎么办"]):
        collection.add(text, number)
    assert len(collection.owners) == 3
    assert list(collection.pairs(0.9)) == [(0, 1)]
    assert list(alike(collection.sign(letters("一"))[None][:0], 0.9)) == []


def test_texts_whose_characters_are_too_different_really_are_below_the_threshold():
    rng, skipped = random.Random(4), 0
    for one, other in related(2000, rng):
        for threshold in (0.5, 0.8, 0.85, 0.95):
            if apart(one, other, threshold):
                skipped += 1
                assert jaccard(one, other) < threshold
    assert skipped > 3000
    # A new end of k characters is k new bigrams, the least that k new characters can make.
    text, new = "".join(WORDS[:100]), "".join(WORDS[100:200])
    for threshold in (0.5, 0.8, 0.95):
        ends = [text[: 100 - k] + new[:k] for k in range(1, 100)]
        far = [apart(text, end, threshold) for end in ends]
        truly = [jaccard(text, end) < threshold for end in ends]
        assert all(really for said, really in zip(far, truly, strict=True) if said)
        assert sum(truly) - sum(far) <= 1
