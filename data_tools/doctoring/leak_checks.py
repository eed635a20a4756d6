"""Leak checks: texts of evaluation sets in training records, exact or nearly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from data_tools.doctoring.findings import ERROR, INFO, WARNING
from data_tools.doctoring.record_checks import CheckedRecord, DoctorSettings, Look
from data_tools.shared.near_texts import Known, NearIndex, normal
from zh_embedder.core.hashing import text_hash
from zh_embedder.data.schema import PAIR
from zh_embedder.evaluation.read_set import read_set
from zh_embedder.evaluation.set_files import find_sets
from zh_embedder.evaluation.sets import EvalSet, LabelSet, PairSet
from zh_embedder.text.prefix import excerpt

LEAK_KINDS: Mapping[str, tuple[str, str]] = {
    "leak_query": (ERROR, "a query of an evaluation set"),
    "leak_key": (ERROR, "a right key of an evaluation set as a positive"),
    "leak_query_near": (WARNING, "nearly a query of an evaluation set"),
    "leak_key_near": (WARNING, "nearly a right key of an evaluation set, as a positive"),
    "shared_key": (INFO, "another text of an evaluation corpus, or a right key as a negative"),
}


@dataclass(frozen=True, slots=True)
class EvalTexts:
    """Normalised texts of evaluation sets by their digests."""

    queries: NearIndex
    gold: NearIndex  # keys that are right for a query
    others: frozenset[int]  # digests of all other keys

    def find(self, item: CheckedRecord) -> Iterator[tuple[str, str]]:
        """Yield (kind, message) of what a record shares with the sets."""
        paired = item.kind == PAIR  # both texts of a pair are queries
        for one in [item.query, *(item.pos if paired else [])]:
            yield from leak("leak_query", self.queries, one)
        for one in [] if paired else item.pos:
            yield from leak("leak_key", self.gold, one)
        for name, one in item.texts():
            negative = name.startswith("neg")
            if one.digest in self.others or (negative and one.digest in self.gold.texts):
                yield "shared_key", f"{name} is a key of an evaluation set: {excerpt(one.text)}"


def leak(kind: str, index: NearIndex, one: Look) -> Iterator[tuple[str, str]]:
    """Yield a text's own leak."""
    if (known := index.texts.get(one.digest)) is not None:
        yield kind, f"{excerpt(one.text)} is one of {known.where}"
    elif (found := index.find(one.normal)) is not None:
        yield (
            f"{kind}_near",
            f"{excerpt(one.text)} is {found[1]:.2f} like one of {found[0].where}: {excerpt(found[0].text)}",
        )


def read_eval_texts(specs: Sequence[str], settings: DoctorSettings) -> EvalTexts:
    """Read evaluation sets of any kind.

    Raises:
        UserError: there is none, or it is wrong.
    """
    queries: dict[int, Known] = {}
    gold: dict[int, Known] = {}
    others: set[int] = set()
    for path in find_sets(specs, flag="--eval"):
        data = read_set(path)
        for side, texts in zip((queries, gold), sides_of(data), strict=True):
            for where, text in texts:
                plain = normal(text)
                side.setdefault(text_hash(plain), Known(where, plain))
        others.update(text_hash(normal(text)) for text in getattr(data, "keys", {}).values())
    indexes = [NearIndex(side, settings.leak_near) for side in (queries, gold)]
    return EvalTexts(indexes[0], indexes[1], frozenset(others - gold.keys()))


def sides_of(data: EvalSet) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return (name, text) of the queries of a set, and of its right keys."""
    name = data.name
    if isinstance(data, PairSet):
        return [(f"{name} texts", text) for text in (*data.firsts, *data.seconds)], []
    if isinstance(data, LabelSet):
        return [(f"{name} texts", text) for text in data.texts], []
    right = {key for judged in data.qrels.values() for key, score in judged.items() if score > 0}
    keys = [(f"{name} keys {key!r}", data.keys[key]) for key in sorted(right & data.keys.keys())]
    return [(f"{name} queries {query!r}", text) for query, text in data.queries.items()], keys
