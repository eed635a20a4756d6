"""Audit page: for a sample of queries, the negatives taken, and those refused with the reason."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_tools.mining.blocks import NONE, OTHERS, SHORT, SHORT_REFUSED, SHORT_TAKEN, WORDLESS, MiningSettings
from data_tools.mining.false_negatives import CROSS_ENCODER, MEANING, REPEATED, RULES, RefusalLimits
from data_tools.shared.html_page import cells, overview, page
from zh_embedder.core.counts import counted

WARNING = "warning"
MANY = 0.05  # share of records with too few negatives above which the page warns
WEAK = "a model that tells keys apart better (a weak one scores all alike), "
REMEDIES: Mapping[
    str, tuple[Callable[[RefusalLimits, MiningSettings], str], str]
] = {  # rule -> its option, and what helps
    "percent": (lambda limits, _: f"--percent {limits.percent:g}", f"a higher --percent, {WEAK}"),
    "margin": (lambda limits, _: f"--margin {limits.margin:g}", f"a smaller --margin, {WEAK}"),
    "near_positive": (lambda limits, _: f"--max_overlap {limits.overlap:g}", "a higher --max_overlap, "),
    "answer": (lambda *_: "--filter_answers", "answers that are no common words, "),
    CROSS_ENCODER: (lambda _, settings: f"--cross_encoder_margin {settings.cross_margin:g}", "a smaller one, "),
}


MOST_OTHERS = 0.5  # of the negatives: above it, such negatives did harm when trained on (docs/measured/mining.md)
OTHERS_SAID = (
    "{share:.0%} of the negatives are positives of other records, so that a model may learn to avoid the kind of text "
    "that answers; --corpus with keys that nobody asked for makes better ones"
)
LEFT = {  # counts of the summary that are said where they are not 0
    "records_with_fewer": "records with fewer",
    "records_without_negatives": "records without negatives",
    "records_whose_teacher_scores_went": "records whose teacher_scores were removed",
}


def summary_line(summary: Mapping[str, Any]) -> str:
    """Lay the counts of a summary out in a line; its warning has a line of its own."""
    refused = ", ".join(f"{name} {count:,}" for name, count in summary["refused"].items())
    first = f"{counted(summary['taken'], 'negative')} for {counted(summary['records'], 'record')}"
    rest = [f"{words}: {summary[name]:,}" for name, words in LEFT.items() if summary[name]]
    return "; ".join([first, *([f"refused: {refused}"] if refused else []), *rest])


def others_note(counts: Mapping[str, int]) -> str | None:
    """Say that many negatives are positives of other records; None where they are not."""
    if counts[OTHERS] <= MOST_OTHERS * counts["taken"]:
        return None
    return OTHERS_SAID.format(share=counts[OTHERS] / counts["taken"])


def advice(counts: Mapping[str, int], settings: MiningSettings) -> str | None:
    """Say what left records without enough negatives, and what helps; None where few are short and all have words.

    Args:
        counts: of a whole run, as `mining.mined` counts.
        settings: of the run.
    """
    wordless = counts.get(WORDLESS, 0)
    if not wordless:
        return refusals(counts, settings)
    said = f"{counted(wordless, 'query')} {'has' if wordless == 1 else 'have'} no word, only punctuation"
    said += f" or symbols: --method {settings.method} finds no keys for them by words; drop them, or use --method dense"
    with_words = (
        {**counts, SHORT: counts.get(SHORT, 0) - wordless, NONE: max(0, counts.get(NONE, 0) - wordless)}
        if settings.method == "bm25"
        else counts
    )
    rest = refusals(with_words, settings)
    return f"{said}. {rest}" if rest else said


def refusals(counts: Mapping[str, int], settings: MiningSettings) -> str | None:
    """Say which option left many records without enough negatives, and what helps; None where few are short.

    Args:
        counts: of a whole run, as `mining.mined` counts.
        settings: of the run.
    """
    records, short, none = counts["records"], counts.get(SHORT, 0), counts.get(NONE, 0)
    if short <= MANY * records:
        return None
    said = f"{short / records:.0%} of the records have fewer than {settings.negatives} negatives"
    said += f" ({none / records:.0%} of all have none)" if none else ""
    refused = {name: counts.get(SHORT_REFUSED + name, 0) for name in (*RULES, REPEATED, CROSS_ENCODER)}
    blamed = max((name for name in refused if name in REMEDIES), key=refused.__getitem__)
    seen = counts.get(SHORT_TAKEN, 0) + sum(refused.values())
    fill = "--fill (random keys that pass the same rules)"
    if not refused[blamed]:
        window = f"--range {settings.first} {settings.last}"
        return f"{said}: there are too few keys in {window}: a wider --range, a larger --corpus, or {fill}"
    option, remedy = REMEDIES[blamed]
    share = f"{refused[blamed] / seen:.0%} of their candidates"
    return (
        f"{said}: {option(settings.limits, settings)} refused {share}; what helps: {remedy}a wider --range, or {fill}"
    )


def write_audit(title: str, summary: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the page."""
    said = json.dumps({k: v for k, v in summary.items() if k not in ("refused", WARNING)}, ensure_ascii=False)
    head = overview(said, summary["refused"], MEANING, warning=summary.get(WARNING))
    return page(title, head + "".join(map(section, entries)))


def section(entry: Mapping[str, Any]) -> str:
    """Lay out one query."""
    pos = "".join(row("pos", "", "positive", item) for item in entry["pos"])
    taken = "".join(row("taken", place(item), "taken", item) for item in entry["taken"])
    refused = "".join(row("refused", place(item), item["reason"], item) for item in entry["refused"])
    head = f"{html.escape(str(entry['task'] or ''))} {html.escape(entry['where'])}"
    return (
        f"<section><small>{head}</small><h2>{html.escape(entry['query'])}</h2><table>{pos}{taken}</table>"
        f"<details><summary>{entry['refused_in_all']} refused</summary><table>{refused}</table></details></section>\n"
    )


def place(item: Mapping[str, Any]) -> str:
    """Rank of a candidate in words."""
    return f"#{item['rank']}" if item["rank"] else "random"


def row(kind: str, rank: str, word: str, item: Mapping[str, Any]) -> str:
    """Lay out one key."""
    score = "" if item["score"] is None else f"{item['score']:.3f}"
    return cells(kind, (rank, word, score, item["text"]))
