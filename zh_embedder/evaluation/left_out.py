"""Left-out parts of evaluation sets: what a figure does not rest on, counted, with one example, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is left out, or counts otherwise than one would think: of one, of several, and in Chinese."""

    one: str
    many: str
    chinese: str


REASONS: Mapping[str, Reason] = {  # by kind, in the order shown
    "unknown_queries": Reason(
        "judged query is missing from the queries: it is left out of the mean",
        "judged queries are missing from the queries: they are left out of the mean",
        "个有评判的查询不在查询文件中，不计入均值",
    ),
    "unjudged_queries": Reason(
        "query has no judgement: it is not measured",
        "queries have no judgement: they are not measured",
        "个查询没有评判，未参与评测",
    ),
    "unknown_keys": Reason(
        "judgement names a key that is missing from the corpus: if relevant, it counts as not found",
        "judgements name keys that are missing from the corpus: relevant ones count as not found",
        "条评判所指的候选不在语料中，其中相关的按未找到计",
    ),
    "no_relevant": Reason(
        "query has no relevant key: it counts as 0",
        "queries have no relevant key: they count as 0",
        "个查询没有相关的候选，按 0 计",
    ),
    "repeated_judgements": Reason(
        "judgement is there more than once: it counts once",
        "judgements are there more than once: they count once",
        "条评判重复，只计一次",
    ),
    "own_keys": Reason(
        "query is a document of the corpus, with the same id and text: it is left out of its own results",
        "queries are documents of the corpus, with the same id and text: each is left out of its own results",
        "个查询本身就是语料中的文档（编号与文字都相同），已从各自的结果中去除",
    ),
    "empty_queries": Reason(
        "query has no text: it is measured all the same",
        "queries have no text: they are measured all the same",
        "个查询没有文字，仍参与评测",
    ),
    "empty_keys": Reason(
        "key has no text: it is searched all the same",
        "keys have no text: they are searched all the same",
        "个候选没有文字，仍参与检索",
    ),
    "no_positive": Reason(
        "query has no positive: it is not measured",
        "queries have no positive: they are not measured",
        "个查询没有正例，未参与评测",
    ),
    "unknown_positives": Reason(
        "positive is no text of the corpus: it is left out",
        "positives are no texts of the corpus: they are left out",
        "个正例不在语料中，不予计算",
    ),
    "missed_positives": Reason(
        "positive is not among the keys of its query: it counts as not found",
        "positives are not among the keys of their query: they count as not found",
        "个正例不在其查询的候选之中，按未找到计",
    ),
    "both_sides": Reason(
        "key is a positive and a negative of the same query: it counts as a positive",
        "keys are positives and negatives of the same query: they count as positives",
        "个候选同时是同一查询的正例和负例，按正例计",
    ),
    "repeated_keys": Reason(
        "key is there more than once for its query: it is ranked once",
        "keys are there more than once for their query: they are ranked once",
        "个候选在同一查询中重复，只排一次",
    ),
    "unknown_labels": Reason(
        "text has a label that train.jsonl lacks: it counts as wrong",
        "texts have labels that train.jsonl lacks: they count as wrong",
        "条文本的标签在 train.jsonl 中没有，按错误计",
    ),
}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a set leaves out for one reason."""

    kind: str  # a name in REASONS
    count: int
    example: str

    @property
    def english(self) -> str:
        """The line that a table and a log show."""
        reason = REASONS[self.kind]
        return f"{self.count:,} {reason.one if self.count == 1 else reason.many} (such as {self.example!r})"

    @property
    def chinese(self) -> str:
        """The same for the page in Chinese."""
        return f"{self.count:,} {REASONS[self.kind].chinese}（例如“{self.example}”）"


class Tally:
    """Counts of what a reader leaves out, with the first example of each kind."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, str] = {}

    def add(self, kind: str, example: str) -> None:
        """Count one."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.examples.setdefault(kind, example)

    def done(self) -> tuple[LeftOut, ...]:
        """Return what was counted, in the order shown."""
        return tuple(LeftOut(kind, self.counts[kind], self.examples[kind]) for kind in REASONS if kind in self.counts)


class Measured(Protocol):
    """A set, or an outcome of one."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What the set's files hold and the figures do not rest on."""


def lines_of(name: str, data: Measured) -> list[str]:
    """Say what a set leaves out, a line for each reason."""
    return [f"{name}: {found.english}" for found in data.left_out]


def left_out(data: Measured) -> dict[str, object]:
    """Lay out for JSON what a set leaves out: nothing where it leaves nothing out."""
    return {"left_out": [asdict(found) for found in data.left_out]} if data.left_out else {}
