"""Spellings of flags: one name for each meaning, and the other names that are accepted for it.

Every command reads its command line through this table. Dashes and underscores are interchangeable in every flag of
every command (`--no-instruction` is `--no_instruction`). A name from another program, or an older one of ours, works
too and is logged once: "--X is --Y".

- `--output` is a file, `--output_dir` a folder; `--json` is a copy of the table that goes to the terminal.
- `--overwrite` replaces what is in the output.
- `MODEL` is the finished model that a command is about (evaluate, encode, export, mteb), `--model` one that a data
  tool uses (mine, score, generate), `--query_encoder` the base to train; its partner is `--key_encoder`.
- `--task` is the task of all texts that a command reads. Training reads two kinds: records without a task
  (`--default_task`, which also sets the prompts of an export) and evaluation sets (`--eval_task`).
- `--corpus` is text to read: keys to search in (train, evaluate, mine, split), plain text to learn from (pretrain,
  new-base). The passages that `generate` writes are `--output_corpus`.
- `--metrics ndcg@10` names a metric with its cutoff; `--bm25` adds BM25; `--user_dict` adds words to jieba.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from zh_embedder.core.options import FLAG

OLD_OVERWRITE = {"overwrite_output_dir": "overwrite"}  # transformers before 5
OLD_DICTIONARY = {"word_dictionary": "user_dict"}
TO_FOLDER = {"output": "output_dir"}
# Training: FlagEmbedding's names, transformers' before 5, and names that other commands have for the same.
TRAINING: Mapping[str, str] = {
    "model": "query_encoder",
    "model_name_or_path": "query_encoder",
    "query_max_len": "query_max_length",
    "passage_max_len": "key_max_length",
    "temperature": "cos_temperature",
    "negatives_cross_device": "negative_cross_device",
    "max_example_num_per_dataset": "max_sample_num",
    "cache_dir": "model_cache_dir",
    "cache_path": "dataset_cache_dir",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "cpu": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "bm25_baseline": "bm25",
    **OLD_OVERWRITE,
    **TO_FOLDER,
}

SPELLINGS: Mapping[str, Mapping[str, str]] = {
    "train": TRAINING,
    "pretrain": {
        **TRAINING,
        # transformers' run_mlm.py and FlagEmbedding's RetroMAE
        "train_file": "corpus",
        "train_data": "corpus",
        "encoder_mlm_probability": "mlm_probability",
        "wwm_probability": "mlm_probability",
        "config": "query_encoder",
        "encoder_max_length": "max_seq_length",
        "pretrain_method": "objective",
        **OLD_DICTIONARY,
    },
    "evaluate": {"eval_data": "data", "eval_task": "task", "bm25_baseline": "bm25", **OLD_DICTIONARY},
    "encode": {**TO_FOLDER, **OLD_OVERWRITE},
    "export": OLD_OVERWRITE,
    "mteb": TO_FOLDER,
    "doctor": {"eval_data": "eval", "model": "query_encoder", "model_name_or_path": "query_encoder"},
    "split": TO_FOLDER,
    "mine": {
        # LLM-Embedder's and those of FlagEmbedding's hn_mine
        "eval_data": "input_file",
        "output_file": "output",
        "candidate_pool": "corpus",
        "retrieval_method": "method",
        "model_name_or_path": "model",
        "embedder_name_or_path": "model",
        "query_encoder": "model",
        "negative_number": "negatives",
        "max_neg_num": "negatives",
        **OLD_DICTIONARY,
        **OLD_OVERWRITE,
    },
    "score": {"model_name_or_path": "model"},
    "generate": {"corpus": "output_corpus"},
    "pairs": {**TO_FOLDER, **OLD_OVERWRITE},
    "vocabulary": {**TO_FOLDER, **OLD_OVERWRITE},
    "new-base": {
        **TO_FOLDER,
        **OLD_OVERWRITE,
        "layers": "num_layers",
        "heads": "num_heads",
        "intermediate": "intermediate_size",
        "positions": "max_positions",
    },
}


def respell(command: str, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Put the table's names into a command line; returns it with what was changed, each change once.

    Args:
        command: a word of the table; one that is not in it has no other spellings.
        argv: the words that follow it.
    """
    renamed = SPELLINGS.get(command, {})
    words, notes = list[str](), list[str]()
    for place, word in enumerate(argv):
        if word == "--":  # what follows are no flags
            words += argv[place:]
            break
        found = FLAG.fullmatch(word)
        if found is None:
            words.append(word)
            continue
        typed, value = found[1].replace("-", "_"), found[2] or ""
        name = renamed.get(typed, typed)
        words.append(f"--{name}{value}")
        if name != typed:
            notes.append(f"--{typed} is --{name}")
    at_cutoffs, note = join_cutoffs(words)
    return at_cutoffs, list(dict.fromkeys([*notes, *note]))


def spelt(command: str, argv: Sequence[str]) -> dict[str, str]:
    """Return how the flags of a command line were typed, by our name, where that differs."""
    renamed = SPELLINGS.get(command, {})
    flags = [found[1].replace("-", "_") for word in argv if (found := FLAG.fullmatch(word))]
    return {renamed[flag]: flag for flag in flags if flag in renamed}


def join_cutoffs(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Write LLM-Embedder's `--metrics ndcg --cutoffs 10` as `--metrics ndcg@10`; returns the note too."""
    flags = [place for place, word in enumerate(words) if FLAG.fullmatch(word)]
    if not {"--metrics", "--cutoffs"} <= {words[place] for place in flags}:
        return list(words), []
    kept, values = list[str](), dict[str, list[str]]()
    starts = [*flags, len(words)]
    kept += words[: starts[0]]
    for start, end in pairwise(starts):
        if words[start] in ("--metrics", "--cutoffs"):
            values[words[start]] = list(words[start + 1 : end])
        else:
            kept += words[start:end]
    metrics = with_cutoffs(values["--metrics"], values["--cutoffs"])
    note = f"--metrics {' '.join(values['--metrics'])} --cutoffs {' '.join(values['--cutoffs'])} is --metrics "
    return [*kept, "--metrics", *metrics], [note + " ".join(metrics)]


def with_cutoffs(metrics: Sequence[str], cutoffs: Sequence[str | int]) -> list[str]:
    """Return each metric at each cutoff; one that has a cutoff of its own, or is a collation, stays as it is."""
    found = []
    for name in metrics:
        alone = "@" in name or name.startswith("collate_")
        found += [name] if alone else [f"{name}@{cutoff}" for cutoff in cutoffs]
    return list(dict.fromkeys(found))
