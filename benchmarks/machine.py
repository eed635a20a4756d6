"""Machine facts: what it is, and how fast it multiplies matrices when nothing else is in the way."""

import os
import platform
import time
from pathlib import Path

import torch

SIZE = {"cpu": 2048, "cuda": 8192}


def matmul_flops(device: str, dtype: torch.dtype, *, repeats: int = 20) -> float:
    """Operations per second of a square matrix product, the fastest of several: a peak."""
    size = SIZE[device]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[2:])  # two for warm-up


def gains_from_bf16(device: str) -> bool:
    from zh_embedder.core.machine import cpu_gains_from_bf16

    return torch.cuda.is_bf16_supported() if device == "cuda" else cpu_gains_from_bf16()


def processor() -> str:
    """Name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(device: str) -> dict:
    """Everything that the header says."""
    torch.set_num_threads(cores())
    capabilities = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return {
        "device": device,
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "cores": cores(),
        "capabilities": [name[4:-10] for name in capabilities if getattr(torch.cpu, name, bool)()],
        "gains_from_bf16": gains_from_bf16(device),
        "fp32_flops": matmul_flops(device, torch.float32),
        "bf16_flops": matmul_flops(device, torch.bfloat16),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
