"""Record schema: a line of a training file as a checked row, or an error with place, value and expectation.

Rows of all formats share one schema, so that a file is one table: `kind` tells query groups, scored pairs, labelled
texts and texts alone apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from zh_embedder.core.errors import UserError, closest, reject
from zh_embedder.data.json_lines import parse_object
from zh_embedder.text.empty_cells import is_empty
from zh_embedder.text.prefix import field_text, full_text

GROUP, PAIR, LABELLED = "group", "pair", "labelled"
TEXT, QUERY_TEXT = "text", "query_text"  # texts alone, as keys and as queries
SINGLE = (LABELLED, TEXT, QUERY_TEXT)  # kinds without keys
TEXT_LISTS = ("pos", "neg", "history", "answers")
GROUP_FIELDS = (
    "query",
    "pos",
    "neg",
    "history",
    "teacher_scores",
    "pos_scores",
    "neg_scores",
    "prompt",
    "answers",
    "task",
)
PAIR_FIELDS = ("text1", "text2", "score", "task")
LABELLED_FIELDS = ("text", "label", "task")
ALONE_FIELDS = ("text", "side", "task")
SIDES = {"key": TEXT, "query": QUERY_TEXT}  # of a text alone
CARRIED_FIELDS = ("id", "group", "pos_index", "neg_index", "title")  # part of the format, of no use to training
ACCEPTED: dict[tuple[str, ...], tuple[str, ...]] = {
    fields: (*fields, *CARRIED_FIELDS) for fields in (GROUP_FIELDS, PAIR_FIELDS, LABELLED_FIELDS, ALONE_FIELDS)
}
KNOWN = {fields: frozenset(accepted) for fields, accepted in ACCEPTED.items()}
ROW_FIELDS = (
    *("line", "kind", "task", "query", "pos", "neg", "prompt", "teacher_scores", "score", "label", "group"),
    "answers",
)

EMPTY_CELL = "a text; it is what an empty cell of a table becomes"

Row = dict[str, Any]


def parse_line(text: str, where: str) -> tuple[Row, set[str]]:
    """Parse and check one line.

    Args:
        text: the line.
        where: `path:line`, for messages.

    Returns:
        The row (keys of ROW_FIELDS but `line`), and the names of fields that training does not use.

    Raises:
        UserError: broken JSON, or a field that is missing or wrong.
    """
    raw = parse_object(text, where, '{"query": ..., "pos": [...], "task": ...}')
    if "text1" in raw or "text2" in raw:
        return pair_row(raw, where), unused(raw, PAIR_FIELDS)
    if "text" in raw and "label" in raw:
        return labelled_row(raw, where), unused(raw, LABELLED_FIELDS)
    if "text" in raw and not raw.keys() & {"query", *TEXT_LISTS}:
        return alone_row(raw, where), unused(raw, ALONE_FIELDS)
    return group_row(raw, where), unused(raw, GROUP_FIELDS)


def unused(raw: Mapping[str, Any], known: tuple[str, ...]) -> set[str]:
    """Return the fields that training does not use and the formats do not name."""
    return raw.keys() - KNOWN[known]


def empty_row(kind: str, raw: Mapping[str, Any], where: str) -> Row:
    """Return a row with every field absent and the task checked."""
    task = raw.get("task")
    if task is not None and (not isinstance(task, str) or not task.strip()):
        raise reject(f"{where}: task", task, 'a task name, such as "qa"')
    group = raw.get("group")
    if group is not None and (not isinstance(group, str | int) or isinstance(group, bool)):
        raise reject(f"{where}: group", group, "a string or a whole number: the source that a record comes from")
    group = None if group is None else str(group)
    return {**dict.fromkeys(ROW_FIELDS), "kind": kind, "task": task, "pos": [], "neg": [], "group": group}


def need_text(raw: Mapping[str, Any], name: str, where: str, fields: tuple[str, ...]) -> str:
    """Return a required, non-empty string field."""
    if name not in raw:
        meant = misspelt(name, [key for key in raw if key not in KNOWN[fields]])
        hint = f", but {meant!r} is there; did you mean {name!r}?" if meant else ";"
        found = f"found {', '.join(map(repr, list(raw)[:8]))}" if raw else "found an empty object"
        raise UserError(f"{where}: {name}: is missing{hint} {found}, expected {', '.join(ACCEPTED[fields])}")
    text = check_text(raw[name], f"{where}: {name}")
    if is_empty(text):
        raise reject(f"{where}: {name}", text, EMPTY_CELL)
    return text


def misspelt(name: str, others: Sequence[str]) -> str | None:
    """Return the field that was probably meant to be `name`: a similar name, or the longer word, as `positive`."""
    return closest(name, others) or next((other for other in others if other.lower().startswith(name)), None)


def check_text(value: object, where: str) -> str:
    """Return a string that is more than white space."""
    if not isinstance(value, str):
        raise reject(where, value, "a string")
    if not value or value.isspace():
        raise reject(where, value, "a string that is not empty")
    return value


def text_list(raw: Mapping[str, Any], name: str, where: str) -> list[str]:
    """Return a list of non-empty strings; an absent field or null is an empty list."""
    value = raw.get(name)
    if value is None:
        return []
    if isinstance(value, str):
        raise reject(f"{where}: {name}", value, f"a list of strings: [{json.dumps(value[:20], ensure_ascii=False)}]")
    if not isinstance(value, list):
        raise reject(f"{where}: {name}", value, "a list of strings")
    if all(isinstance(text, str) and text and not text.isspace() for text in value):
        return value  # nearly always: no message is laid out for every text
    return [check_text(text, f"{where}: {name}[{index}]") for index, text in enumerate(value)]


def score_list(raw: Mapping[str, Any], name: str, where: str, *, count: int, of: str) -> list[float] | None:
    """Return a list of `count` finite numbers; None where the field is absent or null."""
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, list):
        raise reject(f"{where}: {name}", value, "a list of numbers")
    for index, number in enumerate(value):
        check_number(number, f"{where}: {name}[{index}]")
    if len(value) != count:
        raise UserError(f"{where}: {name}: got {len(value)} scores, expected {count}, one for each of {of}")
    return [float(number) for number in value]


def check_number(value: object, where: str) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise reject(where, value, "a finite number")
    return float(value)


def group_row(raw: Mapping[str, Any], where: str) -> Row:
    """Check a query with its keys: ours, LLM-Embedder's and FlagEmbedding's spelling."""
    row = empty_row(GROUP, raw, where)
    row["query"] = need_text(raw, "query", where, GROUP_FIELDS)
    lists = {name: text_list(raw, name, where) for name in TEXT_LISTS}
    if lists["history"]:
        if lists["pos"] or lists["neg"]:
            raise UserError(f"{where}: history: stands beside pos or neg, expected either history or pos and neg")
        lists["neg"] = lists["history"]
    elif not lists["pos"]:
        if "pos" in raw:
            raise reject(f"{where}: pos", raw["pos"], "at least one text (or a `history` that the teacher picks from)")
        need_text({key: "" for key in raw}, "pos", where, GROUP_FIELDS)
    elif all(map(is_empty, lists["pos"])):
        raise reject(f"{where}: pos", lists["pos"], EMPTY_CELL)
    row["pos"], row["neg"], row["answers"] = lists["pos"], lists["neg"], lists["answers"] or None
    row["teacher_scores"] = teacher_scores(raw, row, where)
    if raw.get("prompt") is not None and not isinstance(raw["prompt"], str):
        raise reject(f"{where}: prompt", raw["prompt"], "a string, this record's own query instruction")
    row["prompt"] = raw.get("prompt")
    return row


def teacher_scores(raw: Mapping[str, Any], row: Row, where: str) -> list[float] | None:
    """Return the teacher's scores of pos then neg, from either spelling; None where the record has none."""
    pos, neg = len(row["pos"]), len(row["neg"])
    of = "pos then neg" if pos else "history"
    scores = score_list(raw, "teacher_scores", where, count=pos + neg, of=of)
    halves = [score_list(raw, f"{side}_scores", where, count=n, of=side) for side, n in (("pos", pos), ("neg", neg))]
    if scores is not None and (halves[0] is not None or halves[1] is not None):
        raise UserError(f"{where}: teacher_scores: stands beside pos_scores or neg_scores, expected one spelling")
    if (halves[0] is None) != (halves[1] is None) and neg:
        missing = "pos_scores" if halves[0] is None else "neg_scores"
        raise UserError(f"{where}: {missing}: is missing, expected it beside the other half")
    if halves[0] is not None:
        scores = [*halves[0], *(halves[1] or [])]
    return scores


def pair_row(raw: Mapping[str, Any], where: str) -> Row:
    """Check a scored sentence pair."""
    row = empty_row(PAIR, raw, where)
    row["query"] = need_text(raw, "text1", where, PAIR_FIELDS)
    row["pos"] = [need_text(raw, "text2", where, PAIR_FIELDS)]
    if "score" not in raw:
        raise UserError(f"{where}: score: is missing, expected a number: how alike the two texts are")
    row["score"] = check_number(raw["score"], f"{where}: score")
    return row


def labelled_row(raw: Mapping[str, Any], where: str) -> Row:
    """Check a labelled text."""
    row = empty_row(LABELLED, raw, where)
    row["query"] = need_text(raw, "text", where, LABELLED_FIELDS)
    if not isinstance(raw["label"], str | int) or isinstance(raw["label"], bool):
        raise reject(f"{where}: label", raw["label"], "a string or a whole number")
    row["label"] = str(raw["label"])
    return row


def alone_row(raw: Mapping[str, Any], where: str) -> Row:
    """Check a text alone, such as a line of a corpus: its title in front, as everywhere; a key unless it says query."""
    side = raw.get("side", "key")
    if not isinstance(side, str) or side not in SIDES:
        raise reject(f"{where}: side", side, " or ".join(SIDES))
    row = empty_row(SIDES[side], raw, where)
    text = need_text(raw, "text", where, ALONE_FIELDS)
    row["query"] = full_text(text, title=field_text(raw.get("title"), f"{where}: title"))
    return row
