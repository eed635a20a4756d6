"""Running of workers, each in a process of its own, and the reading of what they leave behind."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.contenders import Contender
from benchmarks.machine import cores
from benchmarks.report import Run
from benchmarks.stopwatch import Job

ROOT = Path(__file__).resolve().parent.parent
GIVE_UP = 3600  # seconds of one run
# What the shell of this moment happens to hold is no default.
NOT_INHERITED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "GLIBC_TUNABLES", "LD_PRELOAD")
DISTRIBUTIONS = (
    "torch",
    "transformers",
    "sentence-transformers",
    "FlagEmbedding",
    "accelerate",
    "tokenizers",
    "flash-attn",
)
VERSIONS = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Pythons:
    """The interpreters: ours, and the one that holds the peers."""

    peers: str
    peers_path: str | None  # a folder of packages more
    threads: int | None  # of every rank of every contender; None leaves them to the contenders

    def of(self, contender: Contender) -> str:
        return self.peers if contender.is_peer else sys.executable

    def environment(self, contender: Contender, *, ranks: int) -> dict[str, str]:
        """The environment of a worker: clean, and with as many threads as a careful user would give the tuned ones."""
        kept = self.clean(peer=contender.is_peer)
        if self.threads or contender.threads:
            kept["OMP_NUM_THREADS"] = str(self.threads or max(1, cores() // ranks))
        return kept

    def clean(self, *, peer: bool) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        kept |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        if peer and self.peers_path:
            kept["PYTHONPATH"] = os.pathsep.join(filter(None, [self.peers_path, kept.get("PYTHONPATH")]))
        return kept


def versions(pythons: Pythons) -> dict[str, dict[str, str]]:
    """Return the versions of all that matters here, as our interpreter and the peers' have it installed."""
    interpreters = {"ours": (sys.executable, False), "peers": (pythons.peers, True)}
    return {
        who: json.loads(
            subprocess.run(
                [python, "-c", VERSIONS, *DISTRIBUTIONS],
                env=pythons.clean(peer=peer),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for who, (python, peer) in interpreters.items()
    }


def command(pythons: Pythons, contender: Contender, job: Job) -> list[str]:
    """Return the words that start a worker, on every rank."""
    python, words = pythons.of(contender), ["-m", contender.module, f"{job.out}/job.json"]
    if job.ranks == 1:
        return [python, *words]
    return [python, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={job.ranks}", *words]


def run(pythons: Pythons, contender: Contender, job: Job) -> Run:
    """Run a worker to its end."""
    out = Path(job.out)
    out.mkdir(parents=True)
    (out / "job.json").write_text(json.dumps(asdict(job)), "utf-8")
    environment = pythons.environment(contender, ranks=job.ranks)
    clock = Others()
    with (out / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command(pythons, contender, job),
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=GIVE_UP)
        except BaseException as error:  # an interrupt, too, must leave no worker behind
            os.killpg(process.pid, signal.SIGTERM)  # torchrun ends its ranks, which have sessions of their own
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Run(error=f"gave up after {GIVE_UP} s")
    result = replace(read_results(out, job, code), others=clock.share())
    shutil.rmtree(out / "trainer", ignore_errors=True)  # weights
    return result


class Others:
    """Measures what other programs take of this machine, from now on; 0 where the system does not say."""

    def __init__(self) -> None:
        self.started, self.busy, self.own = time.perf_counter(), busy_seconds(), child_seconds()

    def share(self) -> float:
        """Share of all cores that neither idled nor worked for our children, which have ended by now."""
        if self.busy is None:
            return 0.0
        wall = max(time.perf_counter() - self.started, 1e-9) * (os.cpu_count() or 1)
        return max(0.0, (busy_seconds() - self.busy - (child_seconds() - self.own)) / wall)


def busy_seconds() -> float | None:
    """Seconds that all cores together have worked since the system started."""
    path = Path("/proc/stat")
    if not path.is_file():
        return None
    ticks = [int(word) for word in path.read_text().split("\n", 1)[0].split()[1:]]
    return (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")  # without idle and waiting for disks


def child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read_results(out: Path, job: Job, code: int) -> Run:
    """Read the results of all ranks, and see that they were one training."""
    ranks = [json.loads(path.read_text("utf-8")) for path in sorted(out.glob("result-*.json"))]
    if code == -signal.SIGKILL:
        return Run(error="failed: killed, as systems do when memory runs out")
    if code or len(ranks) != job.ranks:
        lines = [line.strip() for line in (out / "log.txt").read_text("utf-8", "replace").splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line] or lines or [f"exit code {code}"]
        return Run(error=f"failed: {errors[-1][:160]}")
    first = ranks[0]
    if job.kind == "train":
        worlds, sums = {r["world_size"] for r in ranks}, {r["checksum"] for r in ranks}
        if worlds != {job.ranks} or len(sums) != 1:
            return Run(error=f"ranks trained apart: world sizes {worlds}, {len(sums)} different models")
    return Run(
        seconds=tuple(first["seconds"]),
        peak_bytes=max(r["peak_bytes"] for r in ranks),
        input_share=first.get("input_share"),
        probed=first.get("probed", 0),
        loss=first.get("loss"),
        user=sum(r["processor"][0] for r in ranks),
        system=sum(r["processor"][1] for r in ranks),
        sample=tuple(map(tuple, first.get("sample", ()))),
    )
