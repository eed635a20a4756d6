"""Building of a trainer from flags, version and datasets."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zh_embedder.config.instructions import sides_of
from zh_embedder.core.errors import UserError, reject

if TYPE_CHECKING:
    from zh_embedder.config.instructions import Version
    from zh_embedder.config.model import ModelArguments
    from zh_embedder.config.train import Arguments
    from zh_embedder.data.records import TaskDataset
    from zh_embedder.data.train_rows import TrainSet
    from zh_embedder.models.bi_encoder import BiEncoder
    from zh_embedder.models.encoder import Encoder
    from zh_embedder.training.dense_trainer import DenseTrainer
    from zh_embedder.training.evaluate import Watched

logger = logging.getLogger(__name__)

PROJECTED = ("vector_mse", "vector_cosine")  # losses that compare our vector with the teacher's


def build(args: Arguments, version: Version, datasets: Sequence[TaskDataset], watched: Watched) -> DenseTrainer:
    """Build everything that trains."""
    from zh_embedder.config.dataset_plan import dataset_shares
    from zh_embedder.data.record_tables import cache_folder
    from zh_embedder.data.token_cache import with_tokens
    from zh_embedder.training.dense_trainer import DenseTrainer, collator_of
    from zh_embedder.training.evaluate import check_watched

    sets = build_sets(args, version, datasets)
    model = build_model(args, version, sets)
    check_watched(watched, model.query.spec, args.train.metric_for_best_model)
    check_dimensions(args, model, sets)
    check_texts(args, model, sets)
    warn_of_contradiction(args, model, sets)
    if args.train.teacher_encoder:
        sets = learn_from_teacher(args, model, sets)
    cache = cache_folder(args.data.dataset_cache_dir, "tokens")
    choice, device = args.data.token_cache, args.train.device
    return DenseTrainer(
        model,
        args.train,
        sets=with_tokens(sets, collator_of(model), cache=cache, choice=choice, device=device),
        mode=args.data.inbatch_same_dataset,
        settings=args.to_json(),
        dimensions=args.model.dimensions,
        shares=dataset_shares(sets, args.data),
        watched=watched if args.eval.wanted else None,
    )


def build_sets(args: Arguments, version: Version, datasets: Sequence[TaskDataset]) -> list[TrainSet]:
    """Decide what each dataset trains; the log states what gave way."""
    from zh_embedder.config.dataset_plan import plan_datasets

    metric, tied = args.model.dense_metric, args.model.tied
    cut = args.model.truncation_side
    sets = plan_datasets(datasets, version, args.data, args.train, metric=metric, tied=tied, truncation_side=cut)
    for one in sets:
        for note in one.notes:
            logger.info("data: %s: %s", one.records.name, note)
    if args.data.query_instruction is not None and not any(dataset.task is None for dataset in datasets):
        logger.info(
            "flags: the instruction flags have no effect: they are for records without a task, and every record has one"
        )
    return sets


def build_model(args: Arguments, version: Version, sets: Sequence[TrainSet]) -> BiEncoder:
    """Load the encoders, with the same random weights on every rank where they have new ones."""
    from transformers import set_seed

    from zh_embedder.models.bi_encoder import BiEncoder

    set_seed(args.train.seed)
    with whole_weights(args):
        return BiEncoder(*load_encoders(args, instructions_of(args, version, sets), sides_of(version)))


def learn_from_teacher(args: Arguments, model: BiEncoder, sets: Sequence[TrainSet]) -> list[TrainSet]:
    """Give datasets the vectors of --teacher_encoder, and the model a projection where its vectors have another size.

    Raises:
        UserError: no dataset learns from them, or something does not fit.
    """
    from zh_embedder.config.instructions import read_version
    from zh_embedder.data.record_tables import cache_folder
    from zh_embedder.losses.table import learns_vectors
    from zh_embedder.training.teacher import Teacher, with_teacher

    train = args.train
    if not any(learns_vectors(one.terms) for one in sets):
        raise UserError(
            "--teacher_encoder: no dataset has a loss of its vectors, expected --teacher_weight above 0, or a task "
            "whose `loss` names one"
        )
    version = train.teacher_version and read_version(
        train.teacher_version, directory=args.data.instructions_dir, flag="--teacher_version"
    )
    teacher = Teacher(
        train.teacher_encoder or [],
        version=version or None,
        max_length=train.teacher_max_length,
        dimension=train.teacher_dim,
        cache=cache_folder(args.data.dataset_cache_dir, "teacher"),
        device=train.device,
    )
    found, dimension = with_teacher(sets, teacher)
    projected = any(term.name in PROJECTED for one in sets for term in one.terms)
    if projected and dimension != model.query.dimension:
        if train.fsdp or (train.deepspeed and train.hf_deepspeed_config.is_zero3()):
            raise UserError(
                f"--teacher_encoder: its vectors have {dimension} dimensions, the base's {model.query.dimension}: the "
                "projection between them cannot be trained with --fsdp or DeepSpeed's stage 3; expected "
                "--teacher_loss similarity_kl, which needs none"
            )
        model.project_to(dimension, seed=train.seed)
        logger.info("teacher: a learned projection of %d to %d dimensions", model.query.dimension, dimension)
    return found


def check_dimensions(args: Arguments, model: BiEncoder, sets: Sequence[TrainSet]) -> None:
    """Refuse numbers of dimensions that the base or a loss cannot serve."""
    dims = args.model.matryoshka_dims or []
    widest = max(dims, default=1)
    if widest > model.query.dimension:
        raise reject("--matryoshka_dims", widest, f"at most {model.query.dimension}, the dimensions of this base")
    odd = [dim for dim in dims if dim % 2]
    if odd and any(term.name == "angle" for one in sets for term in one.terms):
        raise reject("--matryoshka_dims", odd[0], "even numbers: loss angle takes half of a vector as imaginary")


def check_texts(args: Arguments, model: BiEncoder, sets: Sequence[TrainSet]) -> None:
    """Refuse a base whose tokenizer does not know the language of the records; the log says each task's share."""
    from zh_embedder.text.unknown import SAMPLE, check_unknown

    queries: dict[str, list[str]] = {}
    keys: dict[str, list[str]] = {}
    for one in sets:
        for row in range(0, len(one), max(1, len(one) // SAMPLE)):
            record = one.records[row]
            queries.setdefault(one.task, []).append(record.query)
            keys.setdefault(one.task, []).extend(record.candidates[:1])
    key = model.key or model.query
    sides = [(model.query.tokenizer, queries), (key.tokenizer, keys)]
    check_unknown(sides, limit=args.model.max_unknown, base=args.model.tokenizer_name or args.model.query_encoder)


def warn_of_contradiction(args: Arguments, model: BiEncoder, sets: Sequence[TrainSet]) -> None:
    """Log a warning where the run's instructions do not begin with the prompts that the base was trained with."""
    from zh_embedder.config.run_version import contradiction

    chosen = {one.task: (one.query_prefix, one.key_prefix) for one in sets}
    brought = model.query.brought, (model.key or model.query).brought
    flag = f"--version {args.data.version}" if "version" in args.given else f"version {args.data.version}"
    flag = flag if args.data.add_instruction else "--add_instruction False"
    if said := contradiction(chosen, brought, base=args.model.query_encoder, flag=flag):
        logger.warning("%s", said)
    if args.model.include_prompt is None and model.query.spec.include_prompt and drowns(model, chosen):
        logger.warning(
            "%s has no layers: it cannot tell an instruction from a text, and %s puts one in front; "
            "--include_prompt False leaves instructions out of the mean (True keeps them, without this warning), "
            "--version none uses none",
            args.model.query_encoder,
            flag,
        )


def drowns(model: BiEncoder, chosen: Mapping[str, tuple[str, str]]) -> bool:
    """Whether instructions become a part of the sum of word vectors that a static base makes of a text."""
    return model.query.config.num_hidden_layers == 0 and any(map(any, chosen.values()))


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


def instructions_of(args: Arguments, version: Version, sets: Sequence[TrainSet]) -> dict[str, tuple[str, str]]:
    """Return the instructions that travel with the encoder: those of the version's tasks, and of the data's."""
    found = version.instructions
    default = found.pop("default", None)
    found |= {one.task: (one.query_prefix, one.key_prefix) for one in sets}
    if default is not None:
        found.setdefault("default", default)
    return found if args.data.add_instruction else dict.fromkeys(found, ("", ""))


def load_encoders(
    args: Arguments, instructions: dict[str, tuple[str, str]], sides: Mapping[str, tuple[str | None, str | None]]
) -> list[Encoder]:
    """Load the query encoder, and the key encoder where it is another."""
    from zh_embedder.config.dataset_plan import FLAG_TASK
    from zh_embedder.models.encoder import load_encoder
    from zh_embedder.models.spec import in_use

    model, options = args.model, args.model.load_options()
    default = args.data.default_task or (FLAG_TASK if FLAG_TASK in instructions else None)
    changes = {
        "normalize": model.dense_metric == "cos",
        "metric": model.dense_metric,
        "training_lengths": (model.query_max_length, model.key_max_length),
        "instructions": instructions,
        "truncation_sides": sides,
        "default_task": default if default in instructions else None,
    }
    names = {"--query_encoder": model.query_encoder}
    if not model.tied:
        names["--key_encoder"] = model.key_encoder or model.query_encoder
    encoders = [load_encoder(name, options, flag=flag, changes=changes) for flag, name in names.items()]
    for encoder in encoders:
        encoder.spec = in_use(encoder.spec, encoder.config, asked=model.saved_lengths)
        choose_weights(encoder, model)
    return encoders


def choose_weights(encoder: Encoder, model: ModelArguments) -> None:
    """Choose the weights that are trained: adapters alone, or all but the positions, where flags say so."""
    from zh_embedder.models.lora import add_lora

    if (rank := model.lora_rank) is not None:
        alpha, dropout, targets = model.lora_alpha, model.lora_dropout, model.target_modules
        add_lora(encoder.backbone, rank=rank, alpha=alpha, dropout=dropout, targets=targets)
    if model.fix_position_embedding:
        fix_positions(encoder)


def fix_positions(encoder: Encoder) -> None:
    """Freeze the position embeddings."""
    found = [p for name, p in encoder.named_parameters() if "position_embeddings" in name]
    if not found:
        raise UserError("--fix_position_embedding: this base has no position embeddings")
    for parameter in found:
        parameter.requires_grad_(False)
