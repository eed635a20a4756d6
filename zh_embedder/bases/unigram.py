"""Unigram tokenizers of the XLM-R family, as the content of tokenizer.json: made from pieces, or cut down to some."""

from __future__ import annotations

import base64
import itertools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zh_embedder.bases.charsmap import LONGEST_CLUSTER, charsmap, is_cluster
from zh_embedder.core.errors import UserError, reject

BLANK = "\u2581"  # what a blank becomes, so that pieces may hold it
FIRST_HANGUL = 0xAC00  # from here on, no character is composed of parts as short as a cluster


def spellings(table: Mapping[str, str]) -> dict[str, str]:
    """Return what letters with accents behind them become: one composed character, as NFKC makes it.

    SentencePiece's map `nmt_nfkc` has an entry for every spelling in single characters of a composed one. The table has
    those of one character; the others follow from it and from Unicode's decompositions, which are never changed.
    """
    same: dict[str, list[str]] = {}  # a character -> others that are it in compatibility form
    for one in table:
        if len(plain := unicodedata.normalize("NFKD", one)) == 1:
            same.setdefault(plain, []).append(one)
    found: dict[str, str] = {}
    for parts in {unicodedata.normalize("NFKD", chr(code)) for code in range(1, FIRST_HANGUL)}:
        composed = unicodedata.normalize("NFC", parts)
        if len(parts) < 2 or composed == parts or len(parts) > LONGEST_CLUSTER:
            continue
        for spelling in map("".join, itertools.product(*([part, *same.get(part, ())] for part in parts))):
            if spelling != composed and is_cluster(spelling):
                found[spelling] = composed
    return found


def special_token(index: int, content: str) -> dict[str, Any]:
    """Return the entry of a special token."""
    rules = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **rules, "special": True}


def xlm_r_tokenizer(pieces: Sequence[str], scores: Sequence[float], table: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of tokenizer.json.

    Args:
        pieces: `<s> <pad> </s> <unk>`, then those that texts are cut into; `<mask>` is special where it is one of them.
        scores: log probabilities of the pieces.
        table: what single characters become before a text is cut (SentencePiece's `nmt_nfkc`).

    Raises:
        UserError: a zero byte is in the table.
    """
    ids = {name: pieces.index(name) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if name in pieces}
    blank = {"replacement": BLANK, "add_prefix_space": True, "prepend_scheme": "always", "split": True}
    bos, eos = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    characters = base64.b64encode(charsmap({**spellings(table), **table})).decode()
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special_token(index, name) for name, index in ids.items()],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": characters},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": {"type": "Metaspace", **blank},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, first, eos],
            "pair": [bos, first, eos, eos, second, eos],
            "special_tokens": {
                name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("<s>", "</s>") if name in ids
            },
        },
        "decoder": {"type": "Metaspace", **blank},
        "model": {
            "type": "Unigram",
            "unk_id": ids["<unk>"],
            "vocab": [[piece, score] for piece, score in zip(pieces, scores, strict=True)],
            "byte_fallback": False,
        },
    }


def check_kept(kept: Iterable[int], *, count: int, special: Iterable[int], where: str) -> list[int]:
    """Return the ids of kept pieces.

    Raises:
        UserError: they do not rise, are no ids of the vocabulary, or a special token is not among them.
    """
    found = list(kept)
    for index, (before, one) in enumerate(zip([-1, *found], found, strict=False)):
        if not before < one < count:
            raise reject(f"{where}: [{index}]", one, f"ids that rise, below {count}, the size of the vocabulary")
    if lacking := sorted(set(special) - set(found)):
        raise reject(where, f"{len(found)} ids without {lacking[0]}", "every special token among them")
    return found


def prune_tokenizer(content: Mapping[str, Any], kept: Sequence[int], *, where: str) -> dict[str, Any]:
    """Return the content of tokenizer.json with some of its pieces, whose new ids are their places in `kept`.

    Args:
        content: of a Unigram tokenizer.
        kept: ids of the pieces, rising, all special tokens among them.
        where: the file, for messages.

    Raises:
        UserError: it is no such tokenizer, or the ids are wrong.
    """
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), list) or model.get("unk_id") is None:
        raise UserError(f"{where}: model: expected a Unigram tokenizer, whose vocab is a list of pieces and scores")
    processor = content.get("post_processor") or {}
    if processor.get("type") != "TemplateProcessing":
        raise reject(
            f"{where}: post_processor", processor.get("type"), "TemplateProcessing, as XLM-R's tokenizers have it"
        )
    special, used = content["added_tokens"], processor["special_tokens"]
    ids = {model["unk_id"], *(token["id"] for token in special)}
    ids |= {index for token in used.values() for index in token["ids"]}
    order = check_kept(kept, count=len(model["vocab"]), special=ids, where=where)
    new = {old: index for index, old in enumerate(order)}
    moved = {name: {**token, "ids": [new[index] for index in token["ids"]]} for name, token in used.items()}
    return {
        **content,
        "truncation": None,
        "padding": None,
        "added_tokens": [{**token, "id": new[token["id"]]} for token in special],
        "post_processor": {**processor, "special_tokens": moved},
        "model": {**model, "unk_id": new[model["unk_id"]], "vocab": [model["vocab"][index] for index in order]},
    }
