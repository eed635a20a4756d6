"""Windows of a document: whole sentences, put together to lengths that are drawn."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

SENTENCE = re.compile(r"[^。！？!?；;\n]+[。！？!?；;]*[”’」』）)]*")
WINDOW = (50, 350)  # characters: the length of each window is drawn anew


def bare_sentences(text: str) -> list[str]:
    """Cut a text behind the marks that end sentences, and at line ends; marks without letters before them are left out.

    Not `zh_embedder.text.sentences`, which keeps every character: what is made here is searched for.
    """
    return [found for part in SENTENCE.findall(text) if (found := part.strip())]


def windows(parts: Sequence[str], rng: random.Random) -> list[list[str]]:
    """Put neighbouring sentences together until each window has the length drawn for it; a last short one stays."""
    made: list[list[str]] = [[]]
    wanted = rng.randint(*WINDOW)
    for part in parts:
        if made[-1] and sum(map(len, made[-1])) + len(part) > wanted:
            made.append([])
            wanted = rng.randint(*WINDOW)
        made[-1].append(part[: WINDOW[1]])
    return [window for window in made if window]
