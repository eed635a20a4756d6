"""What a dataset trains: one or several losses with their weights and options, in tiles, at one or several lengths.

LOSSES is the table of all losses. Add one: write the function, add its row, and a naive version in the tests.
"""

from __future__ import annotations

import argparse
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_type_hints

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zh_embedder.core.errors import UserError, reject, unknown_name
from zh_embedder.data.schema import GROUP, LABELLED, PAIR
from zh_embedder.losses import pairs as pair_losses
from zh_embedder.losses import retrieval as losses
from zh_embedder.losses.batch import EmbeddedBatch

TILE = 1 << 20  # scores of queries against keys that are held at once: 4 MiB of fp32
ABOVE_ZERO = ("temperature", "teacher_temperature", "student_temperature", "scale")
KINDS = {GROUP: "queries with keys", PAIR: "scored pairs", LABELLED: "labelled texts"}

LossFn = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A row of the table of losses."""

    compute: LossFn
    data: str = GROUP  # the records that it learns from
    needs: str | None = None  # of them: teacher_scores, or neg
    from_flags: tuple[str, ...] = ()  # options that the run's flags set where a task does not
    whole_step: bool = False  # its value is the step's, not a sum over local queries

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """Its options, with their defaults."""
        return dict(list(inspect.signature(self.compute).parameters.items())[1:])

    def __call__(self, batch: EmbeddedBatch, **options: Any) -> Tensor:
        """Compute it, a scalar."""
        return self.compute(batch, **options)


TEACHER = ("temperature", "teacher_temperature")
LOSSES: Mapping[str, Loss] = {
    "info_nce": Loss(
        compute=losses.info_nce,
        from_flags=("temperature", "in_batch", "false_negative_margin", "false_negative_percent"),
    ),
    "triplet": Loss(compute=losses.triplet, needs="neg"),
    "teacher_kl": Loss(compute=losses.teacher_kl, needs="teacher_scores", from_flags=(*TEACHER, "student_temperature")),
    "margin_mse": Loss(compute=losses.margin_mse, needs="teacher_scores"),
    "ranked_distillation": Loss(
        compute=losses.ranked_distillation, needs="teacher_scores", from_flags=(*TEACHER, "in_batch")
    ),
    "m3_distillation": Loss(compute=losses.m3_distillation, needs="teacher_scores", from_flags=(*TEACHER, "in_batch")),
    "cosine_regression": Loss(compute=pair_losses.cosine_regression, data=PAIR),
    "contrastive": Loss(compute=pair_losses.contrastive, data=PAIR),
    "online_contrastive": Loss(compute=pair_losses.online_contrastive, data=PAIR, whole_step=True),
    "cosent": Loss(compute=pair_losses.cosent, data=PAIR, whole_step=True),
    "angle": Loss(compute=pair_losses.angle, data=PAIR, whole_step=True),
    "supervised_contrastive": Loss(compute=pair_losses.supervised_contrastive, data=LABELLED),
}
DEFAULTS = {PAIR: "cosent", LABELLED: "supervised_contrastive"}  # of records that a task names no loss for


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerm:
    """One summand of a dataset's loss: `weight * LOSSES[name](batch, **options)`.

    Raises:
        UserError: no such loss, no such option of it, or a value that does not fit.
    """

    name: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is unknown or wrong before step 1, not at it."""
        if self.name not in LOSSES:
            raise unknown_name("loss", self.name, LOSSES)
        if not is_number(self.weight) or not self.weight > 0:
            raise reject(f"loss {self.name}: weight", self.weight, "a number above 0")
        known, hints = LOSSES[self.name].options, get_type_hints(LOSSES[self.name].compute)
        for option, value in self.options.items():
            if option not in known:
                raise unknown_name(f"loss {self.name}", option, known)
            check_option(f"loss {self.name}: {option}", option, value, hints[option])

    @property
    def loss(self) -> Loss:
        """Its row in the table."""
        return LOSSES[self.name]

    def filled(self, flags: Mapping[str, Any]) -> LossTerm:
        """Return the term with options of the run's flags where it has none of its own."""
        more = {name: flags[name] for name in self.loss.from_flags if name in flags}
        return LossTerm(name=self.name, weight=self.weight, options={**more, **self.options})

    @property
    def wants_queries(self) -> bool:
        """Tell whether it looks at the queries of all ranks."""
        return self.loss.whole_step or any(self.options.get(name) for name in ("query_to_query", "key_to_query"))


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_option(where: str, name: str, value: Any, hint: Any) -> None:
    """Check an option of a loss against its type and range."""
    if hint is bool:
        if not isinstance(value, bool):
            raise reject(where, value, "true or false")
    elif hint == tuple[float, float]:
        if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(is_number, value)):
            raise reject(where, value, "two numbers, such as [0, 5]")
        if not value[0] < value[1]:
            raise reject(where, value, "the lower number first")
    elif value is not None or hint is float:
        if not is_number(value):
            raise reject(where, value, "a finite number (with a point before an exponent: 1.0e-5)")
        if name in ABOVE_ZERO and not value > 0:
            raise reject(where, value, "a number above 0")
        if name not in ABOVE_ZERO and name != "threshold" and not value >= 0:
            raise reject(where, value, "0 or more")


def parse_terms(value: Any, *, where: str) -> tuple[LossTerm, ...]:
    """Read `loss:` of a version's file: a name, a mapping with `name`, `weight` and options, or a list of these.

    Raises:
        UserError: anything in it is unknown or does not fit.
    """
    entries = value if isinstance(value, list) else [value]
    terms = []
    for entry in entries:
        given = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise reject(where, entry, "the name of a loss, or a mapping with its `name`, `weight` and options")
        options = {name: option for name, option in given.items() if name not in ("name", "weight")}
        try:
            terms.append(LossTerm(name=given["name"], weight=given.get("weight", 1.0), options=options))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    if not terms:
        raise reject(where, value, "at least one loss")
    if len({term.name for term in terms}) < len(terms):
        raise reject(where, value, "each loss once")
    return tuple(terms)


def total_loss(
    batch: EmbeddedBatch, terms: Sequence[LossTerm], *, dimensions: Mapping[int, float] | None = None
) -> Tensor:
    """Weighted sum of the terms, a scalar.

    Args:
        batch: see `EmbeddedBatch`.
        terms: what is trained.
        dimensions: Matryoshka (Kusupati et al. 2022, arXiv 2205.13147): numbers of dimensions that the loss is taken
            at, with their weights; the result is the weighted mean. None: the vectors as they are.
    """
    if not dimensions:
        return torch.stack([term.weight * in_tiles(batch, term) for term in terms]).sum()
    total = sum(dimensions.values())
    shorter = [(batch.truncated(length), weight / total) for length, weight in dimensions.items()]
    return torch.stack([share * total_loss(cut, terms) for cut, share in shorter]).sum()


def in_tiles(batch: EmbeddedBatch, term: LossTerm) -> Tensor:
    """Compute a term over some of the local queries at a time, so that the scores of all are never held at once.

    The sum over queries is the sum of the tiles' sums, and so are its gradients: each tile's are taken at once, while
    its scores are there, and only their sums wait for the backward pass.
    """
    compute = partial(term.loss.compute, **term.options)
    if term.loss.whole_step or len(batch.queries) <= tile_rows(batch):
        return compute(batch)
    if not torch.is_grad_enabled():
        return torch.stack([compute(part) for part in tiles(batch)]).sum()
    found: Tensor = _Tiled.apply(compute, batch, batch.queries, batch.keys, batch.step_queries)
    return found


class _Tiled(torch.autograd.Function):
    """Vectors -> a loss that is a sum over tiles."""

    @staticmethod
    def forward(ctx: Any, compute: LossFn, batch: EmbeddedBatch, *vectors: Tensor | None) -> Tensor:
        own = [v if v is None else v.detach().requires_grad_(v.requires_grad) for v in vectors]
        batch = replace(batch, **dict(zip(("queries", "keys", "step_queries"), own, strict=True)))  # type: ignore[arg-type]
        total = torch.zeros((), device=batch.weights.device)
        with torch.enable_grad():
            for part in tiles(batch):
                loss = compute(part)
                if loss.requires_grad:
                    loss.backward()
                total = total + loss.detach()
        ctx.save_for_backward(*(v if v is None else v.grad for v in own))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(g if g is None else g * grads[0] for g in ctx.saved_tensors)


def tile_rows(batch: EmbeddedBatch) -> int:
    """How many local queries fill a tile with their scores against the step's keys."""
    return max(1, TILE // len(batch.keys))


def tiles(batch: EmbeddedBatch) -> Iterator[EmbeddedBatch]:
    """Yield the batch in parts of so many local queries that their scores against the step's keys fill a tile."""
    rows = tile_rows(batch)
    for first in range(0, len(batch.queries), rows):
        yield batch.rows(slice(first, first + rows))


@torch.no_grad()
def watch(batch: EmbeddedBatch, terms: Sequence[LossTerm]) -> dict[str, Tensor]:
    """Sums over local queries that count, for the log, by name: each a scalar on the device.

    `queries` is how many they are. `masked_by_text` and `masked_by_score` are the keys that InfoNCE leaves out because
    they are known positives, or score too high. `teacher_entropy` is the entropy of the teacher's targets, as a share
    of what it would be were all keys equally good.
    """
    real = batch.weights > 0
    sums = {"queries": real.sum()}
    for term in terms:
        options = term.options
        if term.name == "info_nce":
            limits = {n: options.get(f"false_negative_{n}") for n in ("margin", "percent")}
            counts = [torch.stack(losses.false_negatives(part, **limits)) for part in tiles(batch)]
            sums["masked_by_text"], by_score = torch.stack(counts).sum(dim=0).unbind()
            if any(limit is not None for limit in limits.values()):
                sums["masked_by_score"] = by_score
        elif batch.teacher is not None and "teacher_temperature" in options and batch.teacher.shape[1] > 1:
            share = entropy_share(batch.teacher, options["teacher_temperature"])
            sums["teacher_entropy"] = (share * real).sum()
    return sums


def entropy_share(teacher: Tensor, temperature: float) -> Tensor:
    """Entropy of softmax(teacher / temperature) as a share of the greatest possible: (B, G) -> (B,), within 0 and 1."""
    target = (teacher / temperature).log_softmax(dim=-1)
    return -(target.exp() * target).sum(dim=-1) / math.log(teacher.shape[-1])


def sees_queries(terms: Sequence[LossTerm]) -> bool:
    """Tell whether a loss looks at the queries of all ranks, so that they must be gathered."""
    return any(term.wants_queries for term in terms)


# ---- zh-embedder losses ---------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder losses`."""
    parser.add_argument("name", nargs="?", help="explain this loss, with its options and its source")


def run(args: argparse.Namespace) -> None:
    """List the losses, or explain one."""
    if args.name:
        if args.name not in LOSSES:
            raise unknown_name("loss", args.name, LOSSES)
        sys.stdout.write(
            f"{args.name}: {inspect.getdoc(LOSSES[args.name].compute)}\n\noptions: {options_of(args.name)}\n"
        )
        return
    rows = [("loss", "records", "options")]
    rows += [(name, data_of(loss), options_of(name)) for name, loss in LOSSES.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, data, options in rows:
        sys.stdout.write(f"{name:{widths[0]}}  {data:{widths[1]}}  {options}\n")
    sys.stdout.write(
        "\nA task names its losses in a version's file (used with --use_train_config), or --loss names them for all:\n"
        "  training: {loss: [{name: info_nce, weight: 0.2, temperature: 0.02}, margin_mse]}\n"
    )


def data_of(loss: Loss) -> str:
    """What a loss learns from, in words."""
    return KINDS[loss.data] + (f" and {loss.needs}" if loss.needs else "")


def options_of(name: str) -> str:
    """Options of a loss with their defaults; those that flags set carry a star."""
    loss = LOSSES[name]
    shown = [f"{o}={p.default}{'*' if o in loss.from_flags else ''}" for o, p in loss.options.items()]
    return " ".join(shown) or "none"
