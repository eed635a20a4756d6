"""Findings: counted without limit, kept up to one, printed as lines and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)
MAX_KEPT = 10_000  # findings of one kind: millions of them are one mistake, and memory is bounded


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or may be."""

    file: str
    line: int
    kind: str
    severity: str
    message: str

    def __str__(self) -> str:
        """Lay it out as compilers do, so that editors jump to the line."""
        return f"{self.file}:{self.line}: {self.severity}: {self.kind}: {self.message}"


@dataclass(slots=True)
class Findings:
    """All findings of a run."""

    severities: Mapping[str, str]  # of each kind
    counts: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, file: str, line: int, kind: str, message: str) -> None:
        """Count a finding, and keep it while there are few of its kind."""
        self.counts[kind] += 1
        own = self.kept.setdefault(kind, [])
        if len(own) < MAX_KEPT:
            own.append(Finding(file, line, kind, self.severities[kind], message))

    @property
    def kinds(self) -> list[str]:
        """Kinds that were found, the severest and most frequent first."""
        return sorted(self.counts, key=lambda k: (SEVERITIES.index(self.severities[k]), -self.counts[k], k))

    @property
    def errors(self) -> int:
        """How many errors there are."""
        return sum(n for kind, n in self.counts.items() if self.severities[kind] == ERROR)

    def lines(self, show: int) -> Iterator[str]:
        """Yield the first findings of each kind, then how many more there are."""
        for kind in self.kinds:
            yield from map(str, self.kept[kind][:show])
            if (more := self.counts[kind] - min(show, len(self.kept[kind]))) > 0 and show:
                yield f"  ... and {more:,} more of {kind}"

    def table(self) -> Iterator[str]:
        """Yield the summary, a kind a line: severity, count, first lines."""
        if not self.counts:
            yield "nothing found"
            return
        width = max(map(len, self.counts))
        yield f"{'severity':8}  {'kind':{width}}  {'count':>9}  first lines"
        for kind in self.kinds:
            first = ", ".join(dict.fromkeys(str(f.line) for f in self.kept[kind][:5]))
            yield f"{self.severities[kind]:8}  {kind:{width}}  {self.counts[kind]:9,}  {first}"

    def as_json(self) -> dict[str, Any]:
        """Return the findings and their summary, as `--json` writes them."""
        return {
            "findings": [asdict(finding) for kind in self.kinds for finding in self.kept[kind]],
            "summary": [
                {
                    "kind": kind,
                    "severity": self.severities[kind],
                    "count": self.counts[kind],
                    "kept": len(self.kept[kind]),
                    "first": [f"{f.file}:{f.line}" for f in self.kept[kind][:5]],
                }
                for kind in self.kinds
            ],
        }
