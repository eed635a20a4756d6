"""Examination pipeline: settings, one pass over the files, report, cleaned copy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.doctoring.fixes import FOLDER, LEDGER, write_fixed
from data_tools.doctoring.leak_checks import read_eval_texts
from data_tools.doctoring.record_checks import MIN_INSTRUCTION, DoctorSettings
from data_tools.doctoring.survey import Survey
from data_tools.doctoring.text_checks import scripts
from zh_embedder.config.instructions import Version, known_versions, read_version
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import write_json
from zh_embedder.core.numbers import AMOUNT, COUNT, LENGTH, POSITIVE, SIMILARITY
from zh_embedder.core.options import check_numbers, limited


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorOptions:
    """What to examine, with what training in mind, and what to write."""

    files: Sequence[Path]
    version: str | None = None
    evals: Sequence[str] = ()
    query_encoder: str | None = None
    query_max_length: int = limited(256, LENGTH)
    key_max_length: int = limited(256, LENGTH)
    train_group_size: int | None = limited(None, COUNT)
    per_device_train_batch_size: int = limited(16, COUNT)
    ranks: int = limited(1, COUNT)
    teacher_temperature: float = limited(1.0, POSITIVE)
    near: float = limited(0.85, SIMILARITY)
    leak_near: float = limited(0.8, SIMILARITY)
    examples: int = limited(3, AMOUNT, flag="show")  # findings shown of each kind
    fix: Path | None = None
    json: Path | None = None

    def __post_init__(self) -> None:
        check_numbers(self)


def settings_of(options: DoctorOptions) -> DoctorSettings:
    """Read the version and the tokenizer.

    Raises:
        UserError: one of them is not there.
    """
    version = read_version(options.version) if options.version else None
    return DoctorSettings(
        instructions=instructions_of([version] if version else readable_versions()),
        version=version,
        near=options.near,
        leak_near=options.leak_near,
        train_group_size=options.train_group_size,
        step_batch=options.per_device_train_batch_size * options.ranks,
        teacher_temperature=options.teacher_temperature,
        tokenizer=load_tokenizer(options.query_encoder) if options.query_encoder else None,
        base=options.query_encoder or "",
        max_lengths=(options.query_max_length, options.key_max_length),
    )


def readable_versions() -> list[Version]:
    """Return all known versions; one that is wrong is no matter of the data."""
    found = []
    for path in known_versions().values():
        try:
            found.append(read_version(str(path)))
        except UserError:
            continue
    return found


def instructions_of(versions: Sequence[Version]) -> tuple[str, ...]:
    """Return all instructions of versions, the longest first."""
    specs = [spec for v in versions for spec in (*v.tasks.values(), *([v.default] if v.default else []))]
    texts = {text.strip() for spec in specs for text in (spec.query, spec.key)}
    return tuple(sorted((t for t in texts if len(t) >= MIN_INSTRUCTION), key=lambda t: (-len(t), t)))


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer of a model: lengths need no weights, which may be gigabytes.

    Raises:
        UserError: there is none.
    """
    from zh_embedder.bases import names
    from zh_embedder.models.folders import encoder_folder

    return names.load_tokenizer(encoder_folder(name, flag="--query_encoder"), flag="--query_encoder")


def not_checked(options: DoctorOptions) -> list[str]:
    """List what was not looked for, and why."""
    found = []
    if not options.evals:
        found.append("leaks: name evaluation sets with --eval")
    if not options.query_encoder:
        found.append("truncation and unknown characters: name a model with --query_encoder")
    if not options.train_group_size:
        found.append("too few negatives: give --train_group_size")
    if scripts() is None:
        found.append("Traditional and Simplified: pip install 'zh-embedder[tools]'")
    return found


def examine(options: DoctorOptions) -> bool:
    """Examine, report, and write a cleaned copy where asked to; returns whether there are no errors."""
    settings = settings_of(options)
    evals = read_eval_texts(options.evals, settings) if options.evals else None
    survey = Survey(options.files, settings, evals).run()
    findings, skipped = survey.findings, not_checked(options)
    lines = [*findings.lines(options.examples), "", *findings.table(), ""]
    lines += [
        f"{counted(survey.records, 'record')} in {counted(len(options.files), 'file')}, "
        f"{counted(len(survey.profiles), 'dataset')}"
    ]
    lines += [f"not checked: {reason}" for reason in skipped]
    if options.json is not None:
        report = {**findings.as_json(), "records": survey.records, "files": list(map(str, options.files))}
        write_json(options.json, {**report, "not_checked": skipped})
    if options.fix is not None:
        written, changes = write_fixed(survey, options.fix)
        done = counted(written, "record"), counted(changes, "change")
        lines += [f"{options.fix}/{FOLDER}: {done[0]}, {done[1]} in {options.fix}/{LEDGER}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return not findings.errors
