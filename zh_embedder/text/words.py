"""Words of Chinese text, for BM25: jieba's words, or pairs of neighbouring characters.

Both fold the text first (Unicode NFKC, lower case), so that `ＧＰＴ` is found by `gpt`, and both leave out what holds
neither letter nor digit: white space, punctuation, symbols.
"""

from __future__ import annotations

import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import MAX_SHOWN, UserError, reject, unknown_name

logger = logging.getLogger(__name__)

Segmenter = Callable[[str], list[str]]
ENTRY = "`word`, `word frequency` or `word frequency tag`, as jieba's user dictionaries have it"
# Written without spaces: 々〆〇, kana, the Han blocks with their extensions.
UNSPACED = "\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u30fc\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
NOT_LETTERS = re.compile(r"[\W_]+")
RUNS = re.compile(rf"([{UNSPACED}]+)|([0-9]+(?:\.[0-9]+)+|[^\W_{UNSPACED}]+)")


def fold(text: str) -> str:
    """Return a text as it is compared: Unicode NFKC, lower case."""
    return unicodedata.normalize("NFKC", text).lower()


def letters(text: str) -> str:
    """Return what counts of a text: its letters and digits, folded; spaces, punctuation and marks are gone.

    >>> letters(" Ａbc，１２。")
    'abc12'
    """
    return NOT_LETTERS.sub("", fold(text))


def bigrams(text: str) -> list[str]:
    """Cut a text into pairs of neighbouring Chinese (or Japanese) characters; other words and numbers stay whole.

    A character without a neighbour is a word.

    >>> bigrams("用BERT检索95.5分，好")
    ['用', 'bert', '检索', '95.5', '分', '好']
    """
    found: list[str] = []
    for run, word in RUNS.findall(fold(text)):
        if word or len(run) == 1:
            found.append(word or run)
        else:
            found += [run[at : at + 2] for at in range(len(run) - 1)]
    return found


def words(text: str, dictionary: str | Path | None = None) -> list[str]:
    """Cut a text into words with jieba.

    >>> words("我在北京大学研究GPT，2026年。")
    ['我', '在', '北京大学', '研究', 'gpt', '2026', '年']

    Args:
        text: to cut.
        dictionary: a file of further words (UTF-8, a line each: word, then frequency and tag if known).

    Raises:
        UserError: the dictionary is missing or wrong.
    """
    cut = tokenizer(None if dictionary is None else str(dictionary)).lcut(fold(text))
    return [word for word in cut if any(map(str.isalnum, word))]


WORDS: Mapping[str, Segmenter] = {"jieba": words, "bigram": bigrams}


def word_starts(text: str, dictionary: str | Path | None = None) -> list[int]:
    """Return where jieba's words start in an unchanged text; white space and punctuation are words too.

    >>> word_starts("我在北京大学，好")
    [0, 1, 2, 6, 7]

    Raises:
        UserError: the dictionary is missing or wrong.
    """
    starts, at = [], 0
    for word in tokenizer(None if dictionary is None else str(dictionary)).lcut(text):
        starts.append(at)
        at += len(word)
    return starts


def segmenter(name: str, dictionary: str | Path | None = None) -> Segmenter:
    """Return the function that cuts texts, by its name in WORDS; a wrong dictionary is reported at once.

    Raises:
        UserError: the name is not known, the dictionary is wrong, or bigrams are to use one.
    """
    if name not in WORDS:
        raise unknown_name("--words", name, WORDS)
    if dictionary is None:
        return WORDS[name]
    if name != "jieba":
        raise reject("dictionary", str(dictionary), "none: only jieba's words come from a dictionary")
    tokenizer(str(dictionary))
    return partial(words, dictionary=dictionary)


def import_jieba() -> Any:
    """Import jieba, whose old regular expressions make newer Pythons warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba
    return jieba


@lru_cache(maxsize=4)
def tokenizer(dictionary: str | None) -> Any:
    """Make jieba's tokenizer, with the words of a file.

    jieba would keep its dictionary, marshalled, in a file of the shared temporary folder, and load whatever lies there
    under that name. Reading the dictionary itself takes no longer (0.9 s against 1.2 s), so no such file is used.
    Nor is jieba's global tokenizer, whose words another library may have changed.
    """
    entries = [] if dictionary is None else list(read_dictionary(Path(dictionary)))
    jieba = import_jieba()
    made = jieba.Tokenizer()
    made.FREQ, made.total = made.gen_pfdict(made.get_dict_file())
    made.initialized = True
    for word, frequency in entries:
        made.add_word(word, frequency)
    if lost := [word for word, _ in entries if not jieba.re_han_default.fullmatch(word)]:
        shown = ", ".join(lost[:MAX_SHOWN])
        logger.warning("%s: jieba never finds %d of the words, which it cuts before: %s", dictionary, len(lost), shown)
    return made


def read_dictionary(path: Path) -> Iterator[tuple[str, int | None]]:
    """Yield the words of a user dictionary, folded as texts are, with their frequency where it is given.

    Raises:
        UserError: it is missing, is not UTF-8, or a line is wrong.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8, expected a dictionary of UTF-8 lines: {ENTRY}") from None
    except OSError as error:
        raise UserError(f"--user_dict: {path}: {error.strerror}, expected a dictionary: {ENTRY}") from None
    for number, line in enumerate(lines, start=1):
        word, *rest = line.split() or [""]
        if not word:
            continue
        # Frequency 0 would tell jieba to cut the word, in all tokenizers of the process.
        known = len(rest) < 3 and (not rest or rest[0].isdecimal() or (len(rest) == 1 and rest[0].isalpha()))
        if not known or rest[:1] == ["0"] or (len(rest) == 2 and not rest[1].isalnum()):
            raise reject(f"{path}:{number}", line, ENTRY)
        yield fold(word), int(rest[0]) if rest and rest[0].isdecimal() else None
