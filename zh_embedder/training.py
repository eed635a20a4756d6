"""The run: flags -> records -> encoder -> Trainer -> folders. What `run_dense.py` calls."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_embedder.errors import UserError, message_of, reject
from zh_embedder.quiet import quiet_deepspeed

if TYPE_CHECKING:
    from zh_embedder.arguments import Arguments
    from zh_embedder.encoder import Encoder
    from zh_embedder.instructions import Version
    from zh_embedder.monitor import Watched
    from zh_embedder.run_arguments import Run
    from zh_embedder.settings import DatasetPlan
    from zh_embedder.trainer import DenseTrainer

logger = logging.getLogger(__name__)


def first_rank() -> bool:
    """Tell whether this process speaks for all."""
    return int(os.environ.get("RANK", "0")) == 0


class AboveBars(logging.Handler):
    """Write messages above the progress bars, not through them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message to the error stream."""
        from tqdm.auto import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def start_logging() -> None:
    """Messages of the first rank to the terminal; only warnings of the others."""
    handler = AboveBars()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("zh_embedder", "data_tools"):
        ours = logging.getLogger(name)
        ours.handlers, ours.propagate = [handler], False
        ours.setLevel(logging.INFO if first_rank() else logging.ERROR)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from a command line. Returns the exit code: 2 for a user's mistake, said without a traceback."""

    def work() -> None:
        from zh_embedder.arguments import parse

        args = parse(argv)
        if args.data.train_data:
            train(args)
        else:
            measure(args)

    return run_ranked(work)


def run_ranked(work: Callable[[], None]) -> int:
    """Do the work of a command that may be one of many ranks; returns the exit code, as `main` does."""
    start_logging()
    try:
        # Tokenizers that were used before a loader's worker forks would only warn; the workers are the parallelism.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        quiet_deepspeed()
        work()
    except (UserError, OSError) as error:
        message = message_of(error)
        if first_rank():
            sys.stderr.write(message)
        return 2
    finally:
        leave_group()
    return 0


def leave_group() -> None:
    """Leave the process group, where one was started, so that its threads end before the interpreter does.

    A gloo thread that still lets go of a tensor while the interpreter ends aborts the process. The group joins its
    threads when the last reference goes, and DDP's hides in the trainer's reference cycles.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()
        gc.collect()


def begin(args: Run) -> None:
    """Do what every run begins with: check the ranks, prepare the machine, say what the flags became."""
    from zh_embedder.machine import prepare

    check_world(args)
    prepare(args.train.device, threads=args.train.cpu_threads)
    for note in args.notes:
        logger.info("flags: %s", note)


def train(args: Arguments) -> None:
    """Train as the flags say.

    Raises:
        UserError: anything that the user can mend; nothing has been written then.
    """
    from zh_embedder.description import describe
    from zh_embedder.instructions import read_version
    from zh_embedder.monitor import read_watched
    from zh_embedder.records import load_datasets, merge_small
    from zh_embedder.run_report import report_run
    from zh_embedder.sources import find_files
    from zh_embedder.tables import cache_folder
    from zh_embedder.token_cache import with_tokens
    from zh_embedder.validation_split import hold_out

    begin(args)
    version = read_version(args.data.version, directory=args.data.instructions_dir)
    resume = find_resume(args)
    check_output(args, resume)
    files = find_files(args.data.train_data or [], data_root=args.data.data_root)
    datasets = load_datasets(files, cache_dir=args.data.dataset_cache_dir)
    if args.data.small_threshold or args.data.drop_threshold:
        datasets, merged = merge_small(datasets, small=args.data.small_threshold, drop=args.data.drop_threshold)
        for note in merged:
            logger.info("data: %s", note)
    datasets, held_out = hold_out(datasets, share=args.eval.validation_share, seed=args.train.order_seed)
    trainer = build(args, version, datasets, read_watched(args.eval, held_out, data_root=args.data.data_root))
    if resume is not None:
        trainer.check_resume(resume)
    else:
        clear_output(args)
    if first_rank():
        describe(args, trainer, resume)
    trainer.rows.sets = with_tokens(
        trainer.rows.sets,
        trainer.model.collator(),
        cache=cache_folder(args.data.dataset_cache_dir, "tokens"),
        choice=args.data.token_cache,
        device=args.train.device,
    )
    seed_rank(args)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.save_model()
    trainer.say_best()
    if written := report_run(trainer):
        logger.info("report: %s", written)
    if trainer.args.should_save:
        logger.info("saved: %s", Path(trainer.args.output_dir) / "encoder")


def measure(args: Arguments) -> None:
    """Measure --eval_data, as there is nothing to train.

    Raises:
        UserError: anything that the user can mend.
    """
    from zh_embedder.retrieval_run import evaluate

    begin(args)
    evaluate(args)


def check_world(args: Run) -> None:
    """Refuse ranks that do not know of each other."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != args.train.world_size:
        raise UserError(
            f"WORLD_SIZE is {started} but transformers sees {args.train.world_size} ranks: they would train "
            "unconnected models. Start with torchrun, and check that the accelerator is visible to every rank"
        )


def find_resume(args: Run) -> Path | None:
    """Find the checkpoint to go on from: a folder, or the newest whole one of the run where the flag says True.

    Raises:
        UserError: there is none, or it is not whole.
    """
    from zh_embedder.checkpoints import checkpoints, is_whole

    asked = args.train.resume_from_checkpoint
    if asked is None or str(asked).lower() in ("false", "none", ""):
        return None
    if str(asked).lower() == "true":
        found = checkpoints(Path(str(args.train.output_dir)))
        if not found:
            raise UserError(f"--resume_from_checkpoint: no whole checkpoint in {args.train.output_dir}")
        return found[-1]
    if not is_whole(Path(asked)):
        raise UserError(f"--resume_from_checkpoint: {asked} is not a whole checkpoint of this program")
    return Path(asked)


def check_output(args: Run, resume: Path | None) -> None:
    """Refuse to write over a run that nobody asked to replace."""
    run = Path(str(args.train.output_dir))
    if run.is_file():
        raise UserError(f"--output_dir: {run} is a file, expected a folder")
    taken = [p.name for p in [*run.glob("checkpoint-*"), run / "encoder"] if p.exists()]
    if taken and resume is None and not args.train.overwrite_output_dir:
        raise UserError(
            f"--output_dir: {run} holds a run ({', '.join(sorted(taken)[:4])}); go on with "
            "--resume_from_checkpoint True, replace it with --overwrite_output_dir, or choose another folder"
        )


def clear_output(args: Run) -> None:
    """Remove the checkpoints and figures of the run that is replaced, which would pass for those of this one."""
    from zh_embedder.gather import wait_for_all
    from zh_embedder.monitor import FOLDER

    if args.train.should_save:
        shutil.rmtree(Path(str(args.train.output_dir)) / FOLDER, ignore_errors=True)
        for old in Path(str(args.train.output_dir)).glob("checkpoint-*"):
            logger.info("--overwrite_output_dir: %s removed", old)
            shutil.rmtree(old)
    wait_for_all()


def build(args: Arguments, version: Version, datasets: Sequence[Any], watched: Watched) -> DenseTrainer:
    """Build everything that trains."""
    from transformers import set_seed

    from zh_embedder.bi_encoder import BiEncoder
    from zh_embedder.collator import TrainSet
    from zh_embedder.monitor import check_watched
    from zh_embedder.settings import dataset_shares, plan_datasets
    from zh_embedder.trainer import DenseTrainer

    metric, tied = args.model.dense_metric, args.model.tied
    plans = plan_datasets(datasets, version, args.data, args.train, metric=metric, tied=tied)
    for plan in plans:
        for note in plan.notes:
            logger.info("data: %s: %s", plan.records.name, note)
    if args.data.query_instruction is not None and not any(dataset.task is None for dataset in datasets):
        logger.info("flags: the instruction flags serve records without a task, and every record here names one")
    set_seed(args.train.seed)
    with whole_weights(args):
        model = BiEncoder(*load_encoders(args, instructions_of(args, version, plans)))
    check_watched(watched, model.query.spec, args.train.metric_for_best_model)
    widest = max(args.model.matryoshka_dims or [1])
    if widest > model.query.dimension:
        raise reject("--matryoshka_dims", widest, f"at most {model.query.dimension}, the dimensions of this base")
    odd = [dim for dim in args.model.matryoshka_dims or () if dim % 2]
    if odd and any(term.name == "angle" for plan in plans for term in plan.terms):
        raise reject("--matryoshka_dims", odd[0], "even numbers: loss angle takes half of a vector as imaginary")
    sets = [
        TrainSet(
            records=plan.records,
            task=plan.spec.name,
            rule=plan.rule,
            query_prefix=plan.spec.query if args.data.add_instruction else "",
            key_prefix=plan.spec.key if args.data.add_instruction else "",
            use_prompts=args.data.add_instruction,
            prompt_format=args.data.prompt_format,
        )
        for plan in plans
    ]
    fingerprint = {
        "datasets": {plan.records.name: len(plan.records) for plan in plans},
        "files": {plan.records.name: plan.records.parts[0].content for plan in plans},
    }
    return DenseTrainer(
        model,
        args.train,
        sets=sets,
        terms=[plan.terms for plan in plans],
        mode=args.data.inbatch_same_dataset,
        fingerprint=fingerprint,
        settings=args.to_json(),
        dimensions=args.model.dimensions,
        shares=dataset_shares(plans, args.data),
        watched=watched if args.eval.wanted else None,
    )


@contextmanager
def whole_weights(args: Arguments) -> Iterator[None]:
    """Load a base whole on every rank, ZeRO 3 or not; DeepSpeed partitions it when training starts.

    Partitioning while loading, transformers' way, fails on the CPU and saves BERT's LayerNorm under its oldest names.
    """
    if not args.train.deepspeed:
        yield
        return
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(args.train.hf_deepspeed_config)


def instructions_of(args: Arguments, version: Version, plans: Sequence[DatasetPlan]) -> dict[str, tuple[str, str]]:
    """Return the instructions that travel with the encoder: those of the version's tasks, and of the data's."""
    specs = {**version.tasks, **{plan.spec.name: plan.spec for plan in plans}}
    if version.default is not None:
        specs.setdefault("default", version.default)
    used = args.data.add_instruction
    return {name: (spec.query, spec.key) if used else ("", "") for name, spec in specs.items()}


def load_encoders(args: Arguments, instructions: dict[str, tuple[str, str]]) -> list[Encoder]:
    """Load the query encoder, and the key encoder where it is another."""
    from zh_embedder.encoder import load_encoder
    from zh_embedder.lora import add_lora
    from zh_embedder.settings import FLAG_TASK

    model = args.model
    methods = model.pooling_method or []
    default = args.data.default_task or (FLAG_TASK if FLAG_TASK in instructions else None)
    changes = {
        "normalize": model.dense_metric == "cos",
        "metric": model.dense_metric,
        "query_max_length": model.query_max_length,
        "key_max_length": model.key_max_length,
        "instructions": instructions,
        "default_task": default if default in instructions else None,
    }
    names = {"--query_encoder": model.query_encoder}
    if not model.tied:
        names["--key_encoder"] = model.key_encoder or model.query_encoder
    encoders = [
        load_encoder(
            name,
            flag=flag,
            pooling=next((m for m in methods if m != "dense"), None),
            dense=("dense" in methods) if methods else None,
            changes=changes,
            cache_dir=model.model_cache_dir,
            token=model.token,
            trust_remote_code=model.trust_remote_code,
            config_name=model.config_name,
            tokenizer_name=model.tokenizer_name,
            truncation_side=model.truncation_side,
            pad_to_multiple_of=model.pad_to_multiple_of,
            sub_batch_size=model.sub_batch_size,
            packing=model.packing,
        )
        for flag, name in names.items()
    ]
    if (rank := model.lora_rank) is not None:
        for encoder in encoders:
            alpha, dropout, targets = model.lora_alpha, model.lora_dropout, model.target_modules
            add_lora(encoder.backbone, rank=rank, alpha=alpha, dropout=dropout, targets=targets)
    if model.fix_position_embedding:
        for encoder in encoders:
            fix_positions(encoder)
    return encoders


def fix_positions(encoder: Encoder) -> None:
    """Freeze the position embeddings."""
    found = [p for name, p in encoder.named_parameters() if "position_embeddings" in name]
    if not found:
        raise UserError("--fix_position_embedding: this base has no position embeddings")
    for parameter in found:
        parameter.requires_grad_(False)


def seed_rank(args: Run) -> None:
    """Give each rank its own dropout; weights and plan are the same everywhere already."""
    import torch

    torch.manual_seed(args.train.seed + args.train.process_index)
