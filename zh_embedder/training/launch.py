"""Launch of a run: ranks, machine, resuming, the output folder, seeds."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zh_embedder.core.errors import UserError, nearest_path, reject
from zh_embedder.core.files import remove_empty
from zh_embedder.core.ranks import first_rank, started_ranks

if TYPE_CHECKING:
    from zh_embedder.config.run import Run
    from zh_embedder.training.base_trainer import BaseTrainer

logger = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds for which a run waits for the folder: ranks and workers of one that was killed end within 1


def begin(args: Run) -> None:
    """Do what every run begins with: check the ranks, prepare the machine, log what the flags became."""
    from zh_embedder.core.machine import prepare

    check_world(args)
    if args.train.push_to_hub and first_rank():
        check_hub(args.train.hub_token)
    prepare(args.train.device, threads=args.train.cpu_threads)
    for note in args.notes:
        logger.info("flags: %s", note)


def check_hub(token: str | None) -> None:
    """Refuse --push_to_hub where the hub is out of reach or does not know the user; the Trainer would find out late.

    Raises:
        UserError: with what the hub's library says.
    """
    from huggingface_hub import HfApi

    from zh_embedder.config.inherited_checks import one_line

    try:
        HfApi(token=token).whoami()
    except Exception as error:  # its own kinds, and those of the libraries below it
        raise UserError(f"--push_to_hub: the hub cannot be used: {one_line(error)}") from None


def check_world(args: Run) -> None:
    """Refuse ranks that do not know of each other."""
    started = started_ranks()
    if started != args.train.world_size:
        raise UserError(
            f"WORLD_SIZE is {started} but transformers sees {args.train.world_size} ranks: they would train "
            "unconnected models. Start with torchrun, and check that the accelerator is visible to every rank"
        )


@contextmanager
def own_folder(args: Run, *, inputs: Sequence[str], models: Sequence[str | None]) -> Iterator[None]:
    """Be the only run that writes in --output_dir, all ranks together; a folder that stays empty goes again.

    The first rank holds the lock to the end of the run.

    Args:
        args: the flags.
        inputs: files, folders and globs that the run reads.
        models: bases that it starts from.

    Raises:
        UserError: another run writes there, nothing can be written there, or it is the place of something else; every
            rank raises it.
    """
    from zh_embedder.core.distributed import found_by_first
    from zh_embedder.core.outputs import only_writer
    from zh_embedder.training.run_folder import check_place

    flag, run = "--output_dir", Path(str(args.train.output_dir))
    with ExitStack() as held:

        def take() -> None:
            check_place(run, inputs, models)
            give_up = time.monotonic() + PATIENCE
            while True:
                try:
                    held.enter_context(only_writer(flag, run))
                    break
                except UserError:
                    if time.monotonic() > give_up:
                        raise
                    time.sleep(PATIENCE / 10)
            if not run.exists():
                held.callback(remove_empty, [run])

        found_by_first(take)
        yield


def find_resume(args: Run) -> Path | None:
    """Find the checkpoint to resume from: a folder, or the newest whole one of the run where the flag says True.

    The first rank reads it whole, once for all ranks.

    Raises:
        UserError: there is none, or it is not whole.
    """
    from zh_embedder.config.run import NO_CHECKPOINT
    from zh_embedder.core.distributed import found_by_first

    asked = args.train.resume_from_checkpoint
    if str(asked).lower() in NO_CHECKPOINT:
        return None
    if str(asked).lower() == "true":
        return found_by_first(lambda: newest_whole(Path(str(args.train.output_dir))))
    return found_by_first(lambda: check_whole(Path(str(asked))))


def newest_whole(run: Path) -> Path:
    """Find the newest whole checkpoint of a run; the log names each newer one with what is wrong with it.

    Raises:
        UserError: none is whole.
    """
    from zh_embedder.training.checkpoint_manifest import checkpoints_of, find_damage

    torn = list[str]()
    for checkpoint in checkpoints_of(run):
        if (damage := find_damage(checkpoint)) is None:
            for message in torn:
                logger.warning("--resume_from_checkpoint: %s; an older one is taken", message)
            return checkpoint
        torn.append(f"{checkpoint} is torn: {damage}")
    raise UserError("\n".join([f"--resume_from_checkpoint: no complete checkpoint in {run}", *torn]))


def check_whole(checkpoint: Path) -> Path:
    """Refuse a checkpoint that is not whole, naming the file.

    Raises:
        UserError: it is not, or there is none.
    """
    from zh_embedder.training.checkpoint_manifest import find_damage

    flag = "--resume_from_checkpoint"
    if not checkpoint.is_dir():
        raise reject(flag, str(checkpoint), f"True, or the folder of a checkpoint{nearest_path(checkpoint)}")
    if (damage := find_damage(checkpoint)) is not None:
        raise UserError(
            f"{flag}: {checkpoint} is not a complete checkpoint: {damage}; {flag} True takes the newest one that is"
        )
    return checkpoint


def check_output(args: Run, resume: Path | None) -> None:
    """Refuse to write over a run that no flag asks to replace."""
    run = Path(str(args.train.output_dir))
    taken = [p.name for p in [*run.glob("checkpoint-*"), run / "encoder"] if p.exists()]
    if taken and resume is None and not args.train.overwrite:
        raise UserError(
            f"--output_dir: {run} already holds a run ({', '.join(sorted(taken)[:4])}); resume it with "
            "--resume_from_checkpoint True, replace it with --overwrite, or choose another folder"
        )


def clear_output(args: Run) -> None:
    """Remove the checkpoints and figures of the run that is replaced, which would pass for those of this one."""
    from zh_embedder.core.distributed import wait_for_all
    from zh_embedder.training.evaluate import FOLDER, WORDS

    if args.train.should_save:
        # Our files alone: a folder of this name may be the user's.
        for name in ("step-*.json", f"{WORDS}.json", "summary.json"):
            for figures in (Path(str(args.train.output_dir)) / FOLDER).glob(name):
                figures.unlink()
        for old in Path(str(args.train.output_dir)).glob("checkpoint-*"):
            logger.info("--overwrite: %s removed", old)
            shutil.rmtree(old)
    wait_for_all()


def seed_rank(args: Run) -> None:
    """Give each rank its own dropout; weights and plan are the same everywhere already."""
    import torch

    torch.manual_seed(args.train.seed + args.train.process_index)


def train_and_save(args: Run, trainer: BaseTrainer, resume: Path | None, *, describe: Callable[[], None]) -> bool:
    """Train from the start or from a checkpoint, and save the model.

    Args:
        args: the flags.
        trainer: that trains.
        resume: the checkpoint.
        describe: logs the run before step 1.

    Returns:
        Whether anything was trained: a finished run is only completed, where its result is missing.

    Raises:
        UserError: nothing can be trained; then nothing is saved.
    """
    steps = trainer.planned_steps()
    if steps < 1:
        asked = ("max_steps", args.train.max_steps), ("num_train_epochs", args.train.num_train_epochs)
        name, value = asked[args.train.max_steps < 0]
        raise reject(f"--{name}", value, "at least one step of training; nothing is saved")
    if resume is not None:
        trainer.check_resume(resume)
        if (why := trainer.why_finished(resume)) is not None:
            trainer.complete(resume, why)
            return False
    else:
        clear_output(args)
    if first_rank():
        describe()
    seed_rank(args)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if trainer.trained_steps() < 1:
        raise UserError("no step was trained, so no model is saved")
    trainer.save_model()
    return True
