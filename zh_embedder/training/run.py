"""Training run: flags -> records -> encoder -> Trainer -> folders."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zh_embedder.core.errors import UserError

if TYPE_CHECKING:
    from zh_embedder.config.instructions import Version
    from zh_embedder.config.train import Arguments

logger = logging.getLogger(__name__)


def train(args: Arguments) -> None:
    """Train as the flags say.

    Raises:
        UserError: anything that the user can fix; nothing has been written then.
    """
    from zh_embedder.data.sources import below_root
    from zh_embedder.training.launch import begin, own_folder

    begin(args)
    data, model = args.data, args.model
    read = [*(data.train_data or ()), *(args.eval.eval_data or ()), *filter(None, (args.eval.corpus, args.eval.canary))]
    inputs = [below_root(spec, data.data_root) for spec in read]
    models = [model.query_encoder, model.key_encoder, model.tokenizer_name, *(args.train.teacher_encoder or ())]
    with own_folder(args, inputs=inputs, models=models):
        train_in_folder(args)


def train_in_folder(args: Arguments) -> None:
    """Train, with the run's folder for this run alone."""
    from zh_embedder.data.records import load_datasets, merge_small
    from zh_embedder.data.sources import find_files
    from zh_embedder.training.build import build
    from zh_embedder.training.evaluate import read_watched
    from zh_embedder.training.held_out import hold_out
    from zh_embedder.training.launch import check_output, find_resume, train_and_save
    from zh_embedder.training.report_writer import REPORT_FILE, losses, report_run
    from zh_embedder.training.summary import describe, which_step, without_lesson

    resume = find_resume(args)
    check_output(args, resume)
    args, version = with_version(args, resume)
    files = find_files(args.data.train_data or [], data_root=args.data.data_root)
    datasets = load_datasets(files, cache_dir=args.data.dataset_cache_dir)
    if args.data.small_threshold or args.data.drop_threshold:
        datasets, merged = merge_small(datasets, small=args.data.small_threshold, drop=args.data.drop_threshold)
        for note in merged:
            logger.info("data: %s", note)
        if not datasets:
            raise UserError(
                f"--drop_threshold: got {args.data.drop_threshold}, above the records of every dataset: none is left"
            )
    datasets, held_out = hold_out(datasets, share=args.eval.validation_share, seed=args.train.order_seed)
    trainer = build(args, version, datasets, read_watched(args.eval, held_out, data_root=args.data.data_root))
    trained = train_and_save(args, trainer, resume, describe=lambda: describe(args, trainer, resume))
    trainer.say_best()
    if trained and (said := without_lesson(trainer, losses(trainer.state.log_history))):
        logger.warning("%s", said)
    if (trained or not (Path(trainer.args.output_dir) / REPORT_FILE).is_file()) and (written := report_run(trainer)):
        logger.info("report: %s", written)
    if trained and trainer.args.should_save:
        logger.info("saved: %s: %s", Path(trainer.args.output_dir) / "encoder", which_step(trainer.args, trainer.state))


def with_version(args: Arguments, resume: Path | None) -> tuple[Arguments, Version]:
    """Return the settings with the version that the run has, and the version; the log says which and why.

    Raises:
        UserError: it is not found, or something in it is wrong.
    """
    from zh_embedder.config.resumed import changes
    from zh_embedder.config.run_version import choose_version, resumed_version, without_training
    from zh_embedder.core.files import read_json
    from zh_embedder.training.base_trainer import ARGS_FILE

    data = args.data
    if resume is None:
        choice = choose_version(data.version, args.model.query_encoder, directory=data.instructions_dir)
    else:
        settings = read_json(resume / ARGS_FILE)
        choice = resumed_version(data.version, settings, str(resume), directory=data.instructions_dir)
        if differing := list(changes(settings, json.loads(args.to_json()))):
            logger.warning(
                "--resume_from_checkpoint: %s was trained with other settings, so the result is that of neither:\n  %s",
                resume,
                "\n  ".join(differing),
            )
    version = choice.read()
    logger.info("instructions: %s", choice if data.add_instruction else "none (--add_instruction False)")
    if data.use_train_config and without_training(version):
        logger.warning("--use_train_config: version %s has no training settings: the flags alone count", choice.name)
    return replace(args, data=replace(data, version=choice.name, instructions_dir=choice.directory)), version
