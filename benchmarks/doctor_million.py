"""Doctor on a million real records: seconds and peak memory.

    python -m benchmarks.doctor_million --data DIR --folder WORK [--records 1000000] [--eval DIR/law DIR/qa] [--fix]

The records are made of the plain texts in DIR/corpus_general: a sentence asks, the passage it was taken from answers
(without it), and seven other passages are negatives, two of the same text. One record in a hundred comes a second time
in another spelling, one in a hundred has a near copy of its positive among its negatives: what the doctor must then
find is known. The folder keeps the records, so that a second call measures only.
"""

import argparse
import json
import os
import random
import re
import sys
import time
from collections import deque
from pathlib import Path

from benchmarks.planting import disguised, edited
from data_tools.shared.record_files import as_line, lines_to, read_records
from zh_embedder.core.progress import Bar

SENTENCES = re.compile(r"[^。！？\n]+[。！？]?")
PASSAGE = 120  # characters, at the least
KEYS = 8
KNOWN = 5000  # passages of other texts that negatives are drawn from: the latest
COPIES, NEAR = "duplicate_record", "negative_near_positive"
EVERY = 100  # records to one planted


def passages_of(text: str) -> list[list[str]]:
    """Cut a text into runs of whole sentences, each as long as a passage."""
    found: list[list[str]] = [[]]
    for sentence in SENTENCES.findall(text):
        if sum(map(len, found[-1])) >= PASSAGE:
            found.append([])
        if sentence.strip():
            found[-1].append(sentence.strip())
    return [passage for passage in found if len(passage) > 1]


def records_of(data: Path, rng: random.Random):
    """Yield records without end, as long as sentences last: the longest sentence of every passage, then the next."""
    for turn in range(3):
        known: deque[str] = deque(maxlen=KNOWN)
        for path in sorted((data / "corpus_general").glob("*.jsonl.zst")):
            for where, row in read_records(path, show_progress=False):
                passages = passages_of(row["text"])
                whole = ["".join(passage) for passage in passages]
                for passage, own in zip(passages, whole, strict=True):
                    if len(passage) <= turn + 1 or len(known) < KNOWN:
                        continue
                    query = sorted(passage, key=len)[-1 - turn]
                    pos = "".join(sentence for sentence in passage if sentence != query)
                    near = [text for text in rng.sample(whole, min(4, len(whole))) if text != own][:2]
                    neg = near + rng.sample(known, KEYS - 1 - len(near))
                    if len(query) > 5 and len(pos) > 5:
                        yield {"query": query, "pos": [pos], "neg": neg, "task": "qa", "group": where.split("/")[-1]}
                known.extend(whole)


def write(data: Path, folder: Path, count: int) -> dict[str, int]:
    """Write records; returns how many of each kind were planted."""
    rng, planted = random.Random(0), {COPIES: 0, NEAR: 0}
    with lines_to(folder / f"{count}.jsonl.zst") as out, Bar(count) as bar:
        written = 0
        for record in records_of(data, rng):
            chance = rng.randrange(EVERY)
            if chance == 0 and (copy := edited(record["pos"][0], rng)) is not None:
                record["neg"][-1] = copy
                planted[NEAR] += 1
            out.write(as_line(record))
            written += 1
            if chance == 1 and written < count:
                out.write(as_line({**record, "query": disguised(record["query"], rng), "neg": record["neg"][::-1]}))
                planted[COPIES] += 1
                written += 1
            bar.update(written - bar.n)
            if written == count:
                return planted
    raise SystemExit(f"the texts give {written} records")


def measure(words: list[str]) -> tuple[float, float, int]:
    """Run a command; returns seconds, seconds of CPU, and the most MiB it ever held."""
    start = time.monotonic()
    child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, *words])
    _, status, used = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) == 2:
        raise SystemExit(2)
    return time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--eval", nargs="+", default=[])
    parser.add_argument("--fix", action="store_true", help="write the cleaned copy too")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    file, notes = args.folder / f"{args.records}.jsonl.zst", args.folder / f"{args.records}.json"
    if not notes.is_file():
        notes.write_text(json.dumps(write(args.data, args.folder, args.records)))
    planted, found = json.loads(notes.read_text()), args.folder / "findings.json"
    words = ["-m", "data_tools.doctor", str(file), "--json", str(found), "--show", "0", "--train_group_size", str(KEYS)]
    words += ["--eval", *args.eval] if args.eval else []
    words += ["--fix", str(args.folder / "fixed")] if args.fix else []
    seconds, cpu, peak = measure(words)
    counts = {row["kind"]: row["count"] for row in json.loads(found.read_text("utf-8"))["summary"]}
    print("| records | seconds | of CPU | for 10,000 | peak MiB |\n|---|---|---|---|---|")
    print(f"| {args.records:,} | {seconds:.0f} | {cpu:.0f} | {1e4 * cpu / args.records:.1f} | {peak:,} |")
    print(", ".join(f"{kind}: {n:,} planted, {counts.get(kind, 0):,} found" for kind, n in planted.items()))


if __name__ == "__main__":
    main()
