"""`zh-embedder metrics`: what evaluation measures, or what one metric is."""

from __future__ import annotations

import argparse
import sys

from zh_embedder.evaluation.metrics import TABLE, Metric, parse

CUTOFFS = {"none": "", "optional": "[@K]", "needed": "@K"}
NOTE = """
K is a number of keys: ndcg@10. --metrics takes metrics of retrieval and reranking; sets of another kind are measured by
all metrics of their kind.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder metrics`."""
    parser.add_argument("name", nargs="?", help="explain this metric")


def run(args: argparse.Namespace) -> None:
    """List the metrics, or explain one."""
    if args.name:
        named = parse(args.name, flag="metric")
        rows = [metric for metric in TABLE if metric.name == named.metric.name]
        sys.stdout.write("".join(f"{named} ({', '.join(row.kinds)}): {row.text}\n" for row in rows))
        return
    lines = [("metric", "measured on", ""), *map(line_of, TABLE)]
    wide = [max(len(line[column]) for line in lines) for column in (0, 1)]
    for name, kinds, text in lines:
        sys.stdout.write(f"{name:{wide[0]}}  {kinds:{wide[1]}}  {text}".rstrip() + "\n")
    sys.stdout.write(NOTE)


def line_of(metric: Metric) -> tuple[str, str, str]:
    """Lay a metric out: its name, the kinds of sets, what it is."""
    return metric.name + CUTOFFS[metric.cutoff], ", ".join(metric.kinds), metric.text
