"""Ranks: the launcher's facts about this process, and those of its process group.

The only module that reads the launcher's variables. torchrun sets all of them; DeepSpeed's launcher says LOCAL_SIZE
where torchrun says LOCAL_WORLD_SIZE.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zh_embedder.core.errors import reject
from zh_embedder.core.numbers import AMOUNT, COUNT, whole

if TYPE_CHECKING:
    import torch

# The launcher's variables, and OpenMP's: torch, accelerate and DeepSpeed read them without a check of their own.
VARIABLES = {
    **dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK"), AMOUNT),
    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), COUNT),
    "MASTER_PORT": whole(0, 65535),
}


def check_environment() -> None:
    """Refuse variables of the launcher that say nothing.

    Raises:
        UserError: with the variable's name.
    """
    for name, number in VARIABLES.items():
        text = os.environ.get(name, "")
        if text and not (name == "OMP_NUM_THREADS" and "," in text):  # OpenMP takes a list, one for each level
            number.read(name, text)
    own_rank()


def first_rank() -> bool:
    """Whether this process speaks for all; where the launcher's variable says nothing, it does."""
    return os.environ.get("RANK", "0") in ("0", "") or not os.environ["RANK"].isdecimal()


def own_rank() -> tuple[int, int]:
    """Return the rank of this process and how many there are, as torchrun says."""
    names = ("RANK", "WORLD_SIZE")
    values = tuple(os.environ.get(name, default) for name, default in zip(names, "01", strict=True))
    if not all(value.isascii() and value.isdecimal() for value in values) or not int(values[0]) < int(values[1]):
        raise reject(
            " and ".join(names), " and ".join(values), "a rank below the number of ranks, as torchrun sets them"
        )
    return int(values[0]), int(values[1])


def started_ranks() -> int:
    """How many ranks the launcher started, on all machines; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_ranks() -> int:
    """How many ranks share this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)


def launched() -> bool:
    """Whether a launcher started this process and says which of its machine's ranks it is."""
    return "LOCAL_RANK" in os.environ


def own_device() -> torch.device:
    """Return the accelerator of this process, or the CPU."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.accelerator.device_count()
    torch.accelerator.set_device_index(index)
    return torch.device(accelerator.type, index)


def world() -> tuple[int, int]:
    """Return (rank, number of ranks); (0, 1) where no process group was started."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
