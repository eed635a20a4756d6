"""Version of a model that is measured: its instructions in place of the model's own, and whether they suit it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from zh_embedder.config.instructions import Version, sides_of
from zh_embedder.config.run_version import contradiction
from zh_embedder.evaluation.model import Model
from zh_embedder.evaluation.sets import EvalSet
from zh_embedder.models.spec import ANY_TASK, instructions_for

logger = logging.getLogger(__name__)


def use_version(model: Model, version: Version) -> None:
    """Have a model's encoders use a version's instructions in place of their own."""
    default = ANY_TASK if version.default is not None else None
    for encoder in (model.query, model.key):
        told, sides = version.instructions, sides_of(version)
        encoder.spec = replace(encoder.spec, instructions=told, default_task=default, truncation_sides=sides)


def warn_of_contradiction(model: Model, sets: Sequence[EvalSet], *, flag: str) -> None:
    """Log a warning where instructions that a flag chose do not begin with a model's own prompts."""
    pairs = {task: instructions_for(model.query.spec.instructions, task) for task in tasks_of(sets)}
    chosen = {task: pair for task, pair in pairs.items() if pair is not None}
    if said := contradiction(chosen, (model.query.brought, model.key.brought), base=model.name, flag=flag):
        logger.warning("%s", said)


def tasks_of(sets: Sequence[EvalSet]) -> list[str]:
    """Tasks of evaluation sets, each once; those without one are told what serves every task."""
    return list(dict.fromkeys(data.task or ANY_TASK for data in sets))
