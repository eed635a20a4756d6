"""Table of losses, and the weighted terms that a dataset trains.

LOSSES is the table of all losses. Add one: write the function, add its row, and a naive version in the tests.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, get_type_hints

import torch
from torch import Tensor

from zh_embedder.core.errors import UserError, reject, unknown_name
from zh_embedder.data.schema import GROUP, LABELLED, PAIR, QUERY_TEXT, TEXT
from zh_embedder.losses import pairs, retrieval, vectors
from zh_embedder.losses.batch import LossBatch
from zh_embedder.losses.tiles import in_tiles

ABOVE_ZERO = ("temperature", "teacher_temperature", "student_temperature", "scale")
ANY = "any"  # records that a loss of vectors learns from
KINDS = {
    GROUP: "queries with keys",
    PAIR: "scored pairs",
    LABELLED: "labelled texts",
    TEXT: "texts alone",
    QUERY_TEXT: "queries alone",
    ANY: "any records",
}
VECTORS = "teacher_vectors"  # what losses of vectors need

LossFn = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Options that the run's flags set in every loss of queries with keys that has them; None sets nothing."""

    temperature: float | None = None
    teacher_temperature: float | None = None
    student_temperature: float | None = None
    in_batch: bool | None = None
    false_negative_margin: float | None = None
    false_negative_percent: float | None = None


RUN_OPTIONS = frozenset(option.name for option in fields(RunOptions))


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A row of the table of losses."""

    compute: LossFn
    data: str = GROUP  # the records that it learns from
    needs: str | None = None  # of them: teacher_scores, neg, or teacher_vectors
    whole_step: bool = False  # its value is the step's, not a sum over local queries

    @property
    def from_flags(self) -> tuple[str, ...]:
        """Options that the run's flags set where a task does not: those of queries with keys that a flag shares."""
        return tuple(name for name in self.options if self.data == GROUP and name in RUN_OPTIONS)

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """Its options, with their defaults."""
        return dict(list(inspect.signature(self.compute).parameters.items())[1:])

    def fits(self, kind: str) -> bool:
        """Whether it learns from records of a kind."""
        return self.data in (kind, ANY)

    def __call__(self, batch: LossBatch, **options: Any) -> Tensor:
        """Compute it, a scalar."""
        return self.compute(batch, **options)


LOSSES: Mapping[str, Loss] = {
    "info_nce": Loss(compute=retrieval.info_nce),
    "triplet": Loss(compute=retrieval.triplet, needs="neg"),
    "teacher_kl": Loss(compute=retrieval.teacher_kl, needs="teacher_scores"),
    "margin_mse": Loss(compute=retrieval.margin_mse, needs="teacher_scores"),
    "ranked_distillation": Loss(compute=retrieval.ranked_distillation, needs="teacher_scores"),
    "m3_distillation": Loss(compute=retrieval.m3_distillation, needs="teacher_scores"),
    "cosine_regression": Loss(compute=pairs.cosine_regression, data=PAIR),
    "contrastive": Loss(compute=pairs.contrastive, data=PAIR),
    "online_contrastive": Loss(compute=pairs.online_contrastive, data=PAIR, whole_step=True),
    "cosent": Loss(compute=pairs.cosent, data=PAIR, whole_step=True),
    "angle": Loss(compute=pairs.angle, data=PAIR, whole_step=True),
    "supervised_contrastive": Loss(compute=pairs.supervised_contrastive, data=LABELLED),
    "vector_mse": Loss(compute=vectors.vector_mse, data=ANY, needs=VECTORS),
    "vector_cosine": Loss(compute=vectors.vector_cosine, data=ANY, needs=VECTORS),
    "similarity_kl": Loss(compute=vectors.similarity_kl, data=ANY, needs=VECTORS),
}
OF_VECTORS = tuple(name for name, loss in LOSSES.items() if loss.needs == VECTORS)
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

    def filled(self, flags: RunOptions) -> LossTerm:
        """Return the term with options of the run's flags where it has none of its own."""
        given = {name: getattr(flags, name) for name in self.loss.from_flags}
        more = {name: value for name, value in given.items() if value is not None}
        return LossTerm(name=self.name, weight=self.weight, options={**more, **self.options})

    def compute(self, batch: LossBatch) -> Tensor:
        """Compute the term without its weight, a scalar; in tiles, unless it compares all pairs of the step."""
        loss = partial(self.loss.compute, **self.options)
        return loss(batch) if self.loss.whole_step else in_tiles(batch, loss)

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


def total_loss(batch: LossBatch, terms: Sequence[LossTerm], *, dimensions: Mapping[int, float] | None = None) -> Tensor:
    """Weighted sum of the terms, a scalar.

    Args:
        batch: see `LossBatch`.
        terms: what is trained.
        dimensions: Matryoshka (Kusupati et al. 2022, arXiv 2205.13147): numbers of dimensions that the loss is taken
            at, with their weights; the result is the weighted mean. None: the vectors as they are.
    """
    if not dimensions:
        return torch.stack([term.weight * term.compute(batch) for term in terms]).sum()
    total = sum(dimensions.values())
    shorter = [(batch.truncated(length), weight / total) for length, weight in dimensions.items()]
    return torch.stack([share * total_loss(cut, terms) for cut, share in shorter]).sum()


def learns_vectors(terms: Sequence[LossTerm]) -> bool:
    """Whether a loss learns from a teacher's vectors."""
    return any(term.loss.needs == VECTORS for term in terms)


def sees_queries(terms: Sequence[LossTerm]) -> bool:
    """Tell whether a loss looks at the queries of all ranks, so that they must be gathered."""
    return any(term.wants_queries for term in terms)


def data_of(loss: Loss) -> str:
    """What a loss learns from, in words."""
    return KINDS[loss.data] + (f" and {loss.needs}" if loss.needs else "")


def options_of(name: str) -> str:
    """Options of a loss with their defaults; those that flags set carry a star."""
    loss = LOSSES[name]
    shown = [f"{o}={p.default}{'*' if o in loss.from_flags else ''}" for o, p in loss.options.items()]
    return " ".join(shown) or "none"
