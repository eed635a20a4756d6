"""Speed and memory of training and encoding: ours, FlagEmbedding and sentence-transformers, in one run.

    make bench                                   preset small, about 15 minutes on 2 cores
    python -m benchmarks --quick                 a few minutes, one round, few steps
    python -m benchmarks --preset base --shapes long --ranks 1 --contenders ours "sentence-transformers best"
    python -m benchmarks --device cuda --preset large --shapes real long --peers-path folder/of/packages

Every contender runs its own trainer in a process of its own, on the same base, data, batch and lengths, in interleaved
rounds; medians are taken over all steps after warm-up. Compare within one run only: machines have moods.
"""

import argparse
import datetime
import json
import shlex
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks.contenders import Contender, contenders
from benchmarks.machine import describe
from benchmarks.material import PRESETS, REAL, SHAPES, Material, build_base, data_folder, write_groups, write_texts
from benchmarks.report import Row, Run, Setting, Work, compare, make_row, table
from benchmarks.running import ROOT, Pythons, command, run, versions
from benchmarks.stopwatch import Job
from zh_embedder.core.runtime import quiet_deepspeed

PEERS = ROOT / ".venv-bench" / "bin" / "python"
MAX_LENGTH = 512
TEMPERATURE = 0.02
ENCODED = {"short": 1024, "mixed": 256, "long": 128, "full": 128, REAL: 512}  # texts


@dataclass(frozen=True, slots=True)
class Bench:
    """A run of the benchmark: what is asked, and where things are."""

    args: argparse.Namespace
    folder: Path
    pythons: Pythons
    machine: dict

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def settings(self) -> list[Setting]:
        """Everything that is measured, training first."""
        args = self.args
        kinds = [("train", ranks) for ranks in args.ranks if "train" in args.kinds]
        kinds += [("encode", 1)] * ("encode" in args.kinds)
        return [Setting(kind, shape, ranks) for kind, ranks in kinds for shape in args.shapes]

    def material(self, setting: Setting) -> Material:
        """Write what a setting works on; the same file for all contenders."""
        args, path = self.args, self.folder / f"{setting.kind}-{setting.shape}-{setting.ranks}.jsonl"
        if setting.kind == "encode":
            count = ENCODED[setting.shape] * args.texts // 100
            return write_texts(path, self.base, setting.shape, count=max(8, count), max_length=MAX_LENGTH)
        count = args.queries * (args.warmup + args.steps)
        return write_groups(path, self.base, setting.shape, count=count, keys=args.keys, max_length=MAX_LENGTH)

    def work(self, setting: Setting, material: Material) -> Work:
        """Texts, tokens and operations of a step of all ranks, or of a call."""
        flops, tokens = PRESETS[self.args.preset].forward_flops(material.lengths), sum(material.lengths)
        if setting.kind == "encode":
            return Work(material.texts, tokens, flops)
        steps = self.args.warmup + self.args.steps
        return Work(material.texts // steps, tokens // steps, 3 * flops / steps)

    def job(self, setting: Setting, material: Material, contender: Contender, round_: int) -> Job:
        """Tell a worker what to do."""
        args = self.args
        name = f"{setting.kind}-{setting.shape}-{setting.ranks}-{contender.name.replace(' ', '-')}-{round_}"
        return Job(
            kind=setting.kind,
            base=str(self.base),
            data=material.path,
            out=str(self.folder / "runs" / name),
            device=args.device,
            ranks=setting.ranks,
            batch=args.queries // setting.ranks,
            group=args.keys,
            max_length=MAX_LENGTH,
            temperature=TEMPERATURE,
            warmup=args.warmup,
            steps=args.steps,
            seconds=args.seconds,
            threads=args.threads,
            flags=contender.flags(setting.kind, setting.shape),
        )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="small", help="size of the base (default: small, as bge-small-zh)")
    add("--shapes", nargs="+", choices=[*SHAPES, REAL], default=["short", "mixed", "long"], help="lengths of the texts")
    add("--kinds", nargs="+", choices=["train", "encode"], default=["train", "encode"])
    add("--ranks", nargs="+", type=int, default=[1], help="processes that train together, e.g. 1 2")
    add("--contenders", nargs="+", help="names, or beginnings of names (default: all)")
    add("--queries", type=int, default=8, help="queries of a step, all ranks together")
    add("--keys", type=int, default=8, help="keys of a query")
    add("--warmup", type=int, default=1, help="steps, or calls, before the clock counts")
    add("--steps", type=int, default=10, help="steps, or calls of encode, that one run measures at most")
    add("--seconds", type=float, default=10, help="no run begins a further step after so many measured seconds")
    add("--rounds", type=int, default=2, help="runs of each contender at each setting, interleaved")
    add("--texts", type=int, default=100, help="texts to encode, in percent of the usual number")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--threads", type=int, help="threads of a rank; 1 makes `cpu s` comparable on a machine that others use too")
    add("--quick", action="store_true", help="one round, two steps, a quarter of the texts")
    add("--peers-python", default=str(PEERS) if PEERS.is_file() else sys.executable, help="interpreter of the peers")
    add("--peers-path", help="a folder of packages more for the peers, as pip install --target writes it")
    add("--json", default="runs/bench.json", help="where the figures go")
    add("--keep", help="an empty folder for base, data and logs, which are removed otherwise")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.steps, args.seconds, args.texts = 1, min(2, args.steps), min(5, args.seconds), 25
    if args.warmup < 1 or args.steps < 1 or args.rounds < 1:
        parser.error("--warmup, --steps and --rounds: expected at least 1")
    if any(args.queries % ranks for ranks in args.ranks):
        parser.error(f"--queries: {args.queries} does not divide by --ranks {args.ranks}")
    if args.keep and Path(args.keep).is_dir() and any(Path(args.keep).iterdir()):
        parser.error(f"--keep: {args.keep} is not empty")
    return args


def chosen(args: argparse.Namespace, known: list[Contender]) -> list[Contender]:
    """Return the contenders that were asked for."""
    if not args.contenders:
        return known
    found: list[Contender] = []
    for name in args.contenders:
        exact = [c for c in known if c.name == name]
        meant = exact or [c for c in known if c.name.startswith(name)]
        if not meant:
            raise SystemExit(f"--contenders: {name} unknown, expected of: {', '.join(c.name for c in known)}")
        found += [c for c in meant if c not in found]
    return found


def measure(bench: Bench, names: list[Contender], missing: dict[str, str]) -> tuple[list[Row], list[dict]]:
    """Run all contenders at all settings, round by round. Returns the rows, and every run with its command."""
    settings = bench.settings()
    materials = {setting: bench.material(setting) for setting in settings}
    runs: dict[tuple[Setting, str], list[Run]] = {(s, c.name): [] for s in settings for c in names}
    log: list[dict] = []
    todo = [(r, s, c) for s in settings for r in range(bench.args.rounds) for c in names if c.name not in missing]
    with tqdm(todo, unit=" runs", disable=None) as bar:
        for round_, setting, contender in bar:
            bar.set_postfix_str(f"{setting}: {contender.name}")
            job = bench.job(setting, materials[setting], contender, round_)
            result = run(bench.pythons, contender, job)
            runs[setting, contender.name].append(result)
            words = shlex.join(command(bench.pythons, contender, job))
            log.append({"contender": contender.name, "command": words, "job": asdict(job), "result": asdict(result)})
            tqdm.write(f"{setting}, round {round_ + 1}, {contender.name}: {say(result)}", file=sys.stderr)
    for (_, name), found in runs.items():
        if name in missing:
            found.append(Run(error=missing[name]))
    works = {setting: bench.work(setting, material) for setting, material in materials.items()}
    rows = [make_row(setting, name, found, works[setting]) for (setting, name), found in runs.items()]
    return compare(rows), log


def say(result: Run) -> str:
    return result.error or " ".join(f"{second:.3f}" for second in result.seconds) + " s"


def header(bench: Bench, found: dict[str, dict[str, str]]) -> str:
    args, machine = bench.args, bench.machine
    data, units = data_folder(), ", ".join(machine["capabilities"]) or "no bf16 unit"
    lines = [
        f"{machine['gpu'] or machine['processor']}, {machine['cores']} cores, {units}",
        f"measured peak of a matrix product: fp32 {machine['fp32_flops'] / 1e9:,.0f} GFLOP/s, "
        f"bf16 {machine['bf16_flops'] / 1e9:,.0f} GFLOP/s",
        f"preset {args.preset}: {PRESETS[args.preset]}",
        f"a step: {args.queries} queries x {args.keys} keys = {args.queries * (args.keys + 1)} texts; "
        f"texts from {data or 'the bundled records'}; dropout 0.1",
        *(f"{who}: {', '.join(f'{name} {v}' for name, v in sorted(which.items()))}" for who, which in found.items()),
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    quiet_deepspeed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worker of the moment is ended too
    if args.keep:
        return bench_in(Path(args.keep).resolve(), args)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return bench_in(Path(folder), args)


def bench_in(folder: Path, args: argparse.Namespace) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    pythons = Pythons(args.peers_python, args.peers_path, args.threads)
    bench = Bench(args, folder, pythons, describe(args.device))
    found = versions(pythons)
    flash = "flash-attn" in found["peers"]
    names = chosen(args, contenders(args.device, bf16=bench.machine["gains_from_bf16"], flash=flash))
    missing = {c.name: "not installed" for c in names if c.needs not in found["peers" if c.is_peer else "ours"]}
    said = header(bench, found)
    sys.stderr.write(said + "\n")
    build_base(bench.base, args.preset)
    rows, log = measure(bench, names, missing)
    peak = max(bench.machine["fp32_flops"], bench.machine["bf16_flops"])
    print(f"{said}\n{table(rows, peak_flops=peak)}")
    if args.json:
        write(bench, rows, found, log)
        print(f"\nwritten: {args.json}")
    return 0


def write(bench: Bench, rows: list[Row], found: dict, log: list[dict]) -> None:
    """Write figures, and all that is needed to get them again."""
    path = Path(bench.args.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "machine": bench.machine,
        "versions": found,
        "options": vars(bench.args),
        "rows": [asdict(row) for row in rows],
        "runs": log,
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
