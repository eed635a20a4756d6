"""Report of a run: what training brought, from the log and the outcomes that it kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from zh_embedder.config.evaluation import MEAN
from zh_embedder.core.files import write_json
from zh_embedder.core.provenance import manifest
from zh_embedder.evaluation.left_out import left_out
from zh_embedder.evaluation.outcome import Outcome
from zh_embedder.models.folders import encoder_folder
from zh_embedder.models.lora import has_lora
from zh_embedder.models.spec import instructions_for, read_spec
from zh_embedder.report.decline import Points, RunFacts, TaskFacts
from zh_embedder.report.page import write_report
from zh_embedder.report.page_data import Report, SetReport, verdict_of
from zh_embedder.report.verdict import Verdict, terminal
from zh_embedder.training.dense_trainer import DenseTrainer
from zh_embedder.training.evaluate import FOLDER, WORDS, curves, load_outcomes
from zh_embedder.training.summary import cut_shares, cut_warnings

logger = logging.getLogger(__name__)

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
    saved = best or max(steps)
    first, last, words = load_outcomes(run, 0), load_outcomes(run, saved), load_outcomes(run, WORDS)
    found: dict[str, list[Outcome]] = {}
    for outcome in [*first, *(last if saved else ()), *words]:
        found.setdefault(outcome.data, []).append(outcome)
    curved, lost = curves(state.log_history, last), losses(state.log_history)
    report = Report(
        title=run.name,
        sets=[SetReport(data, found[data.name]) for data in trainer.watched.every if data.name in found],
        curves=curved,
        losses=lost,
        settings=json.loads(trainer.settings),
        manifest=manifest(data=trainer.files(), seed=trainer.args.seed),
        facts=facts_of(trainer, saved=saved, means=curved.get(MEAN, ())),
        cut_in_training=cut_warnings(trainer),
    )
    write_report(report, run / REPORT_FILE)
    say(verdict_of(report))
    write_json(
        run / FOLDER / SUMMARY_FILE,
        {"step": saved, "base": rows(first), "saved": rows(last), "bm25": rows(words)},
    )
    return run / REPORT_FILE


def say(verdict: Verdict) -> None:
    """Say in the terminal what the page says on top, and loudly where something fell."""
    (logger.warning if verdict.falls else logger.info)("verdict: %s", terminal(verdict))


def most_cut(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Return the greater share of queries and of keys that are cut."""
    return max(first[0], second[0]), max(first[1], second[1])


def facts_of(trainer: DenseTrainer, *, saved: int, means: Points) -> RunFacts:
    """Collect what may explain a decline."""
    sets, query = trainer.rows.sets, trainer.model.query
    sizes = [len(one) for one in sets]
    shares = trainer.shares or [size / sum(sizes) for size in sizes]
    known = base_instructions(json.loads(trainer.settings)["query_encoder"])
    tasks: dict[str, TaskFacts] = {}
    for index, (one, share) in enumerate(zip(sets, shares, strict=True)):
        before = tasks.get(one.task)
        own = one.query_prefix, one.key_prefix
        tasks[one.task] = TaskFacts(
            records=len(one) + (before.records if before else 0),
            share=share + (before.share if before else 0.0),
            negatives=one.records.has_negatives or bool(before and before.negatives),
            new_instruction=known is not None and any(own) and instructions_for(known, one.task) != own,
            cut=most_cut(cut_shares(trainer, index), before.cut if before else (0.0, 0.0)),
        )
    return RunFacts(
        learning_rate=trainer.args.learning_rate,
        whole_transformer=bool(getattr(query.config, "num_hidden_layers", 0)) and not has_lora(query.backbone),
        saved=saved,
        tasks=tasks,
        losses={task: list(enumerate(curve.read())) for task, curve in trainer.trace.tasks.items()},
        means=means,
        course=trainer.trace.losses.read(),
        norms=trainer.trace.norms.read(),
    )


def base_instructions(name: str) -> Mapping[str, tuple[str, str]] | None:
    """Return the instructions that the base brings; None where its folder is not here to be read."""
    folder = Path(encoder_folder(name))
    spec = read_spec(folder) if folder.is_dir() else None
    return None if spec is None else spec.instructions


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """Lay outcomes out as rows of JSON."""
    return [
        {"data": outcome.data, "task": outcome.task, "metric": metric, "value": value} | left_out(outcome)
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
