"""Flags as published for LLM-Embedder, FlagEmbedding and earlier transformers -> ours, each change said once.

A published command must run unchanged, and nothing that it asks for may be swallowed: a flag is ours, is translated
here, or is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from zh_embedder.core.errors import UserError, reject
from zh_embedder.text.prefix import as_prefix

TRUE, FALSE = ("true", "1", "yes", "y", "t"), ("false", "0", "no", "n", "f")
NOTHING = (*FALSE, "none", "null", "-1", "no", "")

# The same meaning under another name.
RENAMED: Mapping[str, str] = {
    # FlagEmbedding
    "model_name_or_path": "query_encoder",
    "query_max_len": "query_max_length",
    "passage_max_len": "key_max_length",
    "temperature": "cos_temperature",
    "negatives_cross_device": "negative_cross_device",
    "max_example_num_per_dataset": "max_sample_num",
    "cache_dir": "model_cache_dir",
    "cache_path": "dataset_cache_dir",
    # transformers before 5
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "cpu": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
}

# Told apart by what would be lost: nothing, because the answer is always the same here.
NEEDLESS: Mapping[str, str] = {
    "save_safetensors": "weights are always safetensors",
    "half_precision_backend": "torch's own autocast is the only backend",
    "fp16_backend": "torch's own autocast is the only backend",
    "fp16_opt_level": "apex levels are gone; --dtype chooses the precision",
    "use_mps_device": "the device is found by itself",
    "include_tokens_per_second": "tokens/s are always logged",
    "save_merged_lora_model": "adapters are always saved merged",
    "batch_size": "texts are encoded in batches of bounded tokens",
    "dispatch_batches": "every rank computes the plan itself",
    "split_batches": "every rank computes the plan itself",
}

# Known, and not built yet.
NOT_YET: Mapping[str, str] = {
    "only_merge_lora_model": "adapters are merged when an encoder is saved; `zh-embedder export RUN OUT` exports one",
    **dict.fromkeys(("ranker", "ranker_method", "ranker_max_length"), "reranker training is not built yet"),
    **dict.fromkeys(("unified_finetuning", "use_self_distill", "colbert_dim", "self_distill_start_step"),
                    "sparse and multi-vector training (BGE-M3) is not built"),
    **dict.fromkeys(("group_by_length", "past_index", "adafactor", "mp_parameters", "tpu_num_cores", "use_ipex",
                     "jit_mode_eval", "torchdynamo", "ray_scope", "fsdp_min_num_params", "tpu_metrics_debug",
                     "fsdp_transformer_layer_cls_to_wrap", "use_legacy_prediction_loop", "include_inputs_for_metrics"),
                    "transformers 5 has no such option any more"),
    "push_to_hub_organization": "transformers 5 has no such option any more; use --hub_model_id ORGANIZATION/NAME",
}  # fmt: skip


@dataclass(slots=True)
class Translation:
    """A command line in our own flags, and what was done to it."""

    argv: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)  # names of the flags in `argv`
    own: frozenset[str] = frozenset()  # names that the user typed in our spelling: they win over old ones
    instruction_parts: dict[str, str] = field(default_factory=dict)  # FlagEmbedding's four instruction flags
    lora: bool | None = None  # FlagEmbedding's switch of LoRA
    mrl: bool = False  # FlagEmbedding's switch of Matryoshka losses
    mrl_dims: tuple[str, ...] = ()

    def add(self, name: str, *values: str) -> None:
        """Append one flag."""
        dashed = len(values) == 1 and values[0].startswith("-")  # a value here, a flag to the parser
        self.argv += [f"--{name}={values[0]}"] if dashed else [f"--{name}", *values]
        self.given.add(name)

    def replace(self, old: str, name: str, *values: str, note: str) -> None:
        """Append what an old spelling means, unless the user gave our own spelling too; say which."""
        if name in self.own:
            self.notes.append(f"--{old} gives way to --{name}")
        else:
            self.add(name, *values)
            self.notes.append(note)


Value = Sequence[str]
Rule = Callable[[Value, Translation], None]


def as_bool(name: str, values: Value) -> bool:
    """Read a switch: alone it means true."""
    text = values[0].lower() if values else "true"
    if text not in (*TRUE, *FALSE):
        raise reject(f"--{name}", values[0], "True or False")
    return text in TRUE


def one(name: str, values: Value) -> str:
    """Read a flag that takes exactly one value."""
    if len(values) != 1:
        raise reject(f"--{name}", " ".join(values), "one value")
    return values[0]


def warmup_ratio(values: Value, out: Translation) -> None:
    """Translate the ratio: in transformers 5 `warmup_steps` below 1 is a share of all steps."""
    text = one("warmup_ratio", values)
    try:
        ratio = float(text)
    except ValueError:
        raise reject("--warmup_ratio", text, "a share of all steps in [0, 1)") from None
    if not 0 <= ratio < 1:
        raise reject("--warmup_ratio", text, "a share of all steps in [0, 1)")
    note = f"--warmup_ratio {text} is --warmup_steps {text} (below 1: a share of all steps)"
    out.replace("warmup_ratio", "warmup_steps", text, note=note)


def pooling(values: Value, out: Translation) -> None:
    """FlagEmbedding's pooling flag."""
    note = f"--sentence_pooling_method is --pooling_method {' '.join(values)}"
    out.replace("sentence_pooling_method", "pooling_method", *values, note=note)


def pooling_method(values: Value, out: Translation) -> None:
    """LLM-Embedder's `decoder` is the last token."""
    if "decoder" in values:
        out.notes.append("--pooling_method decoder is last_token")
    out.add("pooling_method", *("last_token" if value == "decoder" else value for value in values))


def normalize(values: Value, out: Translation) -> None:
    """Normalised vectors are compared by cosine, others by inner product, at temperature 1."""
    metric = "cos" if as_bool("normalize_embeddings", values) else "ip"
    note = f"--normalize_embeddings is --dense_metric {metric}"
    out.replace("normalize_embeddings", "dense_metric", metric, note=note)


def same_dataset(values: Value, out: Translation) -> None:
    """FlagEmbedding's same-dataset batches are LLM-Embedder's `epoch`."""
    if as_bool("same_dataset_within_batch", values):
        note = "--same_dataset_within_batch is --inbatch_same_dataset epoch"
        out.replace("same_dataset_within_batch", "inbatch_same_dataset", "epoch", note=note)


def switch(name: str) -> Rule:
    """A switch that may stand alone, and for which the parser wants a value: it has a third state, not given."""

    def rule(values: Value, out: Translation) -> None:
        out.add(name, str(as_bool(name, values)))

    return rule


def logging_dir(values: Value, out: Translation) -> None:
    """Translate the TensorBoard folder, which transformers 5 reads from the environment only."""
    folder = one("logging_dir", values)
    out.replace("logging_dir", "tensorboard_dir", folder, note="--logging_dir is --tensorboard_dir")


def sub_batch_size(values: Value, out: Translation) -> None:
    """FlagEmbedding's 'none', 0 and -1 mean: no sub-batches."""
    text = one("sub_batch_size", values)
    if text.lower() not in NOTHING:
        out.add("sub_batch_size", text)


def instruction(side: str, part: str) -> Rule:
    """One of FlagEmbedding's four instruction flags; `finish_instructions` joins them."""

    def rule(values: Value, out: Translation) -> None:
        flag = {"text": f"{side}_instruction_for_retrieval", "format": f"{side}_instruction_format"}[part]
        out.instruction_parts[f"{side}_{part}"] = one(flag, values)

    return rule


def use_mrl(values: Value, out: Translation) -> None:
    """FlagEmbedding's switch of Matryoshka losses; `finish_matryoshka` needs its dimensions."""
    out.mrl = as_bool("use_mrl", values)


def use_lora(values: Value, out: Translation) -> None:
    """FlagEmbedding's switch of LoRA; `finish_lora` needs its rank."""
    out.lora = as_bool("use_lora", values)


def mrl_dims(values: Value, out: Translation) -> None:
    """Remember FlagEmbedding's dimensions: without the switch they change nothing."""
    out.mrl_dims = tuple(values)


SPECIAL: Mapping[str, Rule] = {
    "pooling_method": pooling_method,
    "use_lora": use_lora,
    "use_mrl": use_mrl,
    "mrl_dims": mrl_dims,
    "warmup_ratio": warmup_ratio,
    "sentence_pooling_method": pooling,
    "normalize_embeddings": normalize,
    "same_dataset_within_batch": same_dataset,
    "gradient_checkpointing": switch("gradient_checkpointing"),
    "knowledge_distillation": switch("knowledge_distillation"),
    "logging_dir": logging_dir,
    "sub_batch_size": sub_batch_size,
    **{f"{side}_instruction_for_retrieval": instruction(side, "text") for side in ("query", "passage")},
    **{f"{side}_instruction_format": instruction(side, "format") for side in ("query", "passage")},
}


def finish_instructions(out: Translation) -> None:
    """Join FlagEmbedding's instruction flags into --query_instruction and --key_instruction."""
    parts = out.instruction_parts
    for side, ours in (("query", "query"), ("passage", "key")):
        text, template = parts.get(f"{side}_text"), parts.get(f"{side}_format", "{}{}")
        if text is not None:
            prefix = as_prefix(text, template, flag=f"--{side}_instruction_format")
            note = f"--{side}_instruction_for_retrieval is --{ours}_instruction {prefix!r}"
            out.replace(f"{side}_instruction_for_retrieval", f"{ours}_instruction", prefix, note=note)
        elif f"{side}_format" in parts and side == "passage":
            out.notes.append("--passage_instruction_format changes nothing: there is no instruction")
    if "query_format" in parts:
        out.add("prompt_format", parts["query_format"])  # a record's own prompt is formatted like the instruction


def finish_distillation(out: Translation) -> None:
    """FlagEmbedding weighs its loss terms by kind: kl_div 1 and 1, m3_kd_loss distillation alone."""
    values = dict(zip(out.argv, out.argv[1:], strict=False))
    if as_bool("knowledge_distillation", [values.get("--knowledge_distillation", "False")]):
        contrastive = "0" if values.get("--kd_loss_type") == "m3_kd_loss" else "1"
        weights = {"contrastive_weight": contrastive, "distill_weight": "1"}
        for name, weight in weights.items():
            if name not in out.given:
                out.add(name, weight)
                out.notes.append(f"--knowledge_distillation sets --{name} {weight}, FlagEmbedding's weight")


def finish_matryoshka(out: Translation) -> None:
    """Join FlagEmbedding's --use_mrl and --mrl_dims."""
    if out.mrl and out.mrl_dims:
        dims = " ".join(out.mrl_dims)
        out.replace("mrl_dims", "matryoshka_dims", *out.mrl_dims, note=f"--use_mrl is --matryoshka_dims {dims}")
    elif out.mrl:
        raise UserError("--use_mrl: needs --mrl_dims, the numbers of dimensions")
    elif out.mrl_dims:
        out.notes.append("--mrl_dims changes nothing without --use_mrl True")


def finish_lora(out: Translation) -> None:
    """FlagEmbedding's rank where it is not said is 64; without its switch there is none."""
    if out.lora and "lora_rank" not in out.given:
        out.add("lora_rank", "64")
        out.notes.append("--use_lora is --lora_rank 64, FlagEmbedding's default")
    elif out.lora is False and "lora_rank" in out.given:
        raise UserError("--use_lora: got False beside --lora_rank, expected one of them")


def split_flags(argv: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Split a command line into (flag name with underscores, values)."""
    flags: list[tuple[str, list[str]]] = []
    for token in argv:
        if token.startswith("--") and len(token) > 2:
            name, equals, value = token[2:].partition("=")
            flags.append((name.replace("-", "_"), [value] if equals else []))
        elif not flags:
            raise UserError(f"command line: got {token!r}, expected flags such as --train_data FILE; see --help")
        else:
            flags[-1][1].append(token)
    return flags


def translate(argv: Sequence[str]) -> Translation:
    """Translate a published command line.

    Raises:
        UserError: a flag that is known and not built yet, by name; or a value that does not fit.
    """
    flags = split_flags(argv)
    out = Translation(own=frozenset(name.removeprefix("no_") for name, _ in flags if name not in RENAMED))
    for name, values in flags:
        if name in NOT_YET:
            if not (values and values[0].lower() in (*NOTHING, "none")):
                raise UserError(f"--{name}: {NOT_YET[name]}")
            out.notes.append(f"--{name} {values[0]} changes nothing")
        elif name in NEEDLESS:
            out.notes.append(f"--{name} changes nothing: {NEEDLESS[name]}")
        elif name in SPECIAL:
            SPECIAL[name](values, out)
        elif name in RENAMED:
            out.replace(name, RENAMED[name], *values, note=f"--{name} is --{RENAMED[name]}")
        else:
            out.add(name, *values)
    finish_instructions(out)
    finish_distillation(out)
    finish_matryoshka(out)
    finish_lora(out)
    return out
