"""Cut texts in words: the datasets and sets of which more than a tenth is cut, an example, and the flag that helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zh_embedder.evaluation.outcome import Outcome
from zh_embedder.report.conditions import SIDES
from zh_embedder.report.verdict import Words
from zh_embedder.text.truncation import Cut


@dataclass(frozen=True, slots=True)
class CutSide:
    """The queries or the keys of a dataset or set, and how far they are read."""

    cut: Cut
    length: int  # tokens that are read
    limit: int | None  # that can be read; None: there is no limit


def cut_words(name: str, sides: Sequence[CutSide], *, where: Words) -> Words | None:
    """Say how many of the queries and of the keys are cut, in one line; None where it is a tenth of them or less.

    Args:
        name: of the dataset or set.
        sides: its queries and its keys.
        where: what cuts: training, or the models of this name.
    """
    found = [(words, side) for words, side in zip(SIDES, sides, strict=True) if side.cut.notable]
    if not found:
        return None
    shares = [(words, f"{100 * side.cut.share:.0f} %", side.length) for words, side in found]
    example = max((side.cut for _, side in found), key=lambda cut: cut.share).lost
    english = " and ".join(f"{share} of the {words[0]} are cut to {length} tokens" for words, share, length in shares)
    chinese = "、".join(f"{share} 的{words[1]}被截断至 {length} 个 token" for words, share, length in shares)
    ways = [way(words[2], side) for words, side in found]
    return Words(
        f"{name}: {english}{where.english}, which loses for example “{example}”: "
        + "; ".join(dict.fromkeys(one.english for one in ways)),
        f"{name}：{where.chinese}{chinese}，例如丢失“{example}”："
        + "；".join(dict.fromkeys(one.chinese for one in ways)),
    )


def way(flag: str, side: CutSide) -> Words:
    """Say what reads more of the texts."""
    if side.limit is None:
        return Words(f"{flag} N reads more; this base has no limit", f"{flag} N 可读取更多，该基座没有上限")
    if side.length < side.limit:
        return Words(
            f"{flag} N reads more, up to {side.limit} in this base", f"{flag} N 可读取更多，该基座最多 {side.limit}"
        )
    return Words(
        f"{side.length} is all that this base reads: split them into shorter passages",
        f"{side.length} 已是该基座的上限：可切分为较短的段落",
    )


def cut_by_models(outcomes: Sequence[Outcome]) -> list[Words]:
    """Return a line for each set and way in which models cut it; models that cut alike share one."""
    groups: dict[tuple[object, ...], list[Outcome]] = {}
    sets: dict[str, set[str]] = {}
    for outcome in outcomes:
        if outcome.truncated is None or outcome.lost is None:  # no model, or measured by an earlier release
            continue
        key = (outcome.data, outcome.truncated, outcome.lengths, outcome.limits, outcome.lost)
        own = groups.setdefault(key, [])
        own += [outcome] if outcome.model not in [one.model for one in own] else []
        sets.setdefault(outcome.data, set()).add(outcome.model)
    found = []
    for own in groups.values():
        names = ", ".join(outcome.model for outcome in own)
        alone = len(own) == len(sets[own[0].data])
        where = Words("", "") if alone else Words(f" by {names}", f"{names} 将 ")
        found.append(cut_words(own[0].data, sides_of(own[0]), where=where))
    return [words for words in found if words is not None]


def sides_of(outcome: Outcome) -> list[CutSide]:
    """Return what a model cut of a set's queries and keys; where a set has one kind of text, it is the queries."""
    lost, limits = outcome.lost or ("", ""), outcome.limits or (None, None)
    parts = zip(outcome.truncated or (0.0, 0.0), lost, outcome.lengths or (0, 0), limits, strict=True)
    queries, keys = (CutSide(Cut(share, text), length, limit) for share, text, length, limit in parts)
    return [queries, keys if outcome.run else CutSide(Cut(), keys.length, keys.limit)]
