"""The run: flags -> records -> encoder -> Trainer -> folders. What `run_dense.py` calls."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_embedder.errors import UserError, message_of
from zh_embedder.quiet import quiet_deepspeed

if TYPE_CHECKING:
    from zh_embedder.arguments import Arguments
    from zh_embedder.encoder import Encoder
    from zh_embedder.instructions import Version
    from zh_embedder.settings import DatasetPlan
    from zh_embedder.trainer import DenseTrainer

logger = logging.getLogger(__name__)

SAMPLE = 256  # records of a dataset whose texts are measured for the share that is cut


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
    start_logging()
    try:
        # Tokenizers that were used before a loader's worker forks would only warn; the workers are the parallelism.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        quiet_deepspeed()
        from zh_embedder.arguments import parse

        train(parse(argv))
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


def train(args: Arguments) -> None:
    """Train as the flags say.

    Raises:
        UserError: anything that the user can mend; nothing has been written then.
    """
    from zh_embedder.instructions import read_version
    from zh_embedder.machine import prepare
    from zh_embedder.records import check_trainable, load_datasets, merge_small
    from zh_embedder.sources import find_files
    from zh_embedder.tables import cache_folder
    from zh_embedder.token_cache import with_tokens

    check_world(args)
    prepare(args.train.device, threads=args.train.cpu_threads)
    for note in args.notes:
        logger.info("flags: %s", note)
    version = read_version(args.data.version, directory=args.data.instructions_dir)
    resume = find_resume(args)
    check_output(args, resume)
    files = find_files(args.data.train_data or [], data_root=args.data.data_root)
    datasets = load_datasets(files, cache_dir=args.data.dataset_cache_dir)
    check_trainable(datasets)
    if args.data.small_threshold or args.data.drop_threshold:
        datasets, merged = merge_small(datasets, small=args.data.small_threshold, drop=args.data.drop_threshold)
        for note in merged:
            logger.info("data: %s", note)
    trainer = build(args, version, datasets)
    if resume is not None:
        trainer.check_resume(resume)
    else:
        clear_output(args)
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
    if trainer.args.should_save:
        logger.info("saved: %s", Path(trainer.args.output_dir) / "encoder")


def check_world(args: Arguments) -> None:
    """Refuse ranks that do not know of each other."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != args.train.world_size:
        raise UserError(
            f"WORLD_SIZE is {started} but transformers sees {args.train.world_size} ranks: they would train "
            "unconnected models. Start with torchrun, and check that the accelerator is visible to every rank"
        )


def find_resume(args: Arguments) -> Path | None:
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


def check_output(args: Arguments, resume: Path | None) -> None:
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


def clear_output(args: Arguments) -> None:
    """Remove the checkpoints of the run that is replaced, so that nobody resumes from them."""
    from zh_embedder.gather import wait_for_all

    if args.train.should_save:
        for old in Path(str(args.train.output_dir)).glob("checkpoint-*"):
            logger.info("--overwrite_output_dir: %s removed", old)
            shutil.rmtree(old)
    wait_for_all()


def build(args: Arguments, version: Version, datasets: Sequence[Any]) -> DenseTrainer:
    """Build everything that trains."""
    from transformers import set_seed

    from zh_embedder.collator import TrainSet
    from zh_embedder.settings import plan_datasets
    from zh_embedder.trainer import BiEncoder, DenseTrainer

    plans = plan_datasets(datasets, version, args.data, args.train, metric=args.model.dense_metric)
    for plan in plans:
        for note in plan.notes:
            logger.info("data: %s: %s", plan.records.name, note)
    if args.data.query_instruction is not None and not any(dataset.task is None for dataset in datasets):
        logger.info("flags: the instruction flags serve records without a task, and every record here names one")
    set_seed(args.train.seed)
    with whole_weights(args):
        model = BiEncoder(*load_encoders(args, instructions_of(args, version, plans)))
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


def seed_rank(args: Arguments) -> None:
    """Give each rank its own dropout; weights and plan are the same everywhere already."""
    import torch

    torch.manual_seed(args.train.seed + args.train.process_index)


def cut_share(trainer: DenseTrainer, index: int) -> tuple[float, float]:
    """Share of queries and of keys that are truncated, of a sample of a dataset."""
    from zh_embedder.tokens import tokenize

    chosen, spec = trainer.rows.sets[index], trainer.model.query.spec
    tokenizer = trainer.model.query.tokenizer
    rows = np.random.default_rng(0).choice(len(chosen), size=min(SAMPLE, len(chosen)), replace=False)
    records = [chosen.records[int(row)] for row in rows]
    sides = (
        ([chosen.query_text(r) for r in records], spec.query_max_length),
        ([chosen.key_prefix + key for r in records for key in r.candidates[:2]], spec.key_max_length),
    )
    shares = []
    for texts, limit in sides:
        lengths = [len(ids) for ids in tokenize(tokenizer, texts, limit + 1)]
        shares.append(sum(length > limit for length in lengths) / max(1, len(lengths)))
    return shares[0], shares[1]


def how_packed(trainer: DenseTrainer) -> str:
    """Say whether padding is computed, and what that means for the base's dropout."""
    query = trainer.model.query
    reason = trainer.why_padded()
    if reason is not None:
        return f"texts are padded, those of like lengths together: {reason}"
    dropout = getattr(query.config, "attention_probs_dropout_prob", None) or getattr(
        query.config, "attention_dropout", 0
    )
    off = f"; attention dropout ({dropout:g} in the base) is off" if dropout else ""
    last = ", the last layer computed for first tokens alone" if query.trimmed else ""
    return f"texts are packed: no padding is computed{last}{off}"


def describe(args: Arguments, trainer: DenseTrainer, resume: Path | None) -> None:
    """Log what will be trained, before step 1."""
    import torch

    from zh_embedder.sampling import steps_of, waiting_rows

    if not first_rank():
        return
    batches, sets = trainer.batches(), trainer.rows.sets
    sizes, step_rows = [len(s) for s in sets], batches.step_size
    by_dataset = trainer.mode in ("epoch", "epoch-static", "epoch-random")
    lines = [f"{'dataset':44} {'task':11} {'records':>8} {'steps/epoch':>11} {'negatives':>9} {'cut q/k':>11}  loss"]
    queries = step_rows if args.train.negative_cross_device else args.train.per_device_train_batch_size
    for index, chosen in enumerate(sets):
        steps = str(steps_of(sizes, step_rows)[index]) if by_dataset else "-"
        in_batch = chosen.records.in_batch_negatives
        negatives = (queries if in_batch else 1) * chosen.rule.group_size - 1
        cuts = "/".join(f"{share:.0%}" for share in cut_share(trainer, index))
        loss = " + ".join(f"{term.weight:g} {term.name}" for term in trainer.terms[index])
        name = chosen.records.name[:44]
        lines.append(f"{name:44} {chosen.task:11} {len(chosen):8,} {steps:>11} {negatives:9} {cuts:>11}  {loss}")
    total = sum(p.numel() for p in trainer.model.parameters())
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    spec = trainer.model.query.spec
    lines += [
        f"{len(batches)} steps an epoch of {step_rows} queries ({args.train.world_size} ranks x "
        f"{args.train.per_device_train_batch_size}), same-dataset batches: {trainer.mode or 'no, mixed'}",
        f"{total:,} parameters, {trained:,} trained; pooling {spec.pooling}{' + dense' if spec.dense else ''}, metric "
        f"{spec.metric}, precision {args.train.dtype}, device {args.train.device.type}"
        + (f", {torch.get_num_threads()} threads a rank" if args.train.device.type == "cpu" else ""),
        how_packed(trainer),
    ]
    for dataset, size, waiting in zip(sets, sizes, waiting_rows(sizes, step_rows), strict=True):
        if size < step_rows and trainer.mode is not None:
            lines.append(f"{dataset.records.name}: {size} records fill no step of {step_rows}: cycled, repeats masked")
        elif waiting and by_dataset:
            fate = "are never trained (epoch-static)" if trainer.mode == "epoch-static" else "wait for another shuffle"
            lines.append(f"{dataset.records.name}: {waiting} records an epoch fill no step and {fate}")
    if resume is not None:
        lines.append(f"resuming from {resume}")
    logger.info("what will be trained:\n  %s", "\n  ".join(lines))
