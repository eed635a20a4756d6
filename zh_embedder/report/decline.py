"""Causes of a decline: what the facts of a run point at, worded as things to check, in English and in Chinese."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from zh_embedder.report.conditions import SIDES
from zh_embedder.report.verdict import FELL, Change, Words

Points = Sequence[tuple[int, float]]

FEW = 200  # records of a task
USUAL_RATE = 1e-4  # of a whole transformer: beyond it few trainings go well
MOVED = 0.05  # share by which a loss must change to be called lower or higher
LEARNT = 0.05  # a loss below it has nothing left to fall by
STARTING, PARTS = 4, 8  # steps at the start of a run, and parts of the rest, that are compared
COLLAPSED = 0.1  # of the gradient norm at the start
MOST_CUT = 0.5  # of a task's queries or keys
FEWEST_POINTS = 4  # of a loss curve, whose first and last quarters are compared


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What a run did with one task."""

    records: int
    share: float  # of the steps
    negatives: bool  # some records bring negatives of their own
    new_instruction: bool  # the base brings another one, or none
    cut: tuple[float, float] = (0.0, 0.0)  # share of its queries and of its keys that are longer than the model reads


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run did, as far as it may explain a decline."""

    learning_rate: float
    whole_transformer: bool  # layers with attention, trained without LoRA
    saved: int  # step
    tasks: Mapping[str, TaskFacts]
    losses: Mapping[str, Points]  # task -> (place, loss), of the whole run
    means: Points  # (step, mean of the main metrics)
    course: Sequence[float] = ()  # losses of all tasks, in the order of the steps
    norms: Sequence[float] = ()  # gradient norms


def checks(changes: Sequence[Change], facts: RunFacts) -> list[Words]:
    """Return what is worth checking; nothing where no task fell beyond noise, or no fact explains it."""
    fell = [change for change in changes if change.verdict == FELL]
    if not fell:
        return []
    found = [learning_rate(facts), went_past_best(facts), dominated(fell, facts)]
    for rule in (cut_texts, untrained, few_records, loss_fell, new_instruction):
        found.append(rule(fell, facts))
    return [words for words in found if words is not None]


def quarters(points: Points) -> tuple[float, float] | None:
    """Return the means of the first and of the last quarter of a loss curve; None of a short one."""
    if len(points) < FEWEST_POINTS:
        return None
    count = len(points) // 4
    values = [value for _, value in points]
    return sum(values[:count]) / count, sum(values[-count:]) / count


def moved_losses(facts: RunFacts, *, up: bool) -> dict[str, tuple[float, float]]:
    """Return the tasks whose loss went up, or down, with the means of its first and last quarter."""
    ends = {task: found for task, points in facts.losses.items() if (found := quarters(points))}
    sign = 1 if up else -1
    return {task: (first, last) for task, (first, last) in ends.items() if sign * (last - first) > MOVED * abs(first)}


def listed(changes: Sequence[Change]) -> tuple[str, str]:
    """Name sets in both languages."""
    labels = [change.label for change in changes]
    return ", ".join(labels), "、".join(labels)


def collapsed(facts: RunFacts) -> tuple[float, float] | None:
    """Return the loss at the start and in a later part of the run in which the model had stopped to learn.

    A gradient falls with its loss. Where it all but vanishes and the loss has not fallen, all vectors have become
    alike, whatever the architecture: steps were too large.
    """
    if min(len(facts.course), len(facts.norms)) < STARTING + PARTS:
        return None
    first = min(facts.course[0], median(facts.course[:STARTING]))
    steep = max(facts.norms[:STARTING])
    later = zip(parts(facts.course[STARTING:]), parts(facts.norms[STARTING:]), strict=True)
    return next(((first, loss) for loss, norm in later if loss >= first and norm < COLLAPSED * steep), None)


def parts(values: Sequence[float]) -> list[float]:
    """Return the medians of equal parts of a run."""
    ends = [len(values) * n // PARTS for n in range(PARTS + 1)]
    return [median(values[start:end]) for start, end in pairwise(ends)]


def level(facts: RunFacts) -> tuple[float, float] | None:
    """Return where the loss began and ended, if there was something to learn and no task's loss fell."""
    found = quarters(list(enumerate(facts.course))) or next(
        (q for p in facts.losses.values() if (q := quarters(p))), None
    )
    if found is None or found[1] < LEARNT or found[1] < (1 - MOVED) * found[0] or moved_losses(facts, up=False):
        return None
    return found


def learning_rate(facts: RunFacts) -> Words | None:
    """A loss that rises, collapses or never falls, or a rate that hardly any transformer bears."""
    rate = f"--learning_rate {facts.learning_rate:g}"
    if rose := moved_losses(facts, up=True):
        ends = ", ".join(f"{task} {first:.3g} → {last:.3g}" for task, (first, last) in rose.items())
        return Words(
            f"the training loss rose ({ends}): {rate} may be too high; try a tenth of it, or warm up longer",
            f"训练损失上升（{ends}）：{rate} 可能过高；可试其十分之一，或延长预热",
        )
    if gone := collapsed(facts):
        return Words(
            f"the model stopped learning: its gradients vanished while the training loss rose ({gone[0]:.3g} → "
            f"{gone[1]:.3g}): {rate} is probably too high; try a tenth of it or less",
            f"模型已停止学习：训练损失上升（{gone[0]:.3g} → {gone[1]:.3g}），梯度却几近消失：{rate} 很可能过高；"
            "可试其十分之一或更低",
        )
    if flat := level(facts):
        by = f"{flat[0]:.3g} → {flat[1]:.3g}"
        return Words(
            f"the training loss did not fall ({by}): {rate} may be too high; try a tenth of it",
            f"训练损失没有下降（{by}）：{rate} 可能过高；可试其十分之一",
        )
    if facts.whole_transformer and facts.learning_rate > USUAL_RATE:
        return Words(
            f"{rate} is high for training all weights of a transformer, where 1e-5 to 5e-5 is usual",
            f"{rate} 对全参数训练 transformer 偏高，通常为 1e-5 到 5e-5",
        )
    return None


def went_past_best(facts: RunFacts) -> Words | None:
    """An earlier step that was better than the base and than what was saved."""
    values = dict(facts.means)
    later = {step: value for step, value in values.items() if step and step != facts.saved}
    best = max(later, key=lambda step: later[step], default=None)
    if best is None or not {0, facts.saved} <= values.keys() or later[best] <= max(values[0], values[facts.saved]):
        return None
    return Words(
        f"step {best} was better than the base and than step {facts.saved}, which was saved (mean {later[best]:.3f} "
        f"against {values[facts.saved]:.3f}): train for fewer steps, or save the best with --load_best_model_at_end",
        f"第 {best} 步优于基座，也优于所保存的第 {facts.saved} 步（均值 {later[best]:.3f} 对 "
        f"{values[facts.saved]:.3f}）：可减少步数，或用 --load_best_model_at_end 保存最好的一步",
    )


def dominated(fell: Sequence[Change], facts: RunFacts) -> Words | None:
    """One task that takes more than half of the steps, while others fell."""
    most = max(facts.tasks, key=lambda task: facts.tasks[task].share, default=None)
    others = [change for change in fell if change.task != most]
    if most is None or len(facts.tasks) < 2 or facts.tasks[most].share <= 0.5 or not others:
        return None
    (english, chinese), share = listed(others), f"{100 * facts.tasks[most].share:.0f} %"
    return Words(
        f"{most} takes {share} of the training steps while {english} fell: --task_temperature below 1 gives smaller "
        "tasks more of them",
        f"{most} 占训练步数的 {share}，而 {chinese} 下降：--task_temperature 小于 1 可让较小的任务得到更多步数",
    )


def cut_texts(fell: Sequence[Change], facts: RunFacts) -> Words | None:
    """Tasks most of whose texts were cut in training."""
    known = [(change.label, task) for change in fell if (task := facts.tasks.get(change.task or ""))]
    for side, (english, chinese, flag) in enumerate(SIDES):
        shares = {label: task.cut[side] for label, task in known if task.cut[side] > MOST_CUT}
        if shares:
            listed_shares = ", ".join(f"{label} {100 * share:.0f} %" for label, share in shares.items())
            return Words(
                f"most {english} were cut in training ({listed_shares}): raise {flag}",
                f"训练中大多数{chinese}被截断（{listed_shares}）：可调大 {flag}",
            )
    return None


def untrained(fell: Sequence[Change], facts: RunFacts) -> Words | None:
    """Tasks that no record trains."""
    found = [change for change in fell if change.task not in facts.tasks]
    if not found:
        return None
    english, chinese = listed(found)
    return Words(
        f"no training record belongs to {english}, and a model forgets what it is not trained on: add such records, "
        "train for fewer steps, or lower --learning_rate",
        f"没有任何训练记录属于 {chinese}，未训练的能力会被遗忘：可加入这类记录、减少步数，或降低 --learning_rate",
    )


def few_records(fell: Sequence[Change], facts: RunFacts) -> Words | None:
    """Tasks with too few records to learn from."""
    known = [(change.label, facts.tasks.get(change.task or "")) for change in fell]
    counts = ", ".join(f"{label} {task.records}" for label, task in known if task and task.records < FEW)
    if not counts:
        return None
    return Words(
        f"few records to learn from ({counts}): add more, or train for fewer epochs",
        f"训练记录过少（{counts}）：可增加记录，或减少轮数",
    )


def loss_fell(fell: Sequence[Change], facts: RunFacts) -> Words | None:
    """Tasks that were learnt in training and got worse on their sets: what was learnt is not what the sets ask."""
    if collapsed(facts):
        return None  # it fell only from where too large steps had driven it
    lower = moved_losses(facts, up=False)
    found = [change for change in fell if change.task in lower and change.task in facts.tasks]
    if not found:
        return None
    english, chinese = listed(found)
    if any(facts.tasks[change.task or ""].negatives for change in found):
        return Words(
            f"the training loss of {english} fell all the same: look for false negatives among the records' negatives "
            "(python -m data_tools.doctor), and whether they are of the kind of text that the set searches",
            f"{chinese} 的训练损失仍在下降：请检查记录的负例中是否混有正例（python -m data_tools.doctor），"
            "以及负例是否与评测集的候选属于同类文本",
        )
    return Words(
        f"the training loss of {english} fell all the same, and its records bring no negatives, which makes them easy: "
        "mine some (python -m data_tools.mine_negatives)",
        f"{chinese} 的训练损失仍在下降，而其记录没有自带负例，任务过易：可挖掘难负例"
        "（python -m data_tools.mine_negatives）",
    )


def new_instruction(fell: Sequence[Change], facts: RunFacts) -> Words | None:
    """Tasks whose instruction the base does not bring."""
    found = [change for change in fell if (task := facts.tasks.get(change.task or "")) and task.new_instruction]
    if not found:
        return None
    english, chinese = listed(found)
    return Words(
        f"the base does not bring the instructions of {english}: compare with a run with --add_instruction False",
        f"基座不带 {chinese} 的指令：可与 --add_instruction False 的训练比较",
    )
