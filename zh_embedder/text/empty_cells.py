"""Empty cells: what pandas, databases and spreadsheets write for a missing value when it is made a text.

Conversion, the doctor and the reader of training records share this list.
"""

from __future__ import annotations

EMPTY_CELLS = frozenset({"nan", "NaN", "NaT", "<NA>", "None", "NULL", "null", "N/A", "#N/A", "\\N"})
EMPTY_LABELS = EMPTY_CELLS - {"None", "NULL", "null", "N/A"}  # these four may be the name of a class


def is_empty(text: str, empty: frozenset[str] = EMPTY_CELLS) -> bool:
    """Whether a text is what an empty cell becomes.

    >>> is_empty(" nan "), is_empty("南")
    (True, False)
    """
    return not text or text.isspace() or text.strip() in empty
