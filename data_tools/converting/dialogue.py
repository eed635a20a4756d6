"""Dialogue readers (KdConv, CrossWOZ): a question with its turns -> the fact used; a later turn -> an earlier one.

A dialogue becomes a list of `Turn`s, whatever its source; what is made of it is the same for all.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_tools.converting.format_types import Head, ReadOptions, Record, Source, SourceItem, distinct
from data_tools.converting.format_types import identity as make_id
from data_tools.converting.source_text import read_document
from data_tools.converting.values import Raw, as_list, as_object, as_part, pick
from zh_embedder.core.errors import reject

PIECE = 6  # characters of a long fact that a reply must hold in a row to count as repeating it
GAP = 1  # exchanges straight before a turn that are still in a language model's window
LISTED = 60  # characters of a value that may be a list of names
BETWEEN = re.compile(r"[、，,；;/（）()《》]")
DATE = re.compile(r"\d\d(\d\d)年\d")
SHARED = 3  # pairs of characters that a turn must share with what it takes up: fewer are courtesies
NOT_WORDS = re.compile(r"[\W_]+")
ATTRIBUTES = {"Information": "简介"}
NO_VALUE = ("", "none", "无")


class Turn(NamedTuple):
    """An utterance, and the facts that it is about."""

    speaker: str
    text: str
    facts: tuple[tuple[str, str, str], ...] = ()  # entity, attribute, value
    certain: bool = False  # the facts are those that this turn states, as its annotation says

    def line(self) -> str:
        """The turn with its speaker."""
        return f"{self.speaker}:{self.text}"


class Dialogue(NamedTuple):
    """Turns, and what the source calls them."""

    name: str
    where: str
    turns: list[Turn]


# ---- sources --------------------------------------------------------------------------------------------------------


def read_kdconv(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """KdConv: the facts of a reply are its `attrs`; those that it does not repeat are left out unless asked for."""
    dialogues = as_list(read_document(source.path, options.encoding), str(source.path))
    for number, raw in enumerate(dialogues):
        where = f"{source.path}[{number}]"
        messages = as_list(pick(as_object(raw, where), ("messages",), where), f"{where}: messages")
        turns = [kdconv_turn(as_object(m, where), "AB"[i % 2], f"{where}: message {i}") for i, m in enumerate(messages)]
        yield from items(source, Dialogue(str(number), where, turns), options)


def kdconv_turn(raw: Raw, speaker: str, where: str) -> Turn:
    """Read a message of KdConv."""
    facts = []
    place = f"{where}: attrs"
    for attribute in as_list(raw.get("attrs") or [], place):
        names = ("name", "attrname", "attrvalue")
        entity, name, value = (as_part(pick(as_object(attribute, where), (n,), where), place).strip() for n in names)
        if value not in NO_VALUE:
            facts.append((entity, ATTRIBUTES.get(name, name), value))
    return Turn(
        speaker, as_part(pick(raw, ("message",), where), f"{where}: message").strip(), tuple(dict.fromkeys(facts))
    )


def read_crosswoz(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """CrossWOZ: the facts of a reply are what its dialogue acts inform of."""
    dialogues = as_object(read_document(source.path, options.encoding), str(source.path))
    for name, raw in dialogues.items():
        where = f"{source.path}: dialogue {name}"
        messages = as_list(pick(as_object(raw, where), ("messages",), where), f"{where}: messages")
        entities: dict[str, str] = {}
        turns = [crosswoz_turn(as_object(m, where), entities, f"{where}: message {i}") for i, m in enumerate(messages)]
        yield from items(source, Dialogue(name, where, turns), options)


def crosswoz_turn(raw: Raw, entities: dict[str, str], where: str) -> Turn:
    """Read a message of CrossWOZ; `entities` keeps, domain by domain, the one place that is being talked about."""
    speaker = "用户" if raw.get("role") == "usr" else "系统"
    place = f"{where}: dialog_act"
    acts = [as_list(act, place) for act in as_list(raw.get("dialog_act") or [], place)]
    told = [act for act in acts if len(act) == 4 and act[0] in ("Inform", "Recommend")]
    informed = [tuple(as_part(part, place).strip() for part in act[1:]) for act in told]
    for domain in dict.fromkeys(act[0] for act in informed):
        names = distinct([act[2] for act in informed if act[0] == domain and act[1] == "名称"])
        if names:
            entities[domain] = names[0] if len(names) == 1 else ""
    facts = [fact for act in informed if (fact := crosswoz_fact(act, entities)) is not None]
    text = as_part(pick(raw, ("content",), where), f"{where}: content").strip()
    return Turn(speaker, text, tuple(dict.fromkeys(facts)) if speaker == "系统" else (), certain=True)


def crosswoz_fact(act: Sequence[str], entities: dict[str, str]) -> tuple[str, str, str] | None:
    """Return what an act informs of; its entity is the domain where no single place is talked about."""
    domain, slot, value = act
    if value in NO_VALUE:
        return None
    return domain if slot == "名称" else entities.get(domain) or domain, slot, value


def items(source: Source, dialogue: Dialogue, options: ReadOptions) -> Iterator[SourceItem]:
    """Make of a dialogue what was asked for."""
    makers = {"convsearch": searches, "chat": recalls, "history": recalls}
    yield from makers[options.shape or "convsearch"](source, dialogue, options)


# ---- question with its turns -> fact --------------------------------------------------------------------------------


def searches(source: Source, dialogue: Dialogue, options: ReadOptions) -> Iterator[SourceItem]:
    """Yield an item for each turn: the turns before it, at most `turns` and the last, search the facts that it uses."""
    group = make_id(source, dialogue.name)
    for number, turn in enumerate(dialogue.turns):
        where = f"{dialogue.where}: turn {number + 1}"
        facts = [f for f in turn.facts if options.facts == "all" or turn.certain or repeats(turn.text, f[2])]
        reason = why_not(turn, number, facts)
        if reason:
            yield SourceItem(where, reason=reason)
            continue
        asked = dialogue.turns[max(0, number - 1 - options.turns) : number]
        record: Record = {
            "query": "\n".join(t.line() for t in asked),
            "pos": distinct([f"{entity} {name}：{value}" for entity, name, value in facts]),
            "answers": [turn.text],
            "id": make_id(source, dialogue.name, number),
            "group": group,
        }
        yield SourceItem(where, record)


def why_not(turn: Turn, number: int, facts: Sequence[object]) -> str:
    """Return why a turn makes no record."""
    if not turn.facts:
        return "no fact is attached to the turn"
    if number == 0:
        return "no turn stands before it"
    return "" if facts else "the reply repeats none of its facts"


def repeats(reply: str, value: str) -> bool:
    """Whether a reply says a value: all of a short one, some characters in a row of a long one."""
    said, wanted = plain(reply), plain(value)
    if wanted in said or any(piece in said for piece in parts_of(value)):
        return bool(wanted)
    return any(wanted[i : i + PIECE] in said for i in range(len(wanted) - PIECE + 1))


def parts_of(value: str) -> list[str]:
    """Return what a reply may say of a short value: one of several names, the year of a date."""
    if len(value) > LISTED:
        return []
    names = [plain(part) for part in BETWEEN.split(value)]
    return [f"{date[1]}年" for date in DATE.finditer(value)] or [name for name in names if len(name) > 1]


def plain(text: str) -> str:
    """Return letters and digits, lower case."""
    return NOT_WORDS.sub("", text).lower()


# ---- a later turn -> an earlier exchange ----------------------------------------------------------------------------


def recalls(source: Source, dialogue: Dialogue, options: ReadOptions) -> Iterator[SourceItem]:
    """Yield an item for each exchange: what is asked in it searches the exchanges before it, the last one left out."""
    group = make_id(source, dialogue.name)
    exchanges = [dialogue.turns[i : i + 2] for i in range(0, len(dialogue.turns), 2)]
    keys = ["\n".join(turn.line() for turn in exchange) for exchange in exchanges]
    for number, exchange in enumerate(exchanges):
        where = f"{dialogue.where}: exchange {number + 1}"
        earlier = distinct(keys[: max(0, number - GAP)])
        record: Record = {"query": exchange[0].text}
        if len(earlier) < 2:
            yield SourceItem(
                where, reason="fewer than two different exchanges stand long enough before it", of=len(exchange)
            )
            continue
        if options.shape == "history":
            record["history"] = earlier
        elif (best := most_alike(exchange[0].text, earlier)) is None:
            yield SourceItem(where, reason="no earlier exchange stands out by its words", of=len(exchange))
            continue
        else:
            record |= {"pos": [earlier[best]], "neg": [key for i, key in enumerate(earlier) if i != best]}
        record |= {"answers": [t.text for t in exchange[1:]], "id": make_id(source, dialogue.name, number)}
        yield SourceItem(where, record | {"group": group}, of=len(exchange))


def most_alike(text: str, keys: Sequence[str]) -> int | None:
    """Return the key that shares most pairs of characters with a text, rare ones counting more; None where none leads.

    A heuristic: no set of dialogues says which earlier exchange a turn needs.
    """
    grams = [pairs_of(key) for key in keys]
    seen = Counter(gram for own in grams for gram in own)
    weight = {gram: math.log(1 + len(keys) / count) for gram, count in seen.items()}
    asked = pairs_of(text)
    scores = [sum(weight[gram] for gram in sorted(asked & own)) for own in grams]
    best = max(range(len(keys)), key=scores.__getitem__)
    if len(asked & grams[best]) < SHARED:
        return None
    return best if scores[best] > 1.25 * max(s for i, s in enumerate(scores) if i != best) else None


def pairs_of(text: str) -> set[str]:
    """Return the pairs of neighbouring characters."""
    said = plain(text)
    return {said[i : i + 2] for i in range(len(said) - 1)}


def check_facts(value: str) -> str:
    """Return --facts.

    Raises:
        UserError: it is neither of the two.
    """
    if value not in ("repeated", "all"):
        raise reject("--facts", value, "repeated or all")
    return value


def is_kdconv(head: Head) -> bool:
    """Recognise KdConv's layout."""
    return '"messages"' in head.text and '"message"' in head.text and '"attr' in head.text


def is_crosswoz(head: Head) -> bool:
    """Recognise CrossWOZ's layout."""
    return '"dialog_act"' in head.text or '"sys-usr"' in head.text
