"""Published command lines of LLM-Embedder, FlagEmbedding and earlier transformers, translated to our flags.

A published command runs unchanged, and nothing it asks for is ignored silently: a flag is ours, has another name in
`spellings`, is translated here, or is rejected by name. Each change is logged once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from zh_embedder.config.evaluation import CUTOFFS, METRICS
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.numbers import real
from zh_embedder.core.spellings import TRAINING, with_cutoffs
from zh_embedder.text.prefix import as_prefix

TRUE, FALSE = ("true", "1", "yes", "y", "t"), ("false", "0", "no", "n", "f")
WARMUP_RATIO = real(0, below=1)
NOTHING = (*FALSE, "none", "null", "-1", "no", "")

# Accepted without effect: what they choose is always so, or is not needed here.
NEEDLESS: Mapping[str, str] = {
    "save_safetensors": "weights are always saved as safetensors",
    "half_precision_backend": "torch's autocast is the only backend",
    "fp16_backend": "torch's autocast is the only backend",
    "fp16_opt_level": "Apex is not supported; use --dtype for the precision",
    "use_mps_device": "the device is detected automatically",
    "include_tokens_per_second": "throughput in tokens/s is always logged",
    "save_merged_lora_model": "LoRA adapters are always merged when saved",
    "batch_size": "batches are formed by number of tokens",
    "dispatch_batches": "every rank reads its own part of the batch",
    "split_batches": "every rank reads its own part of the batch",
}

# Not supported.
NOT_YET: Mapping[str, str] = {
    "report": "every run that is measured writes OUTPUT_DIR/report.html (--eval_data, --validation_share)",
    "only_merge_lora_model": "adapters are merged when saved; use `zh-embedder export RUN OUT` to export an encoder",
    **dict.fromkeys(("ranker", "ranker_method", "ranker_max_length"), "reranker training is not supported yet"),
    **dict.fromkeys(("unified_finetuning", "use_self_distill", "colbert_dim", "self_distill_start_step"),
                    "sparse and multi-vector training (BGE-M3) is not supported"),
    **dict.fromkeys(("group_by_length", "past_index", "adafactor", "mp_parameters", "tpu_num_cores", "use_ipex",
                     "jit_mode_eval", "torchdynamo", "ray_scope", "fsdp_min_num_params", "tpu_metrics_debug",
                     "fsdp_transformer_layer_cls_to_wrap", "use_legacy_prediction_loop", "include_inputs_for_metrics"),
                    "transformers 5 removed this option"),
    "push_to_hub_organization": "transformers 5 removed this option; use --hub_model_id ORGANIZATION/NAME",
}  # fmt: skip


@dataclass(slots=True)
class Translation:
    """A command line in our own flags, and what was done to it."""

    argv: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)  # names of the flags in `argv`
    typed: dict[str, str] = field(default_factory=dict)  # our name of a flag -> how it was spelt
    own: frozenset[str] = frozenset()  # names that the user typed in our spelling: they win over old ones

    def add(self, name: str, *values: str) -> None:
        """Append one flag."""
        dashed = len(values) == 1 and values[0].startswith("-")  # a value here, a flag to the parser
        self.argv += [f"--{name}={values[0]}"] if dashed else [f"--{name}", *values]
        self.given.add(name)

    def replace(self, old: str, name: str, *values: str, note: str) -> None:
        """Append what an old spelling means, unless the user gave our own spelling too; say which."""
        if name in self.own:
            self.notes.append(f"--{old} is overridden by --{name}")
        else:
            self.add(name, *values)
            self.notes.append(note)
            self.typed[name] = old


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
    WARMUP_RATIO.read("--warmup_ratio", text)
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
    else:
        out.notes.append(f"--sub_batch_size {text} is none, as in FlagEmbedding: the batch is encoded as a whole")


SPECIAL: Mapping[str, Rule] = {
    "pooling_method": pooling_method,
    "warmup_ratio": warmup_ratio,
    "sentence_pooling_method": pooling,
    "normalize_embeddings": normalize,
    "same_dataset_within_batch": same_dataset,
    "gradient_checkpointing": switch("gradient_checkpointing"),
    "logging_dir": logging_dir,
    "sub_batch_size": sub_batch_size,
}


# ---- flags that only mean something together ------------------------------------------------------------------------

Given = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Together:
    """Flags whose meaning depends on each other: once all are read, one rule gets those that were typed."""

    flags: tuple[str, ...]
    rule: Callable[[Given, Translation], None]


def instruction(side: str, ours: str) -> Together:
    """FlagEmbedding's instruction of one side, and the format that joins it with the text."""
    text_flag, format_flag = f"{side}_instruction_for_retrieval", f"{side}_instruction_format"

    def rule(given: Given, out: Translation) -> None:
        template = one(format_flag, given.get(format_flag, ["{}{}"]))
        if text_flag in given:
            prefix = as_prefix(one(text_flag, given[text_flag]), template, flag=f"--{format_flag}")
            note = f"--{text_flag} is --{ours}_instruction {prefix!r}"
            out.replace(text_flag, f"{ours}_instruction", prefix, note=note)
        elif side == "passage":
            out.notes.append(f"--{format_flag} changes nothing: there is no instruction")
        if format_flag in given and side == "query":
            out.add("prompt_format", template)  # a record's own prompt is formatted like the instruction

    return Together((text_flag, format_flag), rule)


def distillation(given: Given, out: Translation) -> None:
    """FlagEmbedding weighs its loss terms by kind: kl_div 1 and 1, m3_kd_loss distillation alone."""
    for name, values in given.items():
        out.add(name, *([str(as_bool(name, values))] if name == "knowledge_distillation" else values))
    if as_bool("knowledge_distillation", given.get("knowledge_distillation", ["False"])):
        contrastive = "0" if list(given.get("kd_loss_type", ())) == ["m3_kd_loss"] else "1"
        for name, weight in {"contrastive_weight": contrastive, "distill_weight": "1"}.items():
            if name not in out.own:
                out.add(name, weight)
                out.notes.append(f"--knowledge_distillation sets --{name} {weight}, FlagEmbedding's weight")


def matryoshka(given: Given, out: Translation) -> None:
    """FlagEmbedding's switch of Matryoshka losses, and its dimensions."""
    wanted, dims = as_bool("use_mrl", given.get("use_mrl", ["False"])), given.get("mrl_dims", ())
    if wanted and not dims:
        raise UserError("--use_mrl: needs --mrl_dims, such as --mrl_dims 1024 256")
    if wanted:
        out.replace("mrl_dims", "matryoshka_dims", *dims, note=f"--use_mrl is --matryoshka_dims {' '.join(dims)}")
    elif dims:
        out.notes.append("--mrl_dims changes nothing without --use_mrl True")


def lora(given: Given, out: Translation) -> None:
    """FlagEmbedding's switch of LoRA: its default rank is 64, and without the switch there is none."""
    wanted = as_bool("use_lora", given["use_lora"])
    if wanted and "lora_rank" not in out.own:
        out.add("lora_rank", "64")
        out.notes.append("--use_lora is --lora_rank 64, FlagEmbedding's default")
    elif not wanted and "lora_rank" in out.own:
        raise UserError("--use_lora: got False together with --lora_rank, expected one of them")


def cutoffs(given: Given, out: Translation) -> None:
    """LLM-Embedder's metrics and their cutoffs; a metric without one is taken at its default cutoffs."""
    metrics = with_cutoffs(given.get("metrics", METRICS), given.get("cutoffs", CUTOFFS))
    out.add("metrics", *metrics)
    typed = " ".join(f"--{name} {' '.join(given[name])}" for name in ("metrics", "cutoffs") if name in given)
    if (ours := f"--metrics {' '.join(metrics)}") != typed:
        out.notes.append(f"{typed} is {ours}")


TOGETHER = (
    instruction("query", "query"),
    instruction("passage", "key"),
    Together(("knowledge_distillation", "kd_loss_type"), distillation),
    Together(("use_mrl", "mrl_dims"), matryoshka),
    Together(("use_lora",), lora),
    Together(("metrics", "cutoffs"), cutoffs),
)
JOINED = frozenset(name for row in TOGETHER for name in row.flags)


# ---- a command line -------------------------------------------------------------------------------------------------


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


def translate(argv: Sequence[str], renamed: Mapping[str, str] = TRAINING) -> Translation:
    """Translate a published command line.

    Args:
        argv: the words.
        renamed: other names of the command's flags.

    Raises:
        UserError: a flag that is known and not supported, by name; or a value that does not fit.
    """
    flags = split_flags(argv)
    out = Translation(own=frozenset(name.removeprefix("no_") for name, _ in flags if name not in renamed))
    waiting: dict[str, list[str]] = {}
    for name, values in flags:
        if name in NOT_YET:
            if not (values and values[0].lower() in (*NOTHING, "none")):
                raise UserError(f"--{name}: {NOT_YET[name]}")
            out.notes.append(f"--{name} {values[0]} changes nothing")
        elif name in NEEDLESS:
            out.notes.append(f"--{name} changes nothing: {NEEDLESS[name]}")
        elif name in JOINED:
            waiting[name] = values
        elif name in SPECIAL:
            SPECIAL[name](values, out)
        elif name in renamed:
            out.replace(name, renamed[name], *values, note=f"--{name} is --{renamed[name]}")
        else:
            out.add(name, *values)
    for row in TOGETHER:
        if given := {name: waiting[name] for name in row.flags if name in waiting}:
            row.rule(given, out)
    return out
