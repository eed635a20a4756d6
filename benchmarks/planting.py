"""Defects as people make them, planted in real records: a function and a table row each, drawn from a seed.

A defect of a record is `plant(record, rng) -> changed copy`, None where that record cannot have it.
"""

import copy
import random
import re
from collections.abc import Callable
from typing import Any

Record = dict[str, Any]
Plant = Callable[[Record, random.Random], Record | bytes | None]
FULL = {ord(c): ord(c) + 0xFEE0 for c in "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}
HALF = str.maketrans("，；：？！", ",;:?!")
SAFE = re.compile("[的了是在和有中人这为]")  # characters whose loss changes neither a number nor a negation
HAN = "[\u4e00-\u9fff]"


def with_key(
    record: Record, rng: random.Random, change: Callable[[str], str], side: str | None = None
) -> Record | None:
    """Change one text, of any side or of one; None where nothing changed."""
    made = copy.deepcopy(record)
    side = side or rng.choice(["query", "pos", "neg"])
    if side == "query":
        made["query"] = change(record["query"])
    elif record.get(side):
        at = rng.randrange(len(record[side]))
        made[side][at] = change(record[side][at])
    return made if made != record else None


def edited(text: str, rng: random.Random, share: float = 0.02) -> str | None:
    """A text with few characters lost or doubled: a near copy. None where the text is too short for it."""
    places = [m.start() for m in SAFE.finditer(text)]
    count = max(1, int(len(text) * share))
    if len(text) < 25 or len(places) < count:
        return None
    for at in sorted(rng.sample(places, count), reverse=True):
        text = text[:at] + rng.choice(["", text[at] * 2]) + text[at + 1 :]
    return text


def disguised(text: str, rng: random.Random) -> str:
    """The same text in another spelling: width, white space, the mark at its end."""
    ways = [text, f" {text}\n", text.translate(FULL), text.rstrip("。.") + "！", text.replace("，", ", ")]
    return rng.choice(ways)


def schema(record, rng):
    made = copy.deepcopy(record)
    way = rng.randrange(4)
    if way == 0:
        made["positive"] = made.pop("pos")
    elif way == 1:
        made["query"] = 7
    elif way == 2:
        made["neg"] = made["neg"][0]
    else:
        made["pos"] = []
    return made


def encoding(record, rng):
    import json

    return json.dumps(record, ensure_ascii=False).encode("gb18030")


def garbled(out: str, back: str) -> Plant:
    """Text written in one encoding and read in another."""

    def plant(record, rng):
        raw = {"gbk": "ignore", "cp1252": "ignore", "latin-1": "strict"}[back]
        return with_key(record, rng, lambda t: t.encode(out).decode(back, raw) if len(re.findall(HAN, t)) > 5 else t)

    return plant


def lost(record, rng):
    def change(text):
        at = rng.randrange(len(text))
        return text[:at] + rng.choice(["\ufffd", "锟斤拷"]) + text[at + 1 :]

    return with_key(record, rng, change)


def control(record, rng):
    mark = rng.choice(["\u200b", "\x07", "\ufeff", "\x1f", "\u202c"])
    at = rng.random()
    return with_key(record, rng, lambda t: t[: int(at * len(t))] + mark + t[int(at * len(t)) :])


def empty_text(record, rng):
    return with_key(record, rng, lambda _: rng.choice(["", " ", "\u3000\n"]))


def short_text(record, rng):
    return with_key(record, rng, lambda _: rng.choice(["无", "?", "。。。", "1"]))


def width_letters(record, rng):
    return with_key(record, rng, lambda t: t.translate(FULL))


def width_punctuation(record, rng):
    return with_key(record, rng, lambda t: t.translate(HALF) if re.search(f"{HAN}[，；：？！]{HAN}", t) else t)


def script_mixture(record, rng):
    import opencc

    made = with_key(record, rng, opencc.OpenCC("s2t").convert)
    return made if made and sum(a != b for a, b in zip(str(record), str(made), strict=False)) >= 3 else None


def markup(record, rng):
    return with_key(record, rng, lambda t: rng.choice([f"<p>{t}</p>", t + "<br/>", "&nbsp;" + t]))


def unknown_task(record, rng):
    return {**record, "task": record["task"] + "x"}


def negative_is_positive(record, rng):
    return with_key(record, rng, lambda _: disguised(rng.choice(record["pos"]), rng), "neg")


def negative_near_positive(record, rng):
    near = edited(rng.choice(record["pos"]), rng)
    return with_key(record, rng, lambda _: near, "neg") if near else None


def query_is_key(record, rng):
    return with_key(record, rng, lambda _: disguised(record["query"], rng), rng.choice(["pos", "neg"]))


def repeated_key(record, rng):
    return {**record, "neg": [*record["neg"][:-1], disguised(rng.choice(record["neg"][:-1]), rng)]}


def baked_instruction(record, rng):
    from zh_embedder.config.instructions import read_version

    spec = read_version("zh_llm_embedder").task(record["task"])
    side = "query" if rng.random() < 0.7 or not spec.key else "pos"
    return with_key(record, rng, lambda t: (spec.query if side == "query" else spec.key) + t, side)


def length_outlier(record, rng):
    return with_key(record, rng, lambda t: t * (1 + 60_000 // len(t)), "pos")


def teacher_length(record, rng):
    return {**record, "teacher_scores": record["teacher_scores"] + [1.0]} if "teacher_scores" in record else None


def teacher_constant(record, rng):
    return {**record, "teacher_scores": [0.0] * len(record["teacher_scores"])} if "teacher_scores" in record else None


def teacher_reversed(record, rng):
    scores = record.get("teacher_scores")
    if not scores or len(record["neg"]) < 3:
        return None
    return {**record, "teacher_scores": rng.choice([scores[::-1], [-score for score in scores]])}


def few_negatives(record, rng):
    return {**record, "neg": record["neg"][: rng.randrange(1, 3)]} if "teacher_scores" not in record else None


PLANTS: dict[tuple[str, str], Plant] = {  # (kind that is to be found, how it is planted)
    ("schema", "field renamed, query a number, neg no list, pos empty"): schema,
    ("encoding", "line in GB18030"): encoding,
    ("empty_text", "a text made empty or white space"): empty_text,
    ("mojibake", "UTF-8 read as GBK"): garbled("utf-8", "gbk"),
    ("mojibake", "UTF-8 read as Windows-1252, bytes lost"): garbled("utf-8", "cp1252"),
    ("mojibake", "UTF-8 read as Latin-1"): garbled("utf-8", "latin-1"),
    ("mojibake", "GB18030 read as Latin-1"): garbled("gb18030", "latin-1"),
    ("mojibake", "U+FFFD or 锟斤拷 in the middle"): lost,
    ("control", "zero-width, BEL, BOM, ... in the middle"): control,
    ("short_text", "a text of one character or of marks"): short_text,
    ("markup", "tags and entities"): markup,
    ("width_letters", "one text's letters and digits full-width"): width_letters,
    ("width_punctuation", "one text's marks half-width"): width_punctuation,
    ("script_mixture", "one text through OpenCC s2t"): script_mixture,
    ("unknown_task", "task name with a typo"): unknown_task,
    ("negative_is_positive", "in another spelling: width, space, marks"): negative_is_positive,
    ("negative_near_positive", "2 % of characters lost or doubled"): negative_near_positive,
    ("query_is_key", "in another spelling"): query_is_key,
    ("repeated_key", "a negative once more, in another spelling"): repeated_key,
    ("baked_instruction", "the version's instruction in front"): baked_instruction,
    ("length_outlier", "a positive of 60,000 characters"): length_outlier,
    ("teacher_length", "a score too many"): teacher_length,
    ("teacher_constant", "all scores 0"): teacher_constant,
    ("teacher_reversed", "neg before pos, or signs turned"): teacher_reversed,
    ("few_negatives", "1 or 2 negatives left"): few_negatives,
}
