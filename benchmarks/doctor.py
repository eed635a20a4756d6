"""Planted defects: how many the doctor finds, and what else it reports.

    python -m benchmarks.doctor --data DIR [--each 40] [--seed 0] [--json doctor.json]

Two thirds of every real set are read; defects of records are planted in them, each in records of its own, `--each` of
a kind over all sets. Of the rest, and of labelled texts made of icl records, small files are made for defects of whole
datasets: half of them planted. `wrong` are new findings of a kind in records that nothing was planted in; `in another
planted record` those in records with another planted defect, which mostly follow from it (a misspelt task makes a
small dataset): precision leaves them out, `strict` counts them as wrong. What the sets had before planting is judged by
hand in docs/measured/doctor.md.
"""

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from benchmarks.planting import PLANTS, disguised, edited
from data_tools.doctor import main as doctor
from data_tools.shared.record_files import find_records, read_records
from zh_embedder.evaluation.read_retrieval import read_retrieval_set

FILES_EACH = 4  # files with a defect of a whole dataset
SIZE = 60  # records of such a file


class Farm:
    """Files with planted defects, and where they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[str, list] = {}
        self.planted: dict[tuple[str, str], set] = defaultdict(set)

    def put(self, file: str, line: int, value, how: tuple[str, str], *places: int) -> None:
        """Put a value on a line (0 appends), and remember the places at which it is to be found."""
        rows = self.lines[file]
        if line:
            rows[line - 1] = value
        else:
            rows.append(value)
        self.planted[how] |= {(file, place) for place in places or (line or len(rows),)}

    def write(self) -> None:
        for file, rows in self.lines.items():
            raw = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
            (self.folder / file).write_bytes(b"\n".join(raw) + b"\n")

    def examine(self, *flags: str) -> tuple[dict[str, set], float]:
        """Write, run the doctor; returns kind -> places, and seconds of CPU (the machine is shared)."""
        self.write()
        report, start = self.folder / "report" / "findings.json", time.process_time()
        with redirect_stdout(StringIO()):
            doctor([f"{self.folder}/*.jsonl", "--json", str(report), "--show", "0", *flags])
        seconds, found = time.process_time() - start, defaultdict(set)
        for finding in json.loads(report.read_text("utf-8"))["findings"]:
            found[finding["kind"]].add((Path(finding["file"]).name, finding["line"]))
        return found, seconds


def scored(record, rng):
    """Give a record a teacher's scores as a good reranker gives them: sometimes a negative is best."""
    scores = [rng.gauss(6, 1.5) for _ in record["pos"]] + [rng.gauss(0, 2) for _ in record["neg"]]
    return {**record, "teacher_scores": [round(score, 3) for score in scores]}


def read(data: Path, farm: Farm, rng) -> list[dict]:
    """Take two thirds of every set as the ground; returns the rest."""
    rest = []
    for path in find_records([f"{data}/*/*/train.jsonl*"]):
        records = [record for _, record in read_records(path, show_progress=False)]
        if path.parts[-3] in ("qa", "law"):
            records = [scored(record, rng) for record in records]
        file = f"{path.parts[-3]}-{path.parts[-2]}.jsonl"
        farm.lines[file] = records[: 2 * len(records) // 3]
        rest.append(records[2 * len(records) // 3 :])
    return rest


def files_of(farm: Farm, rest, rng) -> None:
    """Make the files for defects of whole datasets: clean ones first, planted by `plant_files`."""
    at = [0] * len(rest)
    for kind in ("teacher_flat", "teacher_disagrees", "shared_prefix", "truncated", "small_dataset"):
        for number in range(2 * FILES_EACH):
            source = number % len(rest)
            records = rest[source][at[source] : at[source] + SIZE]
            at[source] += SIZE
            farm.lines[f"{kind}-{number}.jsonl"] = [scored(record, rng) for record in records]
    labelled = [
        {"text": record["query"], "label": record["answers"][0], "task": "emotion"}
        for records in rest
        for record in records
        if record["task"] == "icl"
    ]
    usual = [row for row in labelled if row["label"] in ("愤怒", "悲伤", "高兴")]
    for number in range(2 * FILES_EACH):
        farm.lines[f"label_imbalance-{number}.jsonl"] = usual[number * SIZE : (number + 1) * SIZE]


def plant_files(farm: Farm, rng) -> None:
    """Plant defects of datasets in the first files of each kind."""
    for number in range(FILES_EACH):
        for kind, change in {
            "teacher_flat": lambda r: {**r, "teacher_scores": [0.5 + s / 1000 for s in r["teacher_scores"]]},
            "teacher_disagrees": lambda r: {**r, "teacher_scores": [-s for s in r["teacher_scores"]]},
            "shared_prefix": lambda r: {**r, "query": "请为下面的内容找到资料：" + r["query"]},
            "truncated": lambda r: {**r, "neg": [(text * 99)[:1200] for text in r["neg"]]},
        }.items():
            file = f"{kind}-{number}.jsonl"
            farm.lines[file] = [change(record) for record in farm.lines[file]]
            farm.planted[kind, "a whole file"].add((file, 1))
            if kind == "teacher_disagrees":
                places = {(file, line) for line in range(1, len(farm.lines[file]) + 1)}
                farm.planted["teacher_reversed", "neg before pos, or signs turned"] |= places
        file = f"small_dataset-{number}.jsonl"
        farm.lines[file] = farm.lines[file][:9]
        farm.planted["small_dataset", "a whole file"].add((file, 1))
        file = f"label_imbalance-{number}.jsonl"
        farm.lines[file] = [{**r, "label": r["label"] if i < 3 else "愤怒"} for i, r in enumerate(farm.lines[file])]
        farm.planted["label_imbalance", "a whole file"].add((file, 1))
        first = farm.lines[file := f"label_imbalance-{number + FILES_EACH}.jsonl"][0]
        farm.put(
            file,
            0,
            {**first, "label": "悲伤" if first["label"] == "愤怒" else "愤怒"},
            ("contradicting_keys", "another label for the same text"),
        )


def plant_records(farm: Farm, data: Path, each: int, rng) -> None:
    """Plant defects of records, each in records of its own."""
    ground = [
        (file, line + 1)
        for file in farm.lines
        if "-" in file and file[0] not in "_"
        for line in range(len(farm.lines[file]))
    ]
    ground = [(f, n) for f, n in ground if (data / f.replace("-", "/").removesuffix(".jsonl")).is_dir()]
    rng.shuffle(ground)
    places = iter(ground)

    def until(make, how, count=each):
        while count:
            file, line = next(places)
            record = farm.lines[file][line - 1]
            made = make(file, line, record)
            if made is not None:
                count -= 1
                farm.put(file, line, made, how)

    for how, plant in PLANTS.items():
        until(lambda f, n, r, plant=plant: plant(r, rng), how)
    evals = {p: read_retrieval_set(p) for p in sorted(q.parent for q in data.glob("*/*/test"))}
    until(lambda f, n, r: leaked(r, "query", evals, rng, disguised), ("leak_query", "in another spelling"))
    until(lambda f, n, r: leaked(r, "pos", evals, rng, disguised), ("leak_key", "in another spelling"))
    until(lambda f, n, r: leaked(r, "query", evals, rng, edited), ("leak_query_near", "2 % of characters changed"))
    until(lambda f, n, r: leaked(r, "pos", evals, rng, edited), ("leak_key_near", "2 % of characters changed"))
    for _ in range(each):
        plant_repeats(farm, places, rng)


def leaked(record, side, evals, rng, change):
    """Put a query or a right key of an evaluation set in a record's place."""
    data = rng.choice(list(evals.values()))
    query = rng.choice(sorted(data.queries))
    right = data.keys[rng.choice(sorted(data.qrels[query]))]
    text = change(data.queries[query] if side == "query" else right, rng)
    if text is None:
        return None
    return (
        {**record, "query": text}
        if side == "query"
        else {**record, "pos": [text, *record["pos"][1:]]}
        if ("teacher_scores" not in record or len(record["pos"]) == 1)
        else None
    )


def plant_repeats(farm: Farm, places, rng) -> None:
    """Append records that repeat others, or contradict them."""
    file, line = next(places)
    made = copy.deepcopy(farm.lines[file][line - 1])
    made["query"] = disguised(made["query"], rng)
    farm.put(file, 0, made, ("duplicate_record", "query in another spelling"))
    file, line = next(places)
    record = farm.lines[file][line - 1]
    bare = {name: record[name] for name in ("query", "task")}
    farm.put(
        file,
        0,
        {**bare, "pos": record["neg"][:1], "neg": [*record["pos"][:1], *record["neg"][1:]]},
        ("contradicting_keys", "a positive and a negative swapped"),
        line,
        len(farm.lines[file]) + 1,
    )
    file, line = next(places)
    record = farm.lines[file][line - 1]
    other = farm.lines[file][next(n for f, n in places if f == file) - 1]
    bare = {name: record[name] for name in ("query", "task")}
    farm.put(
        file,
        0,
        {**bare, "pos": other["pos"][:1], "neg": [*other["neg"][1:], record["pos"][0]]},
        ("negative_elsewhere_positive", "a record more, the positive among its negatives"),
    )
    farm.planted["query_repeated", "(the two above)"].add((file, len(farm.lines[file])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--each", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from zh_embedder.bases.tiny import build

    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        base = build(Path(folder) / "base")
        flags = ["--version", "zh_llm_embedder", "--eval", str(args.data), "--query_encoder", str(base)]
        flags += ["--train_group_size", "4", "--key_max_length", "1024", "--query_max_length", "1024"]
        farm = Farm(Path(folder))
        files_of(farm, read(args.data, farm, rng), rng)
        before, _ = farm.examine(*flags)
        plant_files(farm, rng)
        plant_records(farm, args.data, args.each, rng)
        found, seconds = farm.examine(*flags)
    report(farm, before, found, seconds, args.json)


def report(farm: Farm, before, found, seconds: float, target: Path | None) -> None:
    """Print the table."""
    records = sum(map(len, farm.lines.values()))
    rows, by_kind = [], defaultdict(set)
    for (kind, _), places in farm.planted.items():
        by_kind[kind] |= places
    touched = set().union(*by_kind.values())
    for (kind, how), places in sorted(farm.planted.items()):
        right, others = by_kind[kind] & found[kind], found[kind] - by_kind[kind]
        new = others - before[kind]
        rates = [len(right) / max(1, len(right) + wrong) for wrong in (len(new - touched), len(new))]
        rates = [len(places & found[kind]) / len(places), *rates]
        counts = [len(new - touched), len(new & touched), len(others & before[kind])]
        rows.append([kind, how, len(places), *(f"{rate:.3f}" for rate in rates), *counts])
        print(f"{kind}: missed {sorted(places - found[kind])[:3]}, wrong {sorted(new)[:4]}", file=sys.stderr)
    head = ["kind", "planted", "records", "recall", "precision", "strict", "wrong", "in another planted record"]
    head.append("there before")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    print("\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows))
    print(f"\n{records:,} records, {seconds:.0f} s of CPU, {1e4 * seconds / records:.1f} for 10,000")
    if target:
        target.write_text(json.dumps({"rows": rows, "records": records, "seconds": seconds}, ensure_ascii=False))


if __name__ == "__main__":
    main()
