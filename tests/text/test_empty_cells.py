"""Empty cells are found whatever wrote them, and no word of a language is one."""

from __future__ import annotations

import pytest

from zh_embedder.text.empty_cells import EMPTY_LABELS, is_empty


@pytest.mark.parametrize("text", ["", " ", "nan", "NaN ", "None", "NULL", "null", "#N/A", "N/A", "<NA>", "NaT", "\\N"])
def test_spellings(text: str) -> None:
    assert is_empty(text)


@pytest.mark.parametrize("text", ["nan是什么", "南", "None of these", "0", "无"])
def test_words(text: str) -> None:
    assert not is_empty(text)


def test_names_of_classes() -> None:
    assert is_empty("nan", EMPTY_LABELS) and not is_empty("None", EMPTY_LABELS)
