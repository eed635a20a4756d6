"""Numbers of the flags that transformers declares without a range; a test walks its fields, so that none is missing.

Those that `RunArguments` declares anew carry their number there.
"""

from __future__ import annotations

from collections.abc import Mapping

from zh_embedder.core.numbers import COUNT, NOT_NEGATIVE, POSITIVE, SEED, Number, real, steps, whole

BETA = real(0, below=1)

INHERITED: Mapping[str, Number] = {
    "num_train_epochs": POSITIVE,
    "max_steps": whole(1, also={-1: "as many as --num_train_epochs gives"}),
    "adam_beta1": BETA,
    "adam_beta2": BETA,
    "adam_epsilon": NOT_NEGATIVE,
    "gradient_accumulation_steps": COUNT,
    "max_grad_norm": NOT_NEGATIVE,
    "label_smoothing_factor": real(0, 1),
    "neftune_noise_alpha": NOT_NEGATIVE,
    "torch_empty_cache_steps": COUNT,
    "eval_steps": steps(above=0),
    "eval_delay": NOT_NEGATIVE,
    "per_device_eval_batch_size": COUNT,
    "eval_accumulation_steps": COUNT,
    "save_total_limit": whole(1, also={0: "all", -1: "all"}),
    "seed": SEED,
    "data_seed": SEED,
    "dataloader_prefetch_factor": COUNT,
    "ddp_bucket_cap_mb": COUNT,
    "ddp_timeout": COUNT,
    "local_rank": whole(-1),
}
# transformers' own defaults of these are, or were, empty texts.
MAY_BE_EMPTY = frozenset({"fsdp", "resume_from_checkpoint"})
