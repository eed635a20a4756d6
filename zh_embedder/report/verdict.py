"""Verdict: one sentence on what training or replacing a model has brought, in English and in Chinese."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zh_embedder.evaluation.intervals import Interval
from zh_embedder.evaluation.means import mean
from zh_embedder.report.figures import difference, figure

ROSE, FELL, NOISE, UNKNOWN = "rose", "fell", "noise", "unknown"
MOST_NAMES = 6  # in one pair of parentheses


@dataclass(frozen=True, slots=True)
class Change:
    """What the main metric of one set was and is; the difference has an interval where one can be drawn."""

    label: str
    before: float
    after: float
    difference: Interval | None
    canary: bool = False
    task: str | None = None

    @property
    def verdict(self) -> str:
        """Whether it moved beyond noise: zero lies outside of the interval."""
        if self.difference is None:
            return UNKNOWN
        return ROSE if self.difference.low > 0 else FELL if self.difference.high < 0 else NOISE


@dataclass(frozen=True, slots=True)
class Words:
    """A text in both languages of the page."""

    english: str
    chinese: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentence, its tone (up, down, mixed, flat), and the means over all sets but the canary."""

    english: str
    chinese: str
    tone: str
    before: float | None
    after: float | None
    falls: Sequence[Words] = ()  # what fell beyond noise, and by how much
    checks: Sequence[Words] = ()  # what may have caused it
    conditions: Sequence[Words] = ()  # what differs in how the two were measured


WORSE = {"down": ("It got worse: ", "变差了："), "mixed": ("It got worse in part: ", "部分变差：")}  # by tone


def terminal(verdict: Verdict) -> str:
    """Lay a verdict out as the page shows it: the sentence, unlike conditions, what fell, and what to check."""
    lines = [verdict.english, *(f"  note: {words.english}" for words in verdict.conditions)]
    lines += [f"  {words.english}" for words in verdict.falls]
    lines += [f"  check: {words.english}" for words in verdict.checks]
    return "\n".join(lines)


def judge(changes: Sequence[Change]) -> Verdict:
    """Say which tasks moved beyond noise, where the mean went, and what became of the canary."""
    tasks = [change for change in changes if not change.canary]
    canaries = [change for change in changes if change.canary]
    if not tasks and not canaries:
        return Verdict("Nothing to compare.", "没有可比较的结果。", "flat", None, None)
    parts = [(english_tasks(tasks), chinese_tasks(tasks))] if tasks else []
    before, after = means(tasks)
    if before is not None and after is not None:
        parts.append(mean_words(before, after, one=len(tasks) == 1))
    parts += [canary_words(change) for change in canaries]
    english = "; ".join(part for part, _ in parts) + "."
    chinese = "；".join(part for _, part in parts) + "。"
    worse = WORSE.get(tone(changes), ("", ""))
    return Verdict(
        worse[0] + (english if tasks or worse[0] else english[0].upper() + english[1:]),
        worse[1] + chinese,
        tone(changes),
        before,
        after,
        [fall_words(change) for change in most_moved(changes) if change.verdict == FELL],
    )


def means(changes: Sequence[Change]) -> tuple[float | None, float | None]:
    """Return the means before and after; None of no changes."""
    if not changes:
        return None, None
    count = len(changes)
    return sum(change.before for change in changes) / count, sum(change.after for change in changes) / count


def most_moved(changes: Sequence[Change]) -> list[Change]:
    """Return those first that moved most."""
    return sorted(changes, key=lambda change: -abs(change.after - change.before))


def fall_words(change: Change) -> Words:
    """Say by how much a set fell."""
    figures = f"{figure(change.before)} → {figure(change.after)}, {difference(change.before, change.after)}"
    ends = "" if change.difference is None else f" [{change.difference.low:+.3f}, {change.difference.high:+.3f}]"
    return Words(f"{change.label} fell: {figures}{ends}", f"{change.label} 下降：{figures}{ends}")


def tone(changes: Sequence[Change]) -> str:
    """Return the colour of the whole: up, down, mixed or flat."""
    found = {change.verdict for change in changes}
    if ROSE in found:
        return "mixed" if FELL in found else "up"
    return "down" if FELL in found else "flat"


def names(changes: Sequence[Change], comma: str) -> str:
    """Name some sets, the first few where they are many."""
    shown = [change.label for change in changes[:MOST_NAMES]]
    return comma.join([*shown, "…"] if len(changes) > MOST_NAMES else shown)


def sorted_out(changes: Sequence[Change]) -> list[tuple[str, list[Change]]]:
    """Group by verdict, those that moved most first; empty groups are left out."""
    groups = [(kind, [c for c in most_moved(changes) if c.verdict == kind]) for kind in (ROSE, FELL, NOISE, UNKNOWN)]
    return [(kind, group) for kind, group in groups if group]


def english_tasks(changes: Sequence[Change]) -> str:
    """Say what rose and what fell."""
    if len(changes) == 1:
        verb = {ROSE: "rose beyond noise", FELL: "fell beyond noise", NOISE: "did not move beyond noise"}
        return f"{changes[0].label} {verb.get(changes[0].verdict, 'was measured without an interval')}"
    words = {
        ROSE: "rose beyond noise",
        FELL: "fell beyond noise",
        NOISE: "within noise",
        UNKNOWN: "without an interval",
    }
    groups = sorted_out(changes)
    parts = [
        f"{len(group)}{f' of {len(changes)} tasks' if not n else ''} {words[kind]}"
        + (f" ({names(group, ', ')})" if kind in (ROSE, FELL) else "")
        for n, (kind, group) in enumerate(groups)
    ]
    return ", ".join(parts)


def chinese_tasks(changes: Sequence[Change]) -> str:
    """Say what rose and what fell."""
    if len(changes) == 1:
        verb = {ROSE: "的提升超出噪声", FELL: "的下降超出噪声", NOISE: "的变化在噪声范围内"}
        return f"{changes[0].label} {verb.get(changes[0].verdict, '没有可用的置信区间')}"
    words = {ROSE: "的提升超出噪声", FELL: "的下降超出噪声", NOISE: "在噪声范围内", UNKNOWN: "没有置信区间"}
    parts = [
        f"{len(group)} 个{words[kind]}" + (f"（{names(group, '、')}）" if kind in (ROSE, FELL) else "")
        for kind, group in sorted_out(changes)
    ]
    return f"{len(changes)} 个任务中，" + "，".join(parts)


def mean_words(before: float, after: float, *, one: bool) -> tuple[str, str]:
    """Say where the mean went."""
    what, was = ("its main metric", "主要指标") if one else ("the mean", "均值")
    figures = figure(before), figure(after), difference(before, after)
    if figures[0] == figures[1]:
        return f"{what} stayed at {figures[0]}", f"{was}保持 {figures[0]}"
    verb = "升至" if after > before else "降至"
    return (
        f"{what} went from {figures[0]} to {figures[1]} ({figures[2]})",
        f"{was}从 {figures[0]} {verb} {figures[1]}（{figures[2]}）",
    )


def canary_words(change: Change) -> tuple[str, str]:
    """Say what became of general Chinese, which nobody trained for."""
    figures = f"{figure(change.before)} → {figure(change.after)}"
    words = {
        ROSE: ("rose", "有所提升"),
        FELL: ("FELL beyond noise", "的下降超出噪声，请注意"),
        NOISE: ("held", "保持稳定"),
        UNKNOWN: ("was measured without an interval", "没有置信区间"),
    }
    english, chinese = words[change.verdict]
    return f"general Chinese ({change.label}) {english}: {figures}", f"通用中文（{change.label}）{chinese}：{figures}"


def alone(model: str, values: Sequence[float]) -> Verdict:
    """Say what a model reaches that nothing is compared with."""
    if not values:
        return judge([])
    average = mean(values)
    sets = "1 task" if len(values) == 1 else f"{len(values)} tasks"
    return Verdict(
        f"{model} reaches {figure(average)} on average over {sets}; nothing to compare it with.",
        f"{model} 在 {len(values)} 个任务上的均值为 {figure(average)}；没有可比较的模型。",
        "flat",
        None,
        average,
    )


# ---- a model and a baseline ------------------------------------------------------------------------------------------

BESIDE = {
    ROSE: ("above it beyond noise", "显著高于它"),
    FELL: ("below it beyond noise", "显著低于它"),
    NOISE: ("level with it within noise", "与它的差别在噪声范围内"),
    UNKNOWN: ("without an interval", "没有置信区间"),
}


def judge_against(changes: Sequence[Change], model: str, baseline: str) -> Verdict:
    """Say where a model is above or below a baseline. Nothing rose or fell: no training lies between the two."""
    tasks = [change for change in changes if not change.canary]
    before, after = means(tasks)
    parts = [beside_tasks(tasks, model, baseline)] if tasks else []
    if before is not None and after is not None:
        what, was = ("its main metric", "主要指标") if len(tasks) == 1 else ("its mean", "均值")
        parts.append(
            Words(
                f"{what} is {figure(after)}, that of {baseline} {figure(before)} ({difference(before, after)})",
                f"{was}为 {figure(after)}，{baseline} 为 {figure(before)}（{difference(before, after)}）",
            )
        )
    parts += [beside_canary(change, baseline) for change in changes if change.canary]
    english, chinese = "; ".join(words.english for words in parts), "；".join(words.chinese for words in parts)
    return Verdict(f"{english}.", f"{chinese}。", tone(changes), before, after)


def beside_tasks(tasks: Sequence[Change], model: str, baseline: str) -> Words:
    """Say on which tasks a model is above, below or level."""
    groups = [(*BESIDE[kind], group) for kind, group in sorted_out(tasks)]
    english = ", ".join(f"{len(group)} {words} ({names(group, ', ')})" for words, _, group in groups)
    chinese = "，".join(f"{len(group)} 个{words}（{names(group, '、')}）" for _, words, group in groups)
    count = "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks"
    return Words(
        f"{model} compared with {baseline} on {count}: {english}",
        f"{model} 与 {baseline} 在 {len(tasks)} 个任务上相比：{chinese}",
    )


def beside_canary(change: Change, baseline: str) -> Words:
    """Say how a model compares on general Chinese."""
    english, chinese = BESIDE[change.verdict]
    return Words(
        f"general Chinese ({change.label}): {figure(change.after)}, {baseline} {figure(change.before)}, {english}",
        f"通用中文（{change.label}）：{figure(change.after)}，{baseline} 为 {figure(change.before)}，{chinese}",
    )
