"""From flags, version and datasets to the trainer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zh_embedder.core.errors import UserError, reject

if TYPE_CHECKING:
    from zh_embedder.config.dataset_plan import DatasetPlan
    from zh_embedder.config.instructions import Version
    from zh_embedder.config.train import Arguments
    from zh_embedder.models.encoder import Encoder
    from zh_embedder.training.dense_trainer import DenseTrainer
    from zh_embedder.training.evaluate import Watched

logger = logging.getLogger(__name__)


def build(args: Arguments, version: Version, datasets: Sequence[Any], watched: Watched) -> DenseTrainer:
    """Build everything that trains."""
    from transformers import set_seed

    from zh_embedder.config.dataset_plan import dataset_shares, plan_datasets
    from zh_embedder.data.collator import TrainSet
    from zh_embedder.models.bi_encoder import BiEncoder
    from zh_embedder.training.dense_trainer import DenseTrainer
    from zh_embedder.training.evaluate import check_watched

    metric, tied = args.model.dense_metric, args.model.tied
    plans = plan_datasets(datasets, version, args.data, args.train, metric=metric, tied=tied)
    for plan in plans:
        for note in plan.notes:
            logger.info("data: %s: %s", plan.records.name, note)
    if args.data.query_instruction is not None and not any(dataset.task is None for dataset in datasets):
        logger.info(
            "flags: the instruction flags have no effect: they are for records without a task, and every record has one"
        )
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
    from zh_embedder.config.dataset_plan import FLAG_TASK
    from zh_embedder.models.encoder import load_encoder
    from zh_embedder.models.lora import add_lora

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
