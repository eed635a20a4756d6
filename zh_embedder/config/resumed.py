"""Settings in which a resumed run differs from its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from zh_embedder.config.model import ModelArguments
from zh_embedder.config.train import IDLE, READ

# Where things are kept, when they are saved or measured: no weight depends on them. The version and
# the order of the data are compared elsewhere.
AROUND = {
    *(
        "dataset_cache_dir",
        "token_cache",
        "tensorboard_dir",
        "model_cache_dir",
        "token",
        "trust_remote_code",
        "overwrite",
    ),
    *("save_steps", "save_strategy", "save_total_limit", "eval_steps", "eval_strategy", "resume_from_checkpoint"),
    *("early_exit_steps", "early_stopping_patience", "early_stopping_threshold", "inbatch_same_dataset"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_unknown", "saved_max_length"),
}
COMPARED = ((IDLE | {one.name for one in fields(ModelArguments)}) - AROUND - READ) | {"dtype"}


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Say of each setting that decides what is learnt how it differs from a checkpoint's: `--name: before, now after`.

    Args:
        saved: settings of the checkpoint (`args.json`); what it does not have, an earlier version did not know.
        now: settings of this run, as they would be saved.
    """
    for name in sorted(COMPARED & saved.keys() & now.keys()):
        if saved[name] != now[name]:
            yield f"--{name}: {in_words(saved[name])}, now {in_words(now[name])}"


def in_words(value: object) -> str:
    """A setting as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, list) else "not given" if value is None else str(value)
