"""Texts with a label each, TNEWS style: as they are, or as groups of examples with the same label."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from data_tools.converting.format_types import Head, Item, Raw, Record, Source, Wish, as_text, identity, pick
from data_tools.converting.pairs import is_number, renamed
from data_tools.converting.source_text import text_lines
from data_tools.converting.tables import rows
from zh_embedder.core.errors import UserError
from zh_embedder.data.sources import kind

TEXT = ("sentence", "text", "content", "review", "title")
LABEL = ("label_desc", "label_des", "label_text", "label", "category", "labels")
NO_LABEL = "no label"


class Labelled(NamedTuple):
    """A text and its label."""

    where: str
    name: str
    text: str
    label: str


def read_labelled(source: Source, wish: Wish) -> Iterator[Item]:
    """Text and label; with `--as icl`, text -> examples with the same label, negatives with another."""
    if wish.shape == "icl":
        yield from example_groups(source, wish)
        return
    for one in labelled(source, wish):
        if not one.label:
            yield Item(one.where, reason=NO_LABEL)
            continue
        yield Item(one.where, {"text": one.text, "label": one.label, "id": one.name, "group": one.name})


def labelled(source: Source, wish: Wish) -> Iterator[Labelled]:
    """Yield the texts of a source."""
    for number, (where, raw) in enumerate(labelled_rows(source, wish), start=1):
        name = identity(source, raw.get("id", number))
        yield Labelled(where, name, as_text(pick(raw, TEXT, where)), as_text(pick(raw, LABEL, where)).strip())


def labelled_rows(source: Source, wish: Wish) -> Iterator[tuple[str, Raw]]:
    """Yield rows; of lines without a header, `text <tab> label` or `id <tab> text <tab> label`."""
    plain = not source.is_hub and kind(source.path) in (".tsv", ".txt") and not wish.columns
    if not plain:
        for where, row in rows(source, wish):
            yield where, renamed(row, wish.columns, where)
        return
    names: list[str] | None = None
    for where, line in text_lines(source.path, wish.encoding):
        cells = line.split("\t")
        if names is None:
            names = [cell.strip() for cell in cells]
            if wish.header or (wish.header is None and set(names) & set(LABEL)):
                continue
            names = ["id", "text", "label"] if len(cells) == 3 and is_number(cells[0]) else ["text", "label"]
        if len(cells) != len(names):
            raise UserError(f"{where}: got {len(cells)} columns, expected {len(names)}: {', '.join(names)}")
        yield where, dict(zip(names, cells, strict=True))


def example_groups(source: Source, wish: Wish) -> Iterator[Item]:
    """Yield a group for each text: examples are drawn by the seed and the text's own id, so others change nothing."""
    found = list(labelled(source, wish))
    pools: dict[str, list[int]] = {}
    for row, one in enumerate(found):
        if one.label and one.text.strip():
            pools.setdefault(one.label, []).append(row)
    for row, one in enumerate(found):
        mine = pools.get(one.label, [])
        if not one.label:
            yield Item(one.where, reason=NO_LABEL)
        elif not any(found[other].text != one.text for other in mine):
            yield Item(one.where, reason="no other text has its label")
        else:
            yield Item(one.where, group_of(row, found, pools, wish))


def group_of(row: int, found: list[Labelled], pools: dict[str, list[int]], wish: Wish) -> Record:
    """Draw the examples of a text."""
    one = found[row]
    draw = random.Random(f"{wish.seed} {one.name}")
    same = [other for other in pools[one.label] if found[other].text != one.text]
    others = [label for label in pools if label != one.label]
    right = draw.sample(same, min(wish.examples, len(same)))
    wrong = [draw.choice(pools[draw.choice(others)]) for _ in range(wish.wrong_examples)] if others else []
    record: Record = {
        "query": one.text,
        "pos": list(dict.fromkeys(example(found[other], wish) for other in right)),
        "neg": list(dict.fromkeys(example(found[other], wish) for other in wrong)),
        "answers": [one.label],
        "id": one.name,
        "group": one.name,
    }
    return record


def example(one: Labelled, wish: Wish) -> str:
    """Lay an example out through the template."""
    try:
        return wish.template.format(text=one.text, label=one.label)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"--template: got {wish.template!r}, expected {{text}} and {{label}} in it: {error}") from None


def is_labelled(head: Head) -> bool:
    """Tell labelled texts."""
    names = head.first.keys()
    return bool(names & set(TEXT)) and bool(names & set(LABEL)) and not names & {"sentence1", "sentence2", "query"}
