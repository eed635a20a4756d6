"""Capabilities of the machine (precision, matrix peak), and an allocator that keeps memory for reuse."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from functools import lru_cache

import torch

from zh_embedder.core.errors import reject, unknown_name
from zh_embedder.core.parallel import cores
from zh_embedder.core.ranks import local_ranks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PEAK_SIZE = {"cpu": 1536, "cuda": 8192}  # rows and columns of the matrices that measure the peak
PEAK_TRIES = 7
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's mallopt
# Kernels that torch's two caches on the CPU keep, the most recent ones; both keep 1024 unless told otherwise.
KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}
KEEP, PAD = 2**31 - 1, 64 << 20  # bytes


def cpu_gains_from_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AMX or AVX512-BF16); elsewhere bf16 is a loss."""
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def accelerator() -> str | None:
    """Type of the accelerator of this machine, if it has one."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found is not None else None


def best_dtype(device_type: str) -> torch.dtype:
    """Precision that a device computes fastest in without losing range: bf16 where the hardware gains, else fp32."""
    gains = (
        cpu_gains_from_bf16() if device_type == "cpu" else torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    return torch.bfloat16 if gains else torch.float32


def dtype_name(asked: str, device: torch.device, *, flag: str = "--dtype") -> str:
    """Return the precision by its name: as asked, or for auto the fastest on the device that loses no range.

    Raises:
        UserError: it is not known, or is fp16 on a CPU.
    """
    if asked not in (*DTYPES, "auto"):
        raise unknown_name(flag, asked, (*DTYPES, "auto"))
    if asked == "fp16" and device.type == "cpu":
        raise reject(flag, asked, "auto, fp32 or bf16: fp16 needs a GPU")
    return asked if asked != "auto" else next(n for n, dtype in DTYPES.items() if dtype is best_dtype(device.type))


def resolve_dtype(asked: str, device: torch.device, *, flag: str = "--dtype") -> torch.dtype:
    """Return the precision of a name; see `dtype_name`."""
    return DTYPES[dtype_name(asked, device, flag=flag)]


@lru_cache(maxsize=8)
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product, the best of a few: the yardstick of utilisation.

    Measured with the threads that this process has: under torchrun each rank measures its share of the machine.
    """
    size = PEAK_SIZE.get(device.type, 4096)
    own = torch.Generator(device).manual_seed(0)  # the global one decides what training draws
    a, b = (torch.randn(size, size, device=device, generator=own).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(PEAK_TRIES):
        start = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def keep_memory() -> bool:
    """Let the C library keep memory that was freed, instead of fetching it from the kernel at every allocation.

    A step on the CPU allocates and frees gigabytes; with glibc's defaults each large tensor is mapped and unmapped
    anew, and clearing its pages takes up to half of all time. Works from inside the process, so that no user has to set
    GLIBC_TUNABLES and start again. Does nothing where the C library is not glibc, or GLIBC_TUNABLES already speaks of
    malloc. Call it before the first large tensor.

    Returns:
        Whether it was done.
    """
    if not sys.platform.startswith("linux") or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(name, value) for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEEP), (M_TOP_PAD, PAD)))


def keep_few_kernels() -> None:
    """Bound what oneDNN keeps of its kernels in bf16: it makes one for every shape, and numbers of tokens are all new.

    With torch's defaults they grow by tens of MB a step to over a GB, between whose pieces large tensors no longer
    fit. The bound leaves room for the shapes of attention, which repeat (`models.attention.rounded`): those are dear to
    make anew. Variables that are set already hold. Call it before the first product in bf16: the caches read them once.
    """
    for name, value in KERNELS.items():
        os.environ.setdefault(name, value)


def share_of_cores() -> int:
    """Cores that this process may use, divided among the ranks of this machine."""
    return max(1, cores() // local_ranks())


def prepare(device: torch.device, *, threads: int | None = None) -> None:
    """Make a device fast for a whole run: threads and memory on the CPU, TF32 on CUDA.

    Args:
        device: where the run computes.
        threads: of this rank, on the CPU. By default torch's choice; but where torchrun starts several ranks it gives
            each one thread, however many cores there are, and then it is the rank's share of them.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        return
    keep_memory()
    keep_few_kernels()
    several = local_ranks() > 1
    if threads is not None or (several and os.environ.get("OMP_NUM_THREADS", "1") == "1"):
        torch.set_num_threads(threads or share_of_cores())
