"""Pair kinds: span, words, next, title, turn. A pair's kind is its task."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_tools.pairing.windows import bare_sentences, windows
from zh_embedder.core.errors import reject
from zh_embedder.core.numbers import SHARE
from zh_embedder.core.options import check_numbers, limited

TURN = re.compile(r"([^：:\s]{1,8})[：:]\s*(.+)")
SPAN = (8, 24)  # characters
FRAGMENTS, FRAGMENT = (2, 5), (2, 6)  # how many, and characters of each
MIN_KEY = 20  # characters: a window is not emptied for the sake of a pair
MAX_TURNS = 12  # pairs of one dialogue

Pair = tuple[str, str, str]  # task, query, key


@dataclass(frozen=True, slots=True)
class Recipe:
    """How pairs are made. The shares of kinds are those of windows; what they leave of 1 is `span`."""

    words: float = limited(0.15, SHARE)
    next: float = limited(0.15, SHARE)
    remove: float = limited(0.8, SHARE)  # share of spans whose sentence is taken out of the window
    titled: float = 0.25  # share of windows with their document's title in front

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.words + self.next > 1:
            raise reject("--words and --next", self.words + self.next, "at most 1 together")


def span_pair(window: Sequence[str], recipe: Recipe, rng: random.Random) -> tuple[str, str] | None:
    """A sentence of a window, or a span of it, and the window, mostly without the sentence."""
    long = [index for index, part in enumerate(window) if len(part) >= SPAN[0]]
    if not long:
        return None
    chosen = rng.choice(long)
    query = window[chosen]
    if rng.random() < 0.5 and len(query) > SPAN[0]:
        length = min(len(query), rng.randint(*SPAN))
        start = rng.randrange(len(query) - length + 1)
        query = query[start : start + length]
    rest = "".join(part for index, part in enumerate(window) if index != chosen)
    if rng.random() < recipe.remove:
        return (query, rest) if len(rest) >= MIN_KEY else None
    return query, "".join(window)


def fragments(window: Sequence[str], rng: random.Random) -> str:
    """A few short pieces of a window, in any order."""
    found = []
    for _ in range(rng.randint(*FRAGMENTS)):
        part, length = rng.choice(window), rng.randint(*FRAGMENT)
        start = rng.randrange(max(1, len(part) - length + 1))
        found.append(part[start : start + length].strip("，。、；：！？,.;:!? "))
    return " ".join(filter(None, found))


def turn_pairs(text: str) -> list[Pair]:
    """Pairs of a dialogue; none where lines do not begin with one of two names."""
    turns = [TURN.fullmatch(line.strip()) for line in text.split("\n") if line.strip()]
    known = [turn.groups() for turn in turns if turn]
    if len(known) < 4 or len(known) < 0.9 * len(turns) or len({name for name, _ in known}) != 2:
        return []
    made = []
    for at in range(1, len(known)):
        (before, asked), (name, said) = known[at - 1], known[at]
        if before == name:
            continue
        if at >= 3 and name == known[at - 2][0] and len(said) >= SPAN[0]:
            exchange = "\n".join(f"{who}：{what}" for who, what in known[at - 2 : at])
            made.append(("turn", said, exchange))
        elif len(asked) >= SPAN[0] and len(said) >= MIN_KEY:
            made.append(("turn", asked, said))
    return made


def document_pairs(title: str, text: str, recipe: Recipe, rng: random.Random) -> Iterator[Pair]:
    """Yield the pairs of a document; which they are depends on the document and the state of `rng` alone."""
    if turns := turn_pairs(text):
        yield from rng.sample(turns, min(len(turns), MAX_TURNS))
    found = windows(bare_sentences(text), rng)
    if title and found:
        yield "title", title, "".join(rng.choice(found[:3]))
    for index, window in enumerate(found):
        draw, key = rng.random(), "".join(window)
        made: tuple[str, str] | None
        if draw < recipe.words:
            task, made = "words", (fragments(window, rng), key)
        elif draw < recipe.words + recipe.next:
            task, made = "next", (key, "".join(found[index - 1])) if index else None
        else:
            task, made = "span", span_pair(window, recipe, rng)
        if made is None or not made[0].strip() or len(made[1]) < MIN_KEY:
            continue
        query, key = made
        yield task, query, f"{title}：{key}" if title and rng.random() < recipe.titled else key
