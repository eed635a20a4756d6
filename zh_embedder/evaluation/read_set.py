"""Reader of any evaluation set: a folder by its files, a file by the fields of its first line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, nearest, reject, unknown_name
from zh_embedder.evaluation.left_out import Tally
from zh_embedder.evaluation.read_labelled import read_labels, read_pairs
from zh_embedder.evaluation.read_reranking import read_queries, read_ranked
from zh_embedder.evaluation.read_retrieval import read_retrieval_set
from zh_embedder.evaluation.set_files import (
    ALIASES,
    BEIR,
    EXAMPLES,
    FLAG_EMBEDDING,
    LABELS,
    PAIRS,
    QUERIES,
    RANKED,
    TEST,
    TRAIN,
    find,
    has,
    has_parquet,
    lines_of,
    name_of,
)
from zh_embedder.evaluation.sets import KINDS, EvalSet, LabelSet, PairSet, RetrievalSet

KNOWN = ("text1", "text2", "score", "text", "label", "query", "pos", "neg", "key", "pos_index", "task", *ALIASES)
READERS: tuple[tuple[Callable[[Set[str]], bool], Callable[..., EvalSet]], ...] = (  # of files, the first that fits
    (lambda names: bool({"text1", "text2"} & names), read_pairs),
    (lambda names: {"text", "label"} <= names, read_labels),
    (lambda names: {"query", "key"} <= names, read_ranked),
    (lambda names: "query" in names and bool({"pos", "neg", "history"} & names), read_queries),
)


def read_set(path: str | Path, *, task: str | None = None, kind: str | None = None) -> EvalSet:
    """Read what is there: a BEIR or FlagEmbedding folder, a folder of train.jsonl and test.jsonl, or a file.

    Args:
        path: folder or file.
        task: overrides the lines' own `task`.
        kind: how to measure it, where that is not what one would think: a labelled folder as `clustering`, pairs of
            scores 0 and 1 as `similarity`, queries with their keys as `retrieval` among all keys of the file.

    Raises:
        UserError: there is no set, a line is wrong, or it cannot be measured that way.
    """
    path = Path(path)
    if kind is not None and kind not in KINDS:
        raise unknown_name("--kind", kind, KINDS)
    data = of_kind(read_any(path, task=task), kind, path)
    if not isinstance(data, RetrievalSet):
        check_usable(data, path)
    return data


def read_any(path: Path, *, task: str | None) -> EvalSet:
    """Read what is there as what it seems to be."""
    if not path.is_dir():
        return read_file(path, task=task)
    names = {*BEIR, *FLAG_EMBEDDING}
    if has_parquet(path) or any(has(place, name) for place in (path, path / "test") for name in names):
        return read_retrieval_set(path, task=task)
    return read_folder(path, task=task)


def check_usable(data: PairSet | LabelSet, path: Path) -> None:
    """Refuse a set that tells no model from another, before anything is encoded.

    Raises:
        UserError: one score, one label, a label for each text, or no label that can be learnt.
    """
    if isinstance(data, PairSet):
        if len(set(data.scores)) < 2:
            got = f"{counted(len(data.scores), 'pair')} of the one score {data.scores[0]:g}"
            raise UserError(f"{path}: score: got {got}, expected at least two different scores")
        return
    learnt = data.train_labels or data.labels
    if len(set(learnt)) < 2:
        got = f"{counted(len(learnt), 'text')} of the one label {learnt[0]!r}"
        raise UserError(f"{path}: label: got {got}{' to learn from' * bool(data.train_labels)}, expected two or more")
    if data.train_labels and not set(data.labels) & set(learnt):
        shown = ", ".join(sorted(set(learnt))[:5])
        raise reject(f"{path}: label", data.labels[0], f"labels that {TRAIN} has: {shown}")
    if not data.train_labels and len(set(learnt)) == len(learnt):
        raise UserError(f"{path}: label: got {len(learnt)} labels for as many texts, expected labels that texts share")


def of_kind(data: EvalSet, kind: str | None, path: Path) -> EvalSet:
    """Return a set as one of another kind, where it can be one.

    Raises:
        UserError: it cannot.
    """
    if kind is None or data.kind == kind:
        return data
    if isinstance(data, PairSet) and kind == "similarity":
        return replace(data, graded=True)
    if isinstance(data, LabelSet) and kind == "clustering":
        return replace(data, train_texts=(), train_labels=(), left_out=())
    if isinstance(data, RetrievalSet) and kind == "retrieval":
        return replace(data, candidates=None)
    needs = {
        "pair_classification": "pairs whose scores are 0 and 1",
        "classification": f"a folder of {TRAIN} and {TEST} with labelled texts",
        "reranking": f"a file of {QUERIES} or {RANKED}",
        "similarity": f"a file of {PAIRS}",
        "clustering": f"a file of {LABELS}",
        "retrieval": "a BEIR folder",
    }[kind]
    raise UserError(f"{path}: --kind: got {kind!r} of a set for {data.kind}, expected {needs}")


def read_folder(folder: Path, *, task: str | None = None) -> EvalSet:
    """Read test.jsonl of a folder; of labelled texts, those of train.jsonl are learnt from.

    Raises:
        UserError: there is no test.jsonl, or a line is wrong.
    """
    if not has(folder, TEST):
        inside = sorted(p.name for p in folder.iterdir())
        found = ", ".join(inside[:8]) or "nothing"
        layouts = f"BEIR's {', '.join(BEIR)}, or {TEST} (with {TRAIN} for classification)"
        raise UserError(f"{folder}: got a folder of {found}{nearest(TEST, inside)}, expected {layouts}")
    data = replace(read_file(find(folder, TEST, (TEST,)), task=task), name=name_of(folder))
    if not isinstance(data, LabelSet) or not has(folder, TRAIN):
        return data
    known = read_labels(find(folder, TRAIN, (TRAIN,)), task=task)
    tally, labels = Tally(), set(known.labels)
    for text, label in zip(data.texts, data.labels, strict=True):
        if label not in labels:
            tally.add("unknown_labels", f"{label}: {text[:40]}")
    return replace(data, train_texts=known.texts, train_labels=known.labels, left_out=tally.done())


def read_file(path: Path, *, task: str | None = None) -> EvalSet:
    """Read a file by the reader that the fields of its first line ask for.

    Raises:
        UserError: no reader knows these fields, or a line is wrong.
    """
    where, first = next(lines_of(path), (str(path), {}))
    return reader_of(first, where)(path, task=task)


def reader_of(first: Mapping[str, Any], where: str) -> Callable[..., EvalSet]:
    """Return the reader of a file whose first line has these fields."""
    for is_it, read in READERS:
        if is_it(first.keys()):
            return read
    hints = [nearest(name, KNOWN) for name in first if name not in KNOWN]
    hint = next((hint for hint in hints if hint), "")
    if "query" in first and "pos_index" in first:
        hint = "; its rows are those of a corpus: name it with --corpus"
    raise UserError(f"{where}: got the fields {', '.join(first) or 'none'}{hint}, expected {' or '.join(EXAMPLES)}")
