"""The report of a run: what training brought, from the log and the outcomes that it kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from zh_embedder.core.files import write_json
from zh_embedder.core.provenance import manifest
from zh_embedder.evaluation.outcome import Outcome
from zh_embedder.report.page import Report, SetReport, write_report
from zh_embedder.training.dense_trainer import DenseTrainer
from zh_embedder.training.evaluate import FOLDER, WORDS, curves, load_outcomes

REPORT_FILE, SUMMARY_FILE = "report.html", "summary.json"


def report_run(trainer: DenseTrainer) -> Path | None:
    """Write the report of a run that was measured, on the rank that writes; returns where it is.

    Step 0 is compared with what was saved: the best step where it was asked for, else the last one.
    """
    if trainer.watched is None or not trainer.args.should_save:
        return None
    run, state = Path(trainer.args.output_dir), trainer.state
    steps = [int(path.stem.split("-")[-1]) for path in (run / FOLDER).glob("step-*.json")]
    if not steps:
        return None
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    first, last = load_outcomes(run, 0), load_outcomes(run, best or max(steps))
    found = {outcome.data: [outcome] for outcome in first}
    words = load_outcomes(run, WORDS)
    for outcome in [*last, *words]:
        if outcome.model not in {known.model for known in found.get(outcome.data, [])}:
            found.setdefault(outcome.data, []).append(outcome)
    report = Report(
        title=run.name,
        sets=[SetReport(data, found[data.name]) for data in trainer.watched.every if data.name in found],
        curves=curves(state.log_history, last),
        losses=losses(state.log_history),
        settings=json.loads(trainer.settings),
        manifest=manifest(data=trainer.files(), seed=trainer.args.seed),
        canary=None if trainer.watched.canary is None else trainer.watched.canary.name,
    )
    write_report(report, run / REPORT_FILE)
    write_json(
        run / FOLDER / SUMMARY_FILE,
        {"step": best or max(steps), "base": rows(first), "saved": rows(last), "bm25": rows(words)},
    )
    return run / REPORT_FILE


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """Lay outcomes out as rows of JSON."""
    return [
        {"data": outcome.data, "task": outcome.task, "metric": metric, "value": value}
        for outcome in outcomes
        for metric, value in outcome.values.items()
    ]


def losses(history: list[dict[str, float]]) -> dict[str, list[tuple[int, float]]]:
    """Loss of each task over the steps of a Trainer's log."""
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            if name.startswith("loss/"):
                found.setdefault(name.removeprefix("loss/"), []).append((int(entry["step"]), float(value)))
    return found
