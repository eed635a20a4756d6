"""Say to libraries that come along what they would otherwise complain about."""

from __future__ import annotations

import os


def quiet_deepspeed() -> None:
    """Tell DeepSpeed, which accelerate imports where it is installed, about the CPU; else it warns in every process."""
    import torch

    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
