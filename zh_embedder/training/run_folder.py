"""Folder of a run: what may be there before the run begins."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from zh_embedder.core.errors import UserError
from zh_embedder.core.files import real
from zh_embedder.core.outputs import Output, Places, check_outputs, found_inputs

# What a run writes into its folder, and what others put there before it starts: logs and scripts.
RESULTS = ("checkpoint-*", "encoder", "key_encoder")  # an earlier run's are replaced
OURS = (*RESULTS, "args.json", "plan.json", "summary.json", "metrics.json", "report.html", "evaluation", "runs")
WITH_A_RUN = (".*", "*.log", "*.out", "*.err", "*.pid", "*.sh", "*.yaml", "*.yml")


def check_place(run: Path, inputs: Sequence[str], models: Sequence[str | None]) -> None:
    """Refuse a run's folder that is an input, would write over one, or belongs to something else.

    Raises:
        UserError: as of `check_outputs`.
    """
    flag = "--output_dir"
    check_outputs(Places([Output(flag=flag, path=run, folder=True, kept=True)], inputs, models))
    for path in found_inputs([*inputs, *filter(None, models)]):
        inside = real(path).parts[len(real(run).parts) :]
        if real(run) in real(path).parents and any(fnmatchcase(inside[0], one) for one in RESULTS):
            raise UserError(f"{flag}: {run}: the run would replace its input {path}, expected another folder")
    if strange := stranger_in(run):
        raise UserError(
            f"{flag}: {run}: holds {strange} and no run, expected a new or empty folder, or that of a run (logs and "
            "scripts may be there already)"
        )


def stranger_in(run: Path) -> str | None:
    """Return what shows that a folder belongs to something else; None where a run may be there.

    A run adds to its folder, so nothing in it is lost; but a hundred files of a run among those of a project or a data
    set are hard to tell apart again. Launchers write a log or a script there first, and a folder that has seen a run
    may hold whatever its owner keeps with it.
    """
    names = sorted(path.name for path in run.iterdir()) if run.is_dir() else []
    if any(fnmatchcase(name, one) for name in names for one in OURS):
        return None
    return next((name for name in names if not any(fnmatchcase(name, one) for one in WITH_A_RUN)), None)
