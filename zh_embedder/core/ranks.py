"""Ranks: the launcher's facts about this process, and those of its process group.

The only module that reads the launcher's variables. torchrun sets all of them; DeepSpeed's launcher says LOCAL_SIZE
where torchrun says LOCAL_WORLD_SIZE.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from zh_embedder.core.errors import reject
from zh_embedder.core.numbers import AMOUNT, COUNT, whole

if TYPE_CHECKING:
    import torch

WATCH = 0.5  # seconds between two looks at the parent
ORPHANED = 1  # exit code of a process whose parent is gone
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


def first_on_machine() -> bool:
    """Whether this process speaks for the ranks of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


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


# ---- the end of the launcher ----------------------------------------------------------------------------------------


def end_with_launcher() -> None:
    """End this rank when its launcher is gone: a launcher that is killed cannot end its ranks.

    Only under torchrun and DeepSpeed's launcher, by what they alone set. A process that a shell started goes on when
    the shell ends, as nohup promises, whatever RANK is set to.
    """
    if "TORCHELASTIC_RESTART_COUNT" in os.environ:
        end_with(os.getppid, f"rank {os.environ.get('RANK')}: torchrun is gone, so this rank ends")
    elif "CROSS_RANK" in os.environ and "LOCAL_SIZE" in os.environ:
        end_with(deepspeed_launchers, f"rank {os.environ.get('RANK')}: DeepSpeed's launcher is gone, so this rank ends")


def end_with_parent() -> None:
    """End this process when the one that started it is gone: a loader's worker, whose parent was killed."""
    end_with(os.getppid, None)


def end_with(parent: Callable[[], object], message: str | None) -> None:
    """End this process at once when the answer to who its parent is changes.

    A thread looks, because the kernel's own signal (PR_SET_PDEATHSIG) comes already when the parent's thread ends.
    """
    first = parent()

    def watch() -> None:
        while parent() == first:
            time.sleep(WATCH)
        if message is not None:
            os.write(2, f"{message}\n".encode())
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def deepspeed_launchers() -> tuple[int, int]:
    """Return the process that started this rank, and the command `deepspeed` that started that one; 0 for another."""
    parent = os.getppid()
    try:
        above = int(Path(f"/proc/{parent}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
        words = Path(f"/proc/{above}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError):
        return parent, 0
    return parent, above * any(Path(os.fsdecode(word)).name == "deepspeed" for word in words)
