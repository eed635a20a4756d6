"""Figures of what commands leave behind, by content and not by file name, and the comparison of two sets of them.

Figures are plain JSON: losses by step, values of summaries, digests of weights and of records. A digest says that two
things differ, and the numbers sampled with it by how much.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SAMPLED = 16  # numbers kept of each tensor, evenly spread
TIMED = ("runtime", "per_second", "mfu", "data_wait", "flos", "memory")  # curves that the machine's mood decides


@dataclass(frozen=True, slots=True)
class Difference:
    """How two sets of figures differ."""

    place: str  # of the first one
    before: Any
    after: Any
    count: int  # of leaves that differ
    largest: float | None  # of numbers alone


MISSING = "(missing)"


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every number, string, truth value and null of a JSON value, and the lengths of lists, with their places."""
    if isinstance(value, dict):
        if not value:
            yield f"{place}{{}}", 0
        for name, own in value.items():
            yield from leaves(own, f"{place}/{name}" if place else str(name))
    elif isinstance(value, list):
        yield f"{place}[]", len(value)
        for number, own in enumerate(value):
            yield from leaves(own, f"{place}[{number}]")
    else:
        yield place, value


def compare(before: Any, after: Any) -> Difference | None:
    """Compare two JSON values to the last digit; None where they are equal.

    The order of an object's members does not count, that of a list does. 1, 1.0 and true are three values, and NaN
    equals NaN.
    """
    one, other = dict(leaves(before)), dict(leaves(after))
    written, others = ({place: json.dumps(leaf) for place, leaf in side.items()} for side in (one, other))
    places = [place for place in dict.fromkeys([*one, *other]) if written.get(place) != others.get(place)]
    if not places:
        return None
    numbers = [
        abs(one[place] - other[place])
        for place in places
        if all(type(side.get(place)) in (int, float) for side in (one, other)) and not place.endswith("[]")
    ]
    first = places[0]
    return Difference(
        place=first,
        before=one.get(first, MISSING),
        after=other.get(first, MISSING),
        count=len(places),
        largest=max(numbers, default=None),
    )


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def array(values: np.ndarray) -> dict[str, Any]:
    """Digest an array's bytes; with its shape, its type and some of its values."""
    flat = np.ascontiguousarray(values).reshape(-1)
    places = np.linspace(0, len(flat) - 1, min(SAMPLED, len(flat))).astype(int)
    return {
        "shape": list(values.shape),
        "dtype": str(values.dtype),
        "bytes": digest(flat.tobytes()),
        "values": [float(value) for value in flat[places]],
    }


def weights(folder: Path) -> dict[str, Any]:
    """Digest the tensors below a folder by name, checkpoints aside."""
    from safetensors.numpy import load_file

    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        within = path.relative_to(folder).parts[:-1]
        if not any(part.startswith("checkpoint-") for part in within):
            for name, tensor in load_file(path).items():
                found["/".join((*within, name))] = array(tensor)
    if not found:
        raise FileNotFoundError(f"{folder}: no weights")
    return dict(sorted(found.items()))


def curves(run: Path) -> dict[str, dict[str, float]]:
    """Read every curve of a run's TensorBoard files, timings aside: name -> step -> value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[str, float]] = {}
    for path in sorted(run.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            if not any(word in tag for word in TIMED):
                found.setdefault(tag, {}).update({str(e.step): e.value for e in events.Scalars(tag)})
    return dict(sorted(found.items()))


def losses(run: Path) -> dict[str, float]:
    """Read the loss of every logged step, in double precision, from the last checkpoint of a run."""
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((last / "trainer_state.json").read_text("utf-8"))
    return {str(entry["step"]): entry["loss"] for entry in state["log_history"] if "loss" in entry}


def of_run(run: Path) -> dict[str, Any]:
    """Figures of a training run: curves, weights, and what was measured."""
    figures: dict[str, Any] = {"curves": curves(run), "weights": weights(run)}
    if not any(name.endswith("loss") for name in figures["curves"]):
        raise ValueError(f"{run}: no loss was logged")
    if any(run.glob("checkpoint-*")):
        figures["losses"] = losses(run)
    for path in run.rglob("summary.json"):
        figures["summary"] = json.loads(path.read_text("utf-8"))
    return figures


def records(path: Path) -> list[str]:
    """Digest each line of a JSON Lines file, in order; the order of a record's fields does not count."""
    raw = path.read_bytes()
    lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").splitlines()
    return [digest(json.dumps(json.loads(line), sort_keys=True).encode()) for line in lines]


def files(folder: Path) -> dict[str, Any]:
    """Figures of a folder's JSON Lines and TSV files."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if name.endswith((".jsonl", ".jsonl.gz")):
            found[name] = records(path)
        elif name.endswith((".tsv", ".txt")):
            found[name] = digest(path.read_bytes())
    return found


def json_files(folder: Path) -> dict[str, Any]:
    """Digest the JSON files of a model's folder; the order of members does not count."""
    return {
        str(path.relative_to(folder)): digest(json.dumps(json.loads(path.read_text("utf-8")), sort_keys=True).encode())
        for path in sorted(folder.rglob("*.json"))
    }


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
