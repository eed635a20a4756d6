"""Vocabularies from a corpus: characters and frequent words as WordPieces, Traditional read as Simplified.

Characters of the corpus and of the common character sets are pieces, and so are its most frequent words: Chinese ones
as jieba cuts them, Latin ones, numbers. A text is cut greedily, the longest piece first; a character that is no piece
is [UNK] alone. A piece is the same wherever it occurs (no ##): a word has one vector at the start of a run and inside.
The files of a corpus count the same, however large they are.
"""

from __future__ import annotations

import logging
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zh_embedder.bases.charsmap import charsmap
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import beside
from zh_embedder.data.text_files import spread
from zh_embedder.text.tokens import save_tokenizer
from zh_embedder.text.words import tokenizer as jieba_tokenizer

logger = logging.getLogger(__name__)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff"
RUNS = re.compile(rf"([{HAN}]+)|([a-z]+|[0-9]{{1,4}})")
ALWAYS = (
    "abcdefghijklmnopqrstuvwxyz0123456789" + string.punctuation + "。、《》〈〉“”‘’「」『』【】〔〕—·・─•"
    "αβγδεζηθικλμνξοπρστυφχψω°‰±×÷−≈≠≤≥∞∑√∵∴∶∠△←→↑↓■□●○◎★☆▲§€£¥©®"
)


# ---- what a text becomes before it is cut --------------------------------------------------------------------------


def simplified() -> dict[str, str]:
    """Return the Simplified form of each Traditional character, from OpenCC's table.

    Raises:
        UserError: OpenCC is not installed.
    """
    if find_spec("opencc") is None:
        raise UserError("--keep_traditional: is not given, and OpenCC's tables are missing: pip install '.[tools]'")
    lines = (files("opencc") / "dictionary" / "TSCharacters.txt").read_text("utf-8").splitlines()
    entries = (line.split("\t") for line in lines if "\t" in line)
    table = {one: others.split()[0] for one, others in entries if len(one) == 1 and one not in others.split()}
    return {one: other for one, other in table.items() if len(other) == 1}


def normalizer(table: dict[str, str]) -> Any:
    """Return the tokenizer's normaliser: NFKC, a table of characters, lower case without accents."""
    from tokenizers import normalizers

    steps = [normalizers.NFKC(), normalizers.BertNormalizer(handle_chinese_chars=False)]
    if table:
        steps.insert(1, normalizers.Precompiled(charsmap(table)))
    return normalizers.Sequence(steps)


def common_characters(table: dict[str, str]) -> list[str]:
    """Return the Chinese characters of GB 2312 and of Big5's first level (6,763 and 5,401), folded by the table."""
    found: dict[str, None] = {}
    tails = [*range(0x40, 0x7F), *range(0xA1, 0xFF)]
    for codec, heads in (("gb2312", range(0xB0, 0xF8)), ("big5", range(0xA4, 0xC7))):
        for code in (bytes((head, tail)) for head in heads for tail in tails):
            one = code.decode(codec, errors="ignore")
            if len(one) == 1 and unicodedata.category(one) == "Lo":
                found[table.get(one, one)] = None
    return list(found)


# ---- counting --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Counts:
    """Counts of words and characters in a file."""

    characters: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)  # Chinese ones of two characters or more
    latin: Counter[str] = field(default_factory=Counter)  # of two letters or digits or more

    def add(self, text: str, cut: Any) -> None:
        """Count a normalised text."""
        self.characters.update(text)
        for han, other in RUNS.findall(text):
            if other:
                self.latin[other] += len(other) > 1
            else:
                self.words.update(word for word in cut(han, HMM=False) if len(word) > 1)


def count_file(path: Path, normalise: Any, *, documents: int | None, show_progress: bool = True) -> Counts:
    """Count a file's texts, titles included.

    Args:
        path: JSON Lines or a text a line, plain, .gz or .zst.
        normalise: the tokenizer's normaliser.
        documents: count this many at most, evenly spread over the file.
        show_progress: a bar where it takes over 5 seconds.

    Raises:
        UserError: a line is wrong, or there are no texts.
    """
    cut, counts, taken = jieba_tokenizer(None).lcut, Counts(), 0
    for _, text in spread(path, documents, with_title=True, show_progress=show_progress):
        counts.add(normalise.normalize_str(text), cut)
        taken += 1
    logger.info(
        "%s: %s, %s counted", path.name, counted(taken, "text"), counted(counts.characters.total(), "character")
    )
    return counts


def shares(counters: Sequence[Counter[str]]) -> dict[str, float]:
    """Mean over files of the share that each thing has in the file, the most frequent first."""
    mean: Counter[str] = Counter()
    for counter in counters:
        total = max(1, counter.total())
        mean.update({name: count / total / len(counters) for name, count in counter.items()})
    return dict(sorted(mean.items(), key=lambda item: (-item[1], item[0])))


def choose_pieces(
    counts: Sequence[Counts], *, common: Iterable[str], words: int, latin: int, min_count: int
) -> list[str]:
    """Return the pieces, special ones first, then characters, then words, each by falling frequency.

    Args:
        counts: of the files.
        common: characters that are pieces even if the corpus lacks them.
        words: Chinese words, at most.
        latin: Latin words and numbers, at most.
        min_count: characters that occur less often in all files together are no pieces, unless they are common.
    """
    total = sum((one.characters for one in counts), Counter[str]())
    by_share = shares([one.characters for one in counts])
    often = [c for c in by_share if total[c] >= min_count and not c.isspace() and c.isprintable()]
    pieces = [*SPECIAL, *often, *ALWAYS, *common]
    pieces += [str(number) for number in range(10, 100)]
    pieces += list(shares([one.words for one in counts]))[:words]
    pieces += [w for w in shares([one.latin for one in counts]) if len(w) > 1][:latin]
    return list(dict.fromkeys(pieces))


# ---- the tokenizer ---------------------------------------------------------------------------------------------------


def make_tokenizer(pieces: Sequence[str], table: dict[str, str], *, max_length: int = 512) -> Any:
    """Return a fast tokenizer of pieces: BERT's special tokens around a text that was cut greedily.

    Args:
        pieces: each once; their order is that of the ids.
        table: what characters become before anything else.
        max_length: tokens of a text, special ones included.
    """
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import PreTrainedTokenizerFast

    ids = {piece: index for index, piece in enumerate(pieces)}
    # Any length: a run of characters without punctuation must not become [UNK] for being long.
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    unknown = names["unk_token"]
    model = WordPiece(ids, unk_token=unknown, continuing_subword_prefix="", max_input_chars_per_word=1 << 20)
    backend = Tokenizer(model)
    backend.normalizer = normalizer(table)
    # WordPiece gives a whole run up for one character that it lacks: such characters are split off.
    known = "".join(re.escape(piece) for piece in sorted(pieces) if len(piece) == 1)
    alone = pre_tokenizers.Split(Regex(f"[^{known}]"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), alone])
    cls, sep = (("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"]))
    backend.post_processor = processors.BertProcessing(sep, cls)
    backend.decoder = decoders.WordPiece(prefix="", cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=max_length, **names)


def build(
    paths: Sequence[Path],
    folder: Path,
    *,
    words: int,
    latin: int,
    min_count: int,
    documents: int | None = None,
    fold: bool = True,
    show_progress: bool = True,
) -> int:
    """Count a corpus and write the tokenizer's folder; returns the number of pieces.

    Raises:
        UserError: a file without texts, a wrong line, or OpenCC is missing.
    """
    table = simplified() if fold else {}
    normalise = normalizer(table)
    counts = [count_file(path, normalise, documents=documents, show_progress=show_progress) for path in paths]
    common = common_characters(table)
    pieces = choose_pieces(counts, common=common, words=words, latin=latin, min_count=min_count)
    made = sum(len(piece) > 1 for piece in pieces) - len(SPECIAL)
    if made < words + latin:
        logger.info("the corpus has only %d words, fewer than --words %d and --latin %d ask for", made, words, latin)
    with beside(folder) as partial:
        save_tokenizer(make_tokenizer(pieces, table), partial)
    logger.info("%s: %d pieces, %d of them of one character", folder, len(pieces), sum(len(p) == 1 for p in pieces))
    return len(pieces)


def unknown_share(tokenizer: Any, texts: Iterator[str]) -> float:
    """Return the share of [UNK] among the tokens of texts, special ones left out."""
    unknown = total = 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        unknown, total = unknown + ids.count(tokenizer.unk_token_id), total + len(ids)
    return unknown / max(1, total)
