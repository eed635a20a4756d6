"""Tasks of evaluation sets that a model has no instruction for, before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zh_embedder.core.errors import UserError, summarise
from zh_embedder.evaluation.sets import EvalSet
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.models.spec import EncoderSpec, read_spec


def check_folders(models: Sequence[str], sets: Sequence[EvalSet], *, task: str | None = None) -> None:
    """Refuse sets for whose task a model's folder has no instruction; what is not a folder is not looked at.

    Args:
        models: as they were typed.
        sets: what they are to be measured on.
        task: what --task says, if it says something.

    Raises:
        UserError: with every such model and set.
    """
    found: list[str] = []
    for name in models:
        folders = [Path(folder) for folder in (encoder_folder(name, flag="MODEL"), key_folder(name)) if folder]
        specs = [spec for folder in folders if folder.is_dir() and (spec := read_spec(folder)) is not None]
        found += problems(name, specs, sets, task=task)
    if found:
        raise summarise(found)


def check_model(name: str, specs: Sequence[EncoderSpec], sets: Sequence[EvalSet]) -> None:
    """As `check_folders`, for a model that is loaded."""
    if found := problems(name, specs, sets):
        raise summarise(found)


def problems(name: str, specs: Sequence[EncoderSpec], sets: Sequence[EvalSet], *, task: str | None = None) -> list[str]:
    """Say of each set for whose task a model has no instruction; one without any is measured without them."""
    told = [spec for spec in specs if spec.instructions]
    found = {data.name: said for spec in told for data in sets if (said := problem(spec, data, task))}
    return [f"MODEL {name}: --data {data}: {said}" for data, said in found.items()]


def problem(spec: EncoderSpec, data: EvalSet, task: str | None) -> str | None:
    """Say that there is no instruction for the task of a set, and what can be done; None where there is one."""
    try:
        spec.prefix(data.task, 0)
    except UserError as error:
        if data.task is None:
            return f"{error}; --task names it"
        typed = "--" if data.task == task else ""
        return f"{typed}{error}; --version NAME gives all models instructions that have this task or a default"
    return None
