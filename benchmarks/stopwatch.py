"""Stopwatch of workers: the job they read, the clock in the trainer, the result they write. Imports no contender."""

import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import TrainerCallback

SAMPLE = 4  # vectors of an encoding that are kept, to see that all contenders make the same


@dataclass(frozen=True, slots=True)
class Job:
    """One contender at one setting, as the driver asks for it."""

    kind: str  # train or encode
    base: str  # folder of the model
    data: str  # JSONL of groups (train) or of texts (encode)
    out: str  # folder of this run: results, and whatever the trainer writes
    device: str
    ranks: int
    batch: int  # queries of one rank's step
    group: int  # keys of a query
    max_length: int  # tokens of a query or key
    temperature: float
    warmup: int  # steps, or calls of encode, before the clock counts
    steps: int  # measured at most
    seconds: float  # measured seconds after which no further step is begun
    threads: int | None  # of a rank, where the user pins them for all
    flags: dict  # the contender's own

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"


def read_job() -> Job:
    return Job(**json.loads(Path(sys.argv[1]).read_text("utf-8")))


def read_rows(job: Job) -> list[dict]:
    with Path(job.data).open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def peak_bytes(device: str) -> int:
    """Most memory held so far: resident on the CPU, allocated on CUDA."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor_seconds() -> tuple[float, float]:
    """User and system seconds that this process has used, all threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime


def per_unit(marks: list[tuple[float, float]]) -> list[float]:
    """Mean user and system seconds from one mark to the next."""
    units = max(1, len(marks) - 1)
    return [(last - first) / units for first, last in zip(marks[0], marks[-1], strict=True)]


def write_result(job: Job, **values) -> None:
    """Leave this rank's result where the driver looks for it."""
    common = {"rank": rank(), "peak_bytes": peak_bytes(job.device), "threads": torch.get_num_threads()}
    path = Path(job.out) / f"result-{rank()}.json"
    path.write_text(json.dumps({**common, **values}) + "\n", "utf-8")


class Stopwatch(TrainerCallback):
    """Times whole steps, from the end of one to the end of the next: what the loader makes the step wait counts.

    On CUDA, events on the stream are compared after training, so that the clock never makes the host wait.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ends: list[float | torch.cuda.Event] = []
        self.begins: list[float] = []
        self.processor: list[tuple[float, float]] = []  # user and system seconds of this process, at the ends
        self.started = 0.0

    def on_train_begin(self, args, state, control, **_):
        if not self.job.on_cpu:
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args, state, control, **_):
        self.begins.append(time.perf_counter())

    def on_step_end(self, args, state, control, **_):
        if self.job.on_cpu:
            self.ends.append(time.perf_counter())
        else:
            self.ends.append(torch.cuda.current_stream().record_event(torch.cuda.Event(enable_timing=True)))
        self.processor.append(processor_seconds())
        measured = len(self.ends) - self.job.warmup
        if measured == 0:
            self.started = time.perf_counter()
        if measured >= self.job.steps or (measured > 0 and self.agree_to_stop()):
            control.should_training_stop = True
        return control

    def agree_to_stop(self) -> bool:
        """Whether the time is over on any rank; all ranks must stop at the same step."""
        over = time.perf_counter() - self.started > self.job.seconds
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return over
        votes = torch.tensor(float(over), device=self.job.device)
        dist.all_reduce(votes)
        return bool(votes > 0)

    def on_train_end(self, args, state, control, model=None, **_):
        losses = [entry["train_loss"] for entry in state.log_history if "train_loss" in entry]
        weights = sum(p.detach().double().sum() for p in model.parameters())
        write_result(
            self.job,
            seconds=self.step_seconds(),
            input_share=self.input_share(),
            processor=per_unit(self.processor[self.job.warmup - 1 :]),
            world_size=dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
            checksum=float(weights),
            loss=losses[-1] if losses else None,
        )

    def step_seconds(self) -> list[float]:
        """Seconds of each measured step."""
        ends = self.ends[self.job.warmup - 1 :]
        if not self.job.on_cpu:
            torch.cuda.synchronize()
            return [a.elapsed_time(b) / 1000 for a, b in pairwise(ends)]
        return [b - a for a, b in pairwise(ends)]

    def input_share(self) -> float | None:
        """Share of the measured time between the end of a step and the beginning of the next; the CPU's alone."""
        if not self.job.on_cpu:
            return None
        first = self.job.warmup
        waits = [begin - end for end, begin in zip(self.ends[first - 1 :], self.begins[first:], strict=False)]
        return sum(waits) / max(sum(self.step_seconds()), 1e-9)


def time_encoding(job: Job, encode, *, probed: int = 0) -> None:
    """Time calls of `encode(texts)` on all texts, after warm-up calls, and write the result.

    `probed`: texts that the contender encodes once more in each call, only to see whether they fit.
    """
    texts = [row["text"] for row in read_rows(job)]
    if not job.on_cpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(job.warmup):
        encode(texts[: max(1, len(texts) // 8)] if job.on_cpu else texts)
    seconds: list[float] = []
    processor = [processor_seconds()]
    while len(seconds) < job.steps and (not seconds or sum(seconds) < job.seconds):
        start = time.perf_counter()
        vectors = encode(texts)
        seconds.append(time.perf_counter() - start)
        processor.append(processor_seconds())
    write_result(
        job,
        seconds=seconds,
        processor=per_unit(processor),
        texts=len(texts),
        probed=min(probed, len(texts)),
        sample=[[float(value) for value in vector] for vector in vectors[:SAMPLE]],
    )
