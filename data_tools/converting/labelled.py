"""Labelled-text readers, TNEWS style: texts as they are, or groups of examples with the same label."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from data_tools.converting.format_types import Head, ReadOptions, Record, Source, SourceItem, identity
from data_tools.converting.pairs import is_number, renamed
from data_tools.converting.separated import header_names
from data_tools.converting.source_text import text_lines
from data_tools.converting.tables import classes, rows, with_classes
from data_tools.converting.values import Raw, as_text, pick_name, pick_text, picked
from zh_embedder.core.errors import UserError, reject
from zh_embedder.data.sources import kind
from zh_embedder.text.empty_cells import EMPTY_LABELS, is_empty
from zh_embedder.text.prefix import template_fields

TEXT = ("sentence", "text", "content", "review", "title")
LABEL = ("label_desc", "label_des", "label_text", "label", "category", "labels")
NO_LABEL = "no label"


class Labelled(NamedTuple):
    """A text and its label."""

    where: str
    name: str
    text: str
    label: str


def read_labelled(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Text and label; with `--as icl`, text -> examples with the same label, negatives with another."""
    if options.shape == "icl":
        yield from example_groups(source, options)
        return
    for one in labelled(source, options):
        if not one.label:
            yield SourceItem(one.where, reason=NO_LABEL)
            continue
        yield SourceItem(one.where, {"text": one.text, "label": one.label, "id": one.name, "group": one.name})


def labelled(source: Source, options: ReadOptions) -> Iterator[Labelled]:
    """Yield the texts of a source."""
    for number, (where, raw) in enumerate(labelled_rows(source, options), start=1):
        name = identity(source, pick_name(raw, ("id",), where, number))
        label = label_of(raw, where)
        yield Labelled(where, name, pick_text(raw, TEXT, where), label)


def label_of(raw: Raw, where: str) -> str:
    """Return the label of a row, empty where its cell is."""
    name = picked(raw, LABEL, where)
    label = as_text(raw[name], f"{where}: {name}").strip()
    return "" if is_empty(label, EMPTY_LABELS) else label


def labelled_rows(source: Source, options: ReadOptions) -> Iterator[tuple[str, Raw]]:
    """Yield rows; of lines without a header, `text <tab> label` or `id <tab> text <tab> label`."""
    plain = not source.is_hub and kind(source.path) in (".tsv", ".txt") and not options.columns
    if not plain:
        named = classes(source, options)
        for where, row in rows(source, options):
            yield where, renamed(with_classes(row, named), options.columns, where)
        return
    names: list[str] | None = None
    for where, line in text_lines(source.path, options.encoding):
        cells = line.split("\t")
        if names is None:
            stripped = {cell.strip() for cell in cells}
            if options.header or (options.header is None and stripped & set(LABEL)):
                names = header_names(cells, where)
                continue
            names = ["id", "text", "label"] if len(cells) == 3 and is_number(cells[0]) else ["text", "label"]
        if len(cells) != len(names):
            raise UserError(f"{where}: got {len(cells)} columns, expected {len(names)}: {', '.join(names)}")
        yield where, dict(zip(names, cells, strict=True))


def example_groups(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Yield a group for each text: examples are drawn by the seed and the text's own id, so others change nothing."""
    found = list(labelled(source, options))
    pools: dict[str, list[int]] = {}
    for row, one in enumerate(found):
        if one.label and one.text.strip():
            pools.setdefault(one.label, []).append(row)
    for row, one in enumerate(found):
        mine = pools.get(one.label, [])
        if not one.label:
            yield SourceItem(one.where, reason=NO_LABEL)
        elif not any(found[other].text != one.text for other in mine):
            yield SourceItem(one.where, reason="no other text has its label")
        else:
            yield SourceItem(one.where, group_of(row, found, pools, options))


def group_of(row: int, found: list[Labelled], pools: dict[str, list[int]], options: ReadOptions) -> Record:
    """Draw the examples of a text."""
    one = found[row]
    draw = random.Random(f"{options.seed} {one.name}")
    same = [other for other in pools[one.label] if found[other].text != one.text]
    others = [label for label in pools if label != one.label]
    right = draw.sample(same, min(options.examples, len(same)))
    wrong = [draw.choice(pools[draw.choice(others)]) for _ in range(options.wrong_examples)] if others else []
    record: Record = {
        "query": one.text,
        "pos": list(dict.fromkeys(example(found[other], options) for other in right)),
        "neg": list(dict.fromkeys(example(found[other], options) for other in wrong)),
        "answers": [one.label],
        "id": one.name,
        "group": one.name,
    }
    return record


def example(one: Labelled, options: ReadOptions) -> str:
    """Lay an example out through the template."""
    return options.template.format(text=one.text, label=one.label)


def check_template(template: str) -> str:
    """Return --template.

    Raises:
        UserError: it has other fields than text and label, or not both.
    """
    if set(template_fields(template, flag="--template")) != {"text", "label"}:
        raise reject("--template", template, "{text} and {label} in it, and no other field")
    return template


def is_labelled(head: Head) -> bool:
    """Recognise labelled texts."""
    names = head.first.keys()
    return bool(names & set(TEXT)) and bool(names & set(LABEL)) and not names & {"sentence1", "sentence2", "query"}
