"""Normalisation of XLM-R's tokenizers: what single characters become is in a table, composed spellings follow."""

import itertools
import unicodedata

from tokenizers import normalizers

from zh_embedder.bases.charsmap import charsmap
from zh_embedder.bases.unigram import spellings

LETTERS = [chr(code) for code in range(0x41, 0x250)] + list("αΩяЙஐ가漢\u212a\uff25ª")
ACCENTS = [c for c in map(chr, range(0x300, 0x345)) if not unicodedata.decomposition(c)]


def nfkc_table():
    """Single characters that compatibility composition changes."""
    return {c: found for c in map(chr, range(1, 0x30000)) if (found := unicodedata.normalize("NFKC", c)) != c}


def test_letters_with_accents_become_what_nfkc_makes_of_them():
    table = nfkc_table()
    normalise = normalizers.Precompiled(charsmap({**spellings(table), **table})).normalize_str
    composed = 0
    for letter, accent in itertools.product(LETTERS, ACCENTS):
        if letter in table or accent in table:
            continue
        whole = unicodedata.normalize("NFKC", letter + accent)
        is_plain = not unicodedata.decomposition(letter)  # a letter with an accent already takes no second one
        assert normalise(letter + accent) == (whole if is_plain else letter + accent)
        composed += is_plain and len(whole) == 1
    assert composed > 300


def test_spellings_in_compatibility_forms_are_composed():
    found = spellings(nfkc_table())
    assert found["\u212b" if "\u212b" in found else "A\u030a"] == "Å"
    assert found["ª\u0301"] == "á"  # a feminine ordinal is an a in compatibility form
    assert not [text for text in found if len(text) < 2 or len(text.encode()) > 5]
