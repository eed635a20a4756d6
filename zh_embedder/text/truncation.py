"""Truncation of long texts: the side that is cut, the instruction that stays in front, and what is lost.

Shapes: N texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from zh_embedder.text.prefix import full_text
from zh_embedder.text.tokens import check_texts, token_ids, tokenize

SIDES = ("right", "left")  # of a text that may be cut
NO_MAXIMUM = 10**9  # tokens
NOTABLE = 0.1  # share of texts that are cut: from here on a user should know of it
SHOWN = 30  # characters of an example


class Clipped(NamedTuple):
    """A text behind its instruction, with the side that is cut where it is too long."""

    text: str  # instruction included
    instruction: str
    side: str


Text = str | Clipped  # a plain one is cut as its tokenizer cuts


@dataclass(frozen=True, slots=True)
class Cut:
    """What a maximum length takes from some texts."""

    share: float = 0.0  # of the texts that are cut
    lost: str = ""  # the last characters that the first of these loses

    @property
    def notable(self) -> bool:
        """Whether more texts are cut than can be passed over."""
        return self.share > NOTABLE


def behind(instruction: str, text: str, side: str | None) -> Text:
    """Return a text behind its instruction, cut on a side; None: as its tokenizer cuts."""
    whole = full_text(text, instruction=instruction)
    return whole if side is None else Clipped(whole, instruction, side)


def tokenize_cut(tokenizer: Any, texts: Sequence[Text], max_length: int) -> list[list[int]]:
    """Token ids of each text, special tokens included, at most `max_length` of them.

    Where the front of a text is cut, its instruction stays.

    Raises:
        UserError: a text holds half a character.
    """
    if not texts:
        return []
    if all(isinstance(text, str) for text in texts):
        return tokenize(tokenizer, [str(text) for text in texts], max_length)
    found: list[list[int]] = [[]] * len(texts)
    for side in (None, *SIDES):
        places = [place for place, text in enumerate(texts) if side_of(text) == side]
        some = [texts[place] for place in places]
        try:
            made = on_side(tokenizer, some, max_length, side)
        except (TypeError, ValueError):
            check_texts([whole(text) for text in texts])
            raise
        for place, ids in zip(places, made, strict=True):
            found[place] = ids
    return found


def side_of(text: Text) -> str | None:
    """Return the side that is cut; None: the tokenizer's."""
    return None if isinstance(text, str) else text.side


def instruction_of(text: Text) -> str:
    """Return the instruction in front of a text, where it is known."""
    return "" if isinstance(text, str) else text.instruction


def whole(text: Text) -> str:
    """Return all of a text, its instruction in front."""
    return text if isinstance(text, str) else text.text


def on_side(tokenizer: Any, texts: Sequence[Text], max_length: int, side: str | None) -> list[list[int]]:
    """Token ids of texts that are cut on one side."""
    if side != "left":
        with cutting(tokenizer, side):
            return token_ids(tokenizer, [whole(text) for text in texts], max_length) if texts else []
    made = token_ids(tokenizer, [whole(text) for text in texts], NO_MAXIMUM) if texts else []
    long = {instruction_of(text) for text, ids in zip(texts, made, strict=True) if len(ids) > max_length}
    fronts = {instruction: front_of(tokenizer, instruction) for instruction in long}
    for place, (text, ids) in enumerate(zip(texts, made, strict=True)):
        if len(ids) > max_length:
            first, last = lost_tokens(fronts[instruction_of(text)], ids, max_length, side="left")
            made[place] = ids[:first] + ids[last:]
    return made


@contextmanager
def cutting(tokenizer: Any, side: str | None) -> Iterator[None]:
    """Let a tokenizer cut on a side for a while; None: as it does."""
    before = tokenizer.truncation_side
    tokenizer.truncation_side = side or before
    try:
        yield
    finally:
        tokenizer.truncation_side = before


class Front(NamedTuple):
    """Token ids of an empty text and of an instruction alone, special tokens included."""

    empty: list[int]
    instruction: list[int]


def front_of(tokenizer: Any, instruction: str) -> Front:
    """Return the ids of an empty text and of an instruction alone."""
    return Front(*token_ids(tokenizer, ["", instruction], NO_MAXIMUM))


def lost_tokens(front: Front, ids: Sequence[int], max_length: int, *, side: str) -> tuple[int, int]:
    """Return where the tokens that a text loses begin and end among all of its `ids`."""
    start = shared(front.empty, ids)  # special tokens in front of every text, and behind it
    end = min(len(front.empty) - start, shared(front.empty[::-1], ids[::-1]))
    if side == "right":
        return max_length - end, len(ids) - end
    # As many as pooling leaves out where it leaves out the instruction.
    first = start if front.instruction == front.empty else len(front.instruction) - end
    if first + end >= max_length:  # no room for a text: its front is cut with the instruction, as a tokenizer would
        first = start
    return first, len(ids) - (max_length - first)


def shared(start: Sequence[int], ids: Sequence[int]) -> int:
    """Count the ids with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(start, ids, strict=False)))


def cut_of(tokenizer: Any, texts: Sequence[Text], limit: int) -> Cut:
    """Return the share of texts that have more tokens than `limit`, and what the first of them loses."""
    lengths = [len(ids) for ids in tokenize_cut(tokenizer, texts, limit + 1)]
    long = [text for text, length in zip(texts, lengths, strict=True) if length > limit]
    return Cut(len(long) / len(texts), lost_end(tokenizer, long[0], limit)) if long else Cut()


def lost_end(tokenizer: Any, text: Text, limit: int) -> str:
    """Return the last characters that a text loses, blanks in one piece."""
    characters = whole(text)
    if tokenizer.is_fast:
        found = tokenizer(characters, return_offsets_mapping=True, verbose=False)
        ids, starts = found["input_ids"], [start for start, _ in found["offset_mapping"]]
    else:  # Python code alone has no places: about where
        ids = tokenizer.encode(characters, verbose=False)
        starts = [place * len(characters) // len(ids) for place in range(len(ids))]
    side = side_of(text) or tokenizer.truncation_side
    first, last = lost_tokens(front_of(tokenizer, instruction_of(text)), ids, limit, side=side)
    # A special token behind the text has no place in it.
    end = starts[last] if last < len(ids) and starts[last] > starts[first] else len(characters)
    return " ".join(characters[starts[first] : end].split())[-SHOWN:]
