"""Precision, matrix peak, memory and threads: right here, and harmless elsewhere."""

import os
import sys
import textwrap

import pytest
import torch

from tests.processes import ROOT, environment, finish, forked, start
from zh_embedder.core import machine
from zh_embedder.core.errors import UserError
from zh_embedder.core.machine import (
    KERNELS,
    PEAK_SIZE,
    accelerator,
    best_dtype,
    cpu_gains_from_bf16,
    keep_few_kernels,
    keep_memory,
    matmul_peak,
    prepare,
    resolve_dtype,
    share_of_cores,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


# ---- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_a_precision_by_its_name(name, dtype):
    assert resolve_dtype(name, CUDA) == getattr(torch, dtype)
    if name != "fp16":
        assert resolve_dtype(name, CPU) == getattr(torch, dtype)


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UserError, match=r"^--dtype: got 'fp16', expected auto, fp32 or bf16: fp16 needs a GPU"):
        resolve_dtype("fp16", CPU)


def test_an_unknown_precision_is_refused_with_the_nearest():
    with pytest.raises(
        UserError, match=r"^--dtype: unknown name 'bf61'; did you mean 'bf16'\? Known: auto, bf16, fp16"
    ):
        resolve_dtype("bf61", CPU)
    with pytest.raises(UserError, match=r"^--dtype: unknown name 'float32'"):
        resolve_dtype("float32", CPU)


@pytest.mark.parametrize(("amx", "avx512"), [(False, False), (True, False), (False, True), (True, True)])
def test_auto_is_bf16_where_a_cpu_multiplies_it_in_hardware(amx, avx512, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert cpu_gains_from_bf16() == (amx or avx512)
    expected = torch.bfloat16 if amx or avx512 else torch.float32
    assert best_dtype("cpu") == resolve_dtype("auto", CPU) == expected


def test_auto_is_fp32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert best_dtype("cpu") == torch.float32


@pytest.mark.parametrize(("there", "supported"), [(True, True), (True, False), (False, True)])
def test_auto_on_a_gpu_is_bf16_where_it_has_it_and_never_fp16(there, supported, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert best_dtype("cuda") == (torch.bfloat16 if there and supported else torch.float32)


def test_the_accelerator_is_named_or_none(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert accelerator() is None
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: CUDA)
    assert accelerator() == "cuda"


# ---- the peak -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_peak(monkeypatch):
    """Matrices that take no time; nothing measured before or after stays."""
    monkeypatch.setitem(PEAK_SIZE, "cpu", 64)
    matmul_peak.cache_clear()
    yield
    matmul_peak.cache_clear()


def test_the_peak_is_operations_of_the_best_try_per_second(small_peak, monkeypatch):
    ends = iter([0, 5, 10, 12, 20, 29, *[100, 200] * 4])  # tries of 5, 2, 9 and 100 seconds
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(ends))
    assert matmul_peak(CPU, torch.float32) == 2 * 64**3 / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_is_measured_once_and_leaves_the_random_state_alone(small_peak, dtype, monkeypatch):
    products = []
    monkeypatch.setattr(torch, "mm", lambda a, b: products.append((a.dtype, b.dtype, a.shape, b.shape)))
    before = torch.get_rng_state()
    peak = matmul_peak(CPU, dtype)
    assert peak > 0
    assert matmul_peak(CPU, dtype) == peak
    assert products == [(dtype, dtype, (64, 64), (64, 64))] * machine.PEAK_TRIES
    assert torch.equal(torch.get_rng_state(), before)


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tunables", ["glibc.malloc.mmap_max=65536", "glibc.cpu.x=1:glibc.malloc.top_pad=0"])
def test_who_has_set_the_allocator_is_left_alone(tunables, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    monkeypatch.setattr(machine.ctypes, "CDLL", forbidden)
    assert keep_memory() is False


def test_other_systems_and_libraries_are_left_alone(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _name: object())  # no mallopt: musl has none
    assert keep_memory() is False

    def missing(_name):
        raise OSError

    monkeypatch.setattr(machine.ctypes, "CDLL", missing)
    assert keep_memory() is False
    monkeypatch.setattr(machine.ctypes, "CDLL", forbidden)
    for system in ("darwin", "win32"):
        monkeypatch.setattr(sys, "platform", system)
        assert keep_memory() is False


def forbidden(_name):
    """Stands where nothing may be loaded."""
    raise AssertionError("the C library was asked")


@pytest.mark.parametrize("refused", [-1, -2, -4])
def test_what_the_library_refuses_is_said(refused, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    asked = {}

    class Library:
        @staticmethod
        def mallopt(name, value):
            asked[name] = value
            return int(name != refused)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _name: Library)
    assert keep_memory() is False
    assert asked.get(-4, 0) == 0  # M_MMAP_MAX: nothing is mapped


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_memory_that_was_freed_is_kept():
    """In a process of its own: without it every large tensor faults its pages in anew, with it none does."""
    script = """
        import ctypes, resource
        from zh_embedder.core.machine import keep_memory

        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        libc.mallopt(-1, 128 << 10)  # glibc's own thresholds, which else rise with what is freed
        libc.mallopt(-3, 128 << 10)

        def faults(size=64 << 20, times=5):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(times):
                block = libc.malloc(size)
                libc.memset(block, 1, size)
                libc.free(block)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        before = faults()
        print(keep_memory(), keep_memory())
        faults(times=1)
        print(before, faults())
    """
    own = {name: value for name, value in environment(ROOT).items() if name != "GLIBC_TUNABLES"}
    said, counts = finish(start([*forked(), "-c", textwrap.dedent(script)], ROOT, env=own)).splitlines()
    if said == "False False":
        pytest.skip("the C library is not glibc")
    assert said == "True True"
    without, with_ = map(int, counts.split())
    assert without >= 5 * 16  # pages of 4 MB at the least: five blocks of 64 MB
    assert with_ < without / 10


def test_torch_is_told_to_keep_few_kernels_unless_the_user_says_otherwise(monkeypatch):
    one, other = KERNELS
    monkeypatch.setenv(one, "7")
    monkeypatch.setenv(other, "gone")  # so that what the call sets is undone
    monkeypatch.delenv(other)
    keep_few_kernels()
    assert os.environ[one] == "7"
    assert os.environ[other] == KERNELS[other]


@pytest.mark.slow
@pytest.mark.skipif(not cpu_gains_from_bf16(), reason="oneDNN has no kernels of bf16 for this CPU")
def test_what_new_shapes_leave_in_memory_does_not_grow():
    """Layers over 150 and 300 numbers of tokens, in processes of their own: the caches are read once."""
    script = """
        import os, sys, torch
        from tests.models.test_gradcache import in_use
        from zh_embedder.core.machine import keep_few_kernels

        if sys.argv[1] == "few":
            keep_few_kernels()
        layer = torch.nn.Linear(64, 64, bias=False)
        for tokens in range(200, 500):
            with torch.autocast("cpu", torch.bfloat16):
                out = layer(torch.ones(tokens, 64))
            out.sum().backward()
            if tokens == 349:
                before = in_use()
        print((in_use() - before) >> 10)
    """
    own = {name: value for name, value in environment(ROOT).items() if name not in KERNELS}
    grown = {}
    for way in ("few", "all"):
        printed = finish(start([*forked(), "-c", textwrap.dedent(script), way], ROOT, env=own))
        grown[way] = int(printed.split()[-1])  # KiB
    assert grown["few"] < grown["all"] / 5, grown


# ---- threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "ranks", "share"), [(8, None, 8), (8, "1", 8), (8, "2", 4), (8, "3", 2), (2, "8", 1), (1, None, 1)]
)
def test_ranks_share_the_cores(cores, ranks, share, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _process: set(range(10, 10 + cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert share_of_cores() == share


def test_cores_of_a_system_that_binds_no_process(monkeypatch):
    monkeypatch.delattr(machine.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert share_of_cores() == 3
    monkeypatch.setattr(machine.os, "cpu_count", lambda: None)
    assert share_of_cores() == 1


@pytest.mark.parametrize(
    ("asked", "environment", "ranks", "threads"),
    [
        (3, None, "2", 3),
        (3, "7", "1", 3),  # who asks is heard
        (None, None, "2", 5),
        (None, "1", "2", 5),  # torchrun's word, not a user's
        (None, "4", "2", None),  # a user's: torch has heard it already
        (None, "1", "1", None),  # the same: torchrun says nothing to a single rank
        (None, None, "1", None),
    ],
)
def test_a_rank_gets_its_threads(asked, environment, ranks, threads, monkeypatch):
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(machine, "share_of_cores", lambda: 5)
    monkeypatch.setattr(machine, "keep_memory", lambda: given.append("memory"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    prepare(CPU, threads=asked)
    assert given == ["memory", *([threads] if threads else [])]


def test_threads_are_really_set():
    before = torch.get_num_threads()
    try:
        prepare(CPU, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_on_a_gpu_products_of_fp32_use_tf32_and_nothing_else_is_touched(monkeypatch):
    given = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", given.append)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(machine, "keep_memory", lambda: given.append("memory"))
    prepare(CUDA, threads=3)
    assert given == ["high"]
