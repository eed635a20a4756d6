"""Conditions of measurement that differ between two models: lengths and instructions, which move figures too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zh_embedder.evaluation.outcome import Outcome
from zh_embedder.report.verdict import MOST_NAMES, Words
from zh_embedder.text.prefix import excerpt

Pair = tuple[Outcome, Outcome]
Prompts = tuple[str, str]  # in front of queries and of keys
SIDES = (("queries", "查询", "--query_max_length"), ("keys", "候选", "--key_max_length"))
MOST_SHOWN = 3  # different instructions of a model in a line
SAME_SHARE = 0.01  # of texts cut: a smaller difference is not worth a line


def unlike(pairs: Sequence[Pair], *, without: bool = False) -> list[Words]:
    """Return a line for each difference, with the flag of `evaluate` that makes both alike.

    Args:
        pairs: two outcomes on each set.
        without: both were measured without instructions too.
    """
    known = [(a, b) for a, b in pairs if a.lengths and b.lengths and a.prompts and b.prompts]
    found = [lengths(known, 0), lengths(known, 1), instructions(known, without=without)]
    return [words for words in found if words is not None]


def lengths(pairs: Sequence[Pair], side: int) -> Words | None:
    """Texts of which one model reads more than the other; a length that cuts nothing makes no difference."""
    found = [pair for pair in pairs if limits(pair, side)[0] != limits(pair, side)[1] and any(cuts(pair, side))]
    if not found:
        return split_otherwise(pairs, side)
    most = max(found, key=lambda pair: max(cuts(pair, side)))
    (first, second), names = limits(most, side), [outcome.model for outcome in most]
    shares, (english, chinese, flag) = [f"{100 * share:.0f} %" for share in cuts(most, side)], SIDES[side]
    return Words(
        f"{names[0]} reads up to {first} tokens of {english}, {names[1]} up to {second} "
        f"(cut: {shares[0]} and {shares[1]} on {most[0].data}): {flag} {min(first, second)} makes them equal",
        f"{chinese}的最大长度不同：{names[0]} 为 {first}，{names[1]} 为 {second}"
        f"（{most[0].data} 上截断 {shares[0]} 与 {shares[1]}）；加 {flag} {min(first, second)} 可使两者一致",
    )


def split_otherwise(pairs: Sequence[Pair], side: int) -> Words | None:
    """Texts that one model cuts more often at the same length: its tokenizer makes more tokens of them."""
    found = [pair for pair in pairs if abs(cuts(pair, side)[0] - cuts(pair, side)[1]) > SAME_SHARE]
    if not found:
        return None
    most = max(found, key=lambda pair: abs(cuts(pair, side)[0] - cuts(pair, side)[1]))
    shares, (english, chinese, flag) = [f"{100 * share:.0f} %" for share in cuts(most, side)], SIDES[side]
    return Words(
        f"{most[0].model} cuts {shares[0]} of the {english} of {most[0].data}, {most[1].model} cuts {shares[1]}: "
        f"their tokenizers differ; a higher {flag} cuts fewer",
        f"{most[0].data} 的{chinese}被 {most[0].model} 截断 {shares[0]}，被 {most[1].model} 截断 {shares[1]}："
        f"两者的分词器不同；调高 {flag} 可减少截断",
    )


def limits(pair: Pair, side: int) -> tuple[int, int]:
    """Return how many tokens each model reads of a side's texts."""
    first, second = ((outcome.lengths or (0, 0))[side] for outcome in pair)
    return first, second


def cuts(pair: Pair, side: int) -> tuple[float, float]:
    """Return the share of a side's texts that each model cuts."""
    first, second = ((outcome.truncated or (0.0, 0.0))[side] for outcome in pair)
    return first, second


def instructions(pairs: Sequence[Pair], *, without: bool) -> Words | None:
    """Tasks that one model is told otherwise than the other, or not at all."""
    found = [(a, b) for a, b in pairs if a.prompts != b.prompts]
    if not found:
        return None
    first, second = found[0][0].model, found[0][1].model
    labels = list(dict.fromkeys(a.task or a.data for a, _ in found))
    shown = [*labels[:MOST_NAMES], "…"] if len(labels) > MOST_NAMES else labels
    told = [any(any(pair[n].prompts or ()) for pair in found) for n in (0, 1)]
    tasks = ", ".join(shown), "、".join(shown)
    flag = "--no_instruction also measures them without", "加 --no_instruction 可同时测量不加指令的结果"
    if without:
        flag = "the rows (no instruction) are without", "不加指令的结果见标有 (no instruction) 的行"
    if all(told):
        return Words(
            f"{first} and {second} use different instructions for {tasks[0]}: {flag[0]}",
            f"{first} 与 {second} 在 {tasks[1]} 上使用的指令不同；{flag[1]}",
        )
    with_it, other = (first, second) if told[0] else (second, first)
    return Words(
        f"{with_it} uses instructions for {tasks[0]}, {other} uses none: {flag[0]}",
        f"{with_it} 在 {tasks[1]} 上使用指令，{other} 不使用；{flag[1]}",
    )


# ---- what was used --------------------------------------------------------------------------------------------------


def used(outcomes: Sequence[Outcome], *, version: str | None) -> list[str]:
    """Say which instructions each model was measured with: a line for models with the same, none for those without.

    Args:
        outcomes: of all models.
        version: --version, whose instructions all used, and where none are worth a line too; None: each its own.
    """
    source = "its own" if version is None else f"--version {version}"
    found: dict[str, dict[Prompts, list[str]]] = {}
    for outcome in outcomes:
        if outcome.prompts is not None:
            labels = found.setdefault(outcome.model, {}).setdefault(outcome.prompts, [])
            labels.append(outcome.task or outcome.data)
    lines: dict[str, list[str]] = {}
    for model, groups in found.items():
        if version is None and not any(any(prompts) for prompts in groups):
            continue
        lines.setdefault(described(groups, source), []).append(model)
    return [f"{', '.join(models)}: {line}" for line, models in lines.items()]


def described(groups: Mapping[Prompts, Sequence[str]], source: str) -> str:
    """Describe the instructions of a model, from those that it has to the tasks that they are of."""
    if not any(any(prompts) for prompts in groups):
        return "no instructions"
    if len(groups) == 1:
        return f"{in_front(next(iter(groups)))} ({source})"
    parts = []
    for prompts, labels in list(groups.items())[:MOST_SHOWN]:
        tasks = list(dict.fromkeys(labels))
        shown = [*tasks[:MOST_NAMES], "…"] if len(tasks) > MOST_NAMES else tasks
        parts.append(f"{in_front(prompts)} for {', '.join(shown)}")
    more = len(groups) - len(parts)
    return "; ".join([*parts, *([f"and {more} other{'s' * (more > 1)}"] if more else [])]) + f" ({source})"


def in_front(prompts: Prompts) -> str:
    """Say what is in front of which side."""
    query, key = (excerpt(text) if text else "" for text in prompts)
    if query == key:
        return f"{query} in front of every text" if query else "nothing"
    sides = [f"{query} in front of queries" if query else "", f"{key} in front of keys" if key else ""]
    return " and ".join(filter(None, sides))
