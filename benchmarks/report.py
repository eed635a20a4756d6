"""Report of the speed benchmark: rows, ratios and the printed table from the seconds of every run."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.contenders import OURS

MIB = 2**20
DISTURBED = 0.05  # of the machine taken by other programs: noted in the row
ALIKE = 0.99  # cosine that vectors of the same text reach, bf16 or not


@dataclass(frozen=True, slots=True)
class Setting:
    """What every contender is asked to do."""

    kind: str  # train or encode
    shape: str
    ranks: int

    def __str__(self) -> str:
        return f"{self.kind} {self.shape}, {self.ranks} rank{'s' * (self.ranks > 1)}"


@dataclass(frozen=True, slots=True)
class Work:
    """What one measured unit is: a training step of all ranks, or one call of encode."""

    texts: int
    tokens: int
    flops: float  # of the matrix products, forward and backward


@dataclass(frozen=True, slots=True)
class Run:
    """One process group that came to its end, or did not."""

    seconds: tuple[float, ...] = ()
    peak_bytes: int = 0  # of the rank that held most
    input_share: float | None = None
    probed: int = 0  # texts that a call of encode computes once more
    loss: float | None = None
    user: float = 0.0  # processor seconds of a unit, all ranks and threads together
    system: float = 0.0
    others: float = 0.0  # share of the machine that other programs took meanwhile
    sample: tuple[tuple[float, ...], ...] = ()  # vectors of the first texts
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One contender at one setting, all rounds together. Without a median it was not measured: `note` says why."""

    setting: Setting
    contender: str
    median: float | None = None  # seconds of a unit
    fastest: float | None = None
    slowest: float | None = None
    units: int = 0
    texts_per_second: float | None = None
    tokens_per_second: float | None = None
    flops: float | None = None  # per second
    peak_bytes: int | None = None
    input_share: float | None = None
    loss: float | None = None
    user: float | None = None  # processor seconds of a unit
    system: float | None = None
    others: float | None = None
    sample: tuple[tuple[float, ...], ...] = ()
    ratio: float | None = None  # time for the same work, ours being 1
    note: str = ""


def make_row(setting: Setting, contender: str, runs: Sequence[Run], work: Work) -> Row:
    """Put the runs of all rounds together: medians over every measured unit."""
    good = [run for run in runs if run.error is None and run.seconds]
    if not good:
        reasons = [run.error for run in runs if run.error]
        return Row(setting, contender, note=f"not measured: {reasons[-1] if reasons else 'no run'}")
    seconds = [second for run in good for second in run.seconds]
    median = statistics.median(seconds)
    done = (work.texts + good[0].probed) / work.texts  # share of the work that was really computed
    shares = [run.input_share for run in good if run.input_share is not None]
    losses = [run.loss for run in good if run.loss is not None]
    failed = len(runs) - len(good)
    others = max(run.others for run in good)
    notes = [f"{failed} of {len(runs)} runs failed"] if failed else []
    notes += [f"other programs took {others:.0%} of the machine"] if others > DISTURBED else []
    return Row(
        setting,
        contender,
        median=median,
        fastest=min(seconds),
        slowest=max(seconds),
        units=len(seconds),
        texts_per_second=work.texts * done / median,
        tokens_per_second=work.tokens * done / median,
        flops=work.flops * done / median,
        peak_bytes=max(run.peak_bytes for run in good),
        input_share=statistics.median(shares) if shares else None,
        loss=statistics.median(losses) if losses else None,
        user=statistics.median(run.user for run in good),
        system=statistics.median(run.system for run in good),
        others=others,
        sample=good[0].sample,
        note="; ".join(notes),
    )


def compare(rows: Sequence[Row]) -> list[Row]:
    """Say of every row how many times as long it takes as ours at the same setting, and whether its vectors differ."""
    ours = {row.setting: row for row in rows if row.contender == OURS and row.median is not None}
    return [compare_row(row, ours[row.setting]) if row.setting in ours and row.median else row for row in rows]


def compare_row(row: Row, ours: Row) -> Row:
    """Compare one row with ours at the same setting."""
    same = likeness(ours.sample, row.sample)
    notes = [f"vectors differ from ours: cosine {same:.3f}"] if same is not None and same < ALIKE else []
    note = "; ".join(filter(None, [row.note, *notes]))
    return replace(row, ratio=ours.texts_per_second / row.texts_per_second, note=note)


def likeness(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float | None:
    """Return the lowest cosine of two contenders' vectors of the same text; None where there are none."""
    if not ours or not theirs:
        return None
    cosines = []
    for a, b in zip(ours, theirs, strict=True):
        product = sum(x * y for x, y in zip(a, b, strict=True))
        cosines.append(product / max(math.hypot(*a) * math.hypot(*b), 1e-12))
    return min(cosines)


HEADINGS = (
    *("contender", "median s", "min-max s", "cpu s", "in kernel", "texts/s", "tokens/s", "GFLOP/s", "of peak"),
    *("peak MiB", "x ours", ""),
)


def cells(row: Row, peak_flops: float) -> tuple[str, ...]:
    """The row as it is printed."""
    if row.median is None:
        return (row.contender, row.note)
    return (
        row.contender,
        f"{row.median:.3f}",
        f"{row.fastest:.2f}-{row.slowest:.2f}",
        f"{row.user + row.system:.2f}",
        f"{row.system / max(row.user + row.system, 1e-9):.0%}",
        f"{row.texts_per_second:,.1f}",
        f"{row.tokens_per_second:,.0f}",
        f"{row.flops / 1e9:,.0f}",
        f"{row.flops / peak_flops:.0%}",
        f"{row.peak_bytes / MIB:,.0f}",
        f"{row.ratio:.2f}" if row.ratio is not None else "",
        row.note,
    )


def table(rows: Sequence[Row], *, peak_flops: float) -> str:
    """Print one block per setting. `peak_flops`: the fastest matrix product of the machine, whatever its precision."""
    blocks: dict[Setting, list[tuple[str, ...]]] = {}
    for row in rows:
        blocks.setdefault(row.setting, []).append(cells(row, peak_flops))
    whole = [c for block in blocks.values() for c in block if len(c) == len(HEADINGS)]
    widths = [max(len(c[i]) for c in [HEADINGS, *whole]) for i in range(len(HEADINGS))]
    widths[0] = max(len(c[0]) for c in [HEADINGS, *(c for block in blocks.values() for c in block)])

    def line(texts: tuple[str, ...]) -> str:
        rest = (text.rjust(width) for text, width in zip(texts[1:], widths[1:], strict=False))
        return "  ".join([texts[0].ljust(widths[0]), *rest]).rstrip()

    lines = []
    for setting, block in blocks.items():
        lines += ["", str(setting), line(HEADINGS)]
        lines += [line(c) if len(c) == len(HEADINGS) else f"{c[0].ljust(widths[0])}  {c[1]}" for c in block]
    return "\n".join(lines)
