"""Same figures from two checkouts, to the last digit: a check for changes that must not change any.

    python -m benchmarks.same_figures BEFORE AFTER
    python -m benchmarks.same_figures BEFORE --save before.json
    python -m benchmarks.same_figures AFTER --against before.json --cases demo resume

Each case runs commands as users type them, with the checkout's code, on one thread, and compares what they leave
behind: losses, weights, what was measured, vectors, records. Figures of one machine say nothing about another's, so a
stored file is for the machine that wrote it. Exit code: 0 where all is equal, 1 where something differs or fails.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.figures import MISSING, compare, leaves
from benchmarks.same_cases import CASES
from benchmarks.same_work import Work

ROOT = Path(__file__).resolve().parent.parent
FAILED = "failed"
WRITING = threading.Lock()
Cases = dict[str, dict[str, Any]]  # case -> its figures, seconds, commit
WHOSE = "import data_tools, zh_embedder; print(data_tools.__file__, zh_embedder.__file__, sep='\\n')"


def measure(
    code: Path, names: Sequence[str], folder: Path, *, data: Path, at_once: int, forked: bool, kept: Path | None
) -> Cases:
    """Run cases with a checkout's code, each in a folder of its own; what is to be kept is, as soon as it is there."""
    folder.mkdir(parents=True)
    used = Work(code, folder).python("-c", WHOSE).split("\n")
    if not all(Path(path).is_relative_to(code) for path in used if path):
        sys.exit(f"{code}: its code is not what runs, but {used}")

    def one(name: str) -> dict[str, Any]:
        work = Work(code, folder / name, forked)
        work.folder.mkdir()
        shutil.copytree(ROOT / "examples" / "demo", work.folder / "demo")
        (work.folder / "data").symlink_to(data)
        started = time.monotonic()
        try:
            figures = CASES[name](work)
        except Exception as error:  # a case that fails is one row of the table
            figures = {FAILED: f"{type(error).__name__}: {error}"}
        finally:
            work.close()
        seconds = round(time.monotonic() - started, 1)
        print(f"{code.name}: {name}: {seconds} s {figures.get(FAILED, '')}", file=sys.stderr, flush=True)
        found = {"seconds": seconds, "commit": commit(code), "figures": json.loads(json.dumps(figures))}
        if kept:
            with WRITING:
                save(kept, {name: found})
        return found

    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def row(case: str, what: str, before: Any, after: Any) -> list[str]:
    """Lay one figure out: equal, or where it differs first and by how much."""
    if what == FAILED:
        sides = ("before", before), ("after", after)
        return [case, what, "; ".join(f"{side}: {text}" for side, text in sides if text != MISSING)]
    found = compare(before, after)
    total = sum(1 for _ in leaves(before))
    if found is None:
        return [case, what, f"equal ({total} values)"]
    size = "" if found.largest is None else f", max |diff| {found.largest:.3g}"
    return [case, what, f"DIFFERS: {found.place}: {found.before} / {found.after}; {found.count} of {total}{size}"]


def rows(before: Mapping[str, Any], after: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    """Compare cases figure by figure."""
    found = []
    for name in names:
        one, other = (side.get(name, {"figures": {FAILED: "was not run"}})["figures"] for side in (before, after))
        found += [
            row(name, what, one.get(what, MISSING), other.get(what, MISSING)) for what in dict.fromkeys([*one, *other])
        ]
    return found


def show(table: list[list[str]]) -> bool:
    """Print the table; tell whether everything is equal."""
    wide = [max(len(line[column]) for line in table) for column in (0, 1)]
    for case, what, found in table:
        print(f"{case:{wide[0]}}  {what:{wide[1]}}  {found}")
    return all(found.startswith("equal") for _, _, found in table)


def commit(code: Path) -> str:
    """Name what a checkout holds, as git sees it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=code, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def save(file: Path, measured: Cases) -> None:
    """Write figures to a file, in place of those that it has of the same cases."""
    content = {**(json.loads(file.read_text("utf-8")) if file.exists() else {}), **measured}
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", type=Path, metavar="CHECKOUT", help="BEFORE and AFTER, or one of them")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help=", ".join(CASES))
    default = Path(os.environ.get("ZH_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with the data sets ($ZH_DATA)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the figures of the (last) checkout here")
    parser.add_argument("--against", type=Path, metavar="FILE", help="kept figures to compare with")
    parser.add_argument("--folder", type=Path, help="keep the work folders here")
    parser.add_argument("--at_once", type=int, default=1, help="cases that run side by side, a thread each (1)")
    parser.add_argument("--forked", action="store_true", help="commands of a case share imports (not under torchrun)")
    args = parser.parse_args()
    if len(args.checkouts) + bool(args.against) > 2 or (len(args.checkouts) == 1 and not (args.against or args.save)):
        parser.error("expected BEFORE and AFTER, or one checkout with --against or --save")
    if not args.data.is_dir():
        parser.error(f"--data: no such folder: {args.data}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        sides = []
        for code in args.checkouts:
            place, kept = folder / f"{len(sides)}", args.save if code == args.checkouts[-1] else None
            options = {"data": args.data.resolve(), "at_once": args.at_once, "forked": args.forked, "kept": kept}
            sides.append(measure(code.resolve(), args.cases, place, **options))
    if args.against:
        sides.insert(0, json.loads(args.against.read_text("utf-8")))
    if len(sides) == 1:
        failed = [[name, FAILED, one["figures"][FAILED]] for name, one in sides[0].items() if FAILED in one["figures"]]
        return 0 if not failed or show(failed) else 1
    return 0 if show(rows(*sides, args.cases)) else 1


if __name__ == "__main__":
    sys.exit(main())
