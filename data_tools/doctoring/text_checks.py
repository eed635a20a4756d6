"""Text checks: wrong decoding, control characters, script, width, markup."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec

from zh_embedder.text.letters import CONTROL

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
CHINESE = re.compile(rf"[{HAN}]")
LOST = re.compile(r"\ufffd|锟斤拷|锟斤|斤拷")
# Bytes of UTF-8 seen as characters of Latin-1 or Windows-1252: a lead byte, then what 0x80 to 0xBF look like there.
TRAIL = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
LATIN_RUN = re.compile(rf"(?:[\u00c2-\u00f4][{TRAIL}]{{1,3}})+")
GB_RUN = re.compile(r"(?:[\u0081-\u00fe][\u00a1-\u00fe]){2,}")  # GB18030 seen as Latin-1
LETTERS = re.compile("[\u00c0-\u00fe]")
FOREIGN_RUN = re.compile(r"[^\x00-\x7f]+")
PRIVATE = re.compile("[\ue000-\uf8ff\U000f0000-\U0010fffd]")
MARKUP = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|ldquo|rdquo|middot|#\d{2,5}|#x[0-9a-fA-F]{2,5});"
    r"|</?(?:br|p|div|span|font|strong|em|b|i|u|a|img|td|tr|th|table|li|ul|ol|h[1-6]|sup|sub)(?:\s[^<>]*=[^<>]*|\s*/)?>",
    re.IGNORECASE,
)
FULL_LETTERS, HALF_LETTERS = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]"), re.compile("[0-9A-Za-z]")
FULL_MARKS, HALF_MARKS = re.compile("[，；：？！]"), re.compile(rf"[,;:?!](?<=[{HAN}].)(?=[{HAN}])")
MIN_MARKS = 4  # characters as the lead bytes of Chinese make them, before a text is decoded to see
MIN_SHARE = 0.15  # of them among a text's characters that are not ASCII
STRAY = 0.34  # of the characters that a wrong decoding lost for good


@lru_cache(maxsize=1)
def gbk_marks() -> re.Pattern[str]:
    """Characters that the first two bytes of Chinese in UTF-8 make where they are read as GBK: 浣, 鐨, 鍦, ..."""
    pairs = (bytes([lead, trail]) for lead in range(0xE4, 0xEA) for trail in range(0x80, 0xC0) if trail != 0x7F)
    found = "".join(pair.decode("gb18030") for pair in pairs)
    return re.compile(f"[{re.escape(found)}]")


def mojibake(text: str) -> str | None:
    """Say how a text was decoded wrongly; None where nothing is wrong."""
    if lost := LOST.search(text):
        return f"characters that a wrong decoding has lost ({lost.group()!r})"
    for run in LATIN_RUN.findall(text):
        if chinese(latin_bytes(run), "utf-8"):
            return f"UTF-8 that was read as Latin-1 ({run[:12]!r})"
    for run in GB_RUN.findall(text):
        # Rows of dots (····) are Chinese in GB18030, too: real texts are mostly letters here, and never one repeated.
        if len(LETTERS.findall(run)) > 0.3 * len(run) and len(set(run)) > 2 and chinese(latin_bytes(run), "gb18030"):
            return f"GB18030 that was read as Latin-1 ({run[:12]!r})"
    return gbk_mojibake(text)


def gbk_mojibake(text: str) -> str | None:
    """Say where UTF-8 was read as GBK: the bytes are right UTF-8 again, as those of real Chinese never are."""
    marks = len(gbk_marks().findall(text))
    if marks < MIN_MARKS or marks < MIN_SHARE * (len(text) - len(text.encode("ascii", "ignore"))):
        return None
    for run in FOREIGN_RUN.findall(text):
        back = run.encode("gb18030", "replace").decode("utf-8", "replace")
        han = len(CHINESE.findall(back))
        if han >= 2 and back.count("\ufffd") <= STRAY * len(back) and han >= len(back) / 2:
            return f"UTF-8 that was read as GBK ({run[:12]!r} was {back[:8]!r})"
    return None


def latin_bytes(run: str) -> bytes:
    """Return the bytes that were read as Windows-1252 or Latin-1, character by character: texts mix both."""
    found = bytearray()
    for character in run:
        try:
            found += character.encode("latin-1")
        except UnicodeEncodeError:
            found += character.encode("cp1252", "ignore")
    return bytes(found)


def chinese(raw: bytes, encoding: str) -> bool:
    """Whether bytes are mostly Chinese in an encoding, a cut character at the end forgiven."""
    text = raw.decode(encoding, "ignore")
    return len(CHINESE.findall(text)) >= max(1, len(text) / 2) and len(text.encode(encoding)) >= len(raw) - 3


def control(text: str) -> str | None:
    """Name the control characters of a text."""
    found = sorted({f"U+{ord(c):04X}" for c in CONTROL.findall(text)})
    return ", ".join(found[:5]) if found else None


def private(text: str) -> str | None:
    """Name the private-use characters of a text: what they looked like was known to one font only."""
    found = sorted({f"U+{ord(c):04X}" for c in PRIVATE.findall(text)})
    return ", ".join(found[:5]) if found else None


def markup(text: str) -> str | None:
    """Return the first HTML tag or entity of a text."""
    found = MARKUP.search(text)
    return found.group()[:40] if found else None


@lru_cache(maxsize=1)
def scripts() -> tuple[frozenset[str], frozenset[str]] | None:
    """Characters that only Traditional, and only Simplified Chinese has, from OpenCC's tables; None without OpenCC."""
    if find_spec("opencc") is None:
        return None
    found = []
    for name in ("TSCharacters.txt", "STCharacters.txt"):
        lines = (files("opencc") / "dictionary" / name).read_text("utf-8").splitlines()
        entries = (line.split("\t") for line in lines if "\t" in line)
        # 乾 and 著 are in both scripts: a character that may stay as it is tells nothing.
        found.append(frozenset(one for one, others in entries if len(one) == 1 and one not in others.split()))
    return found[0], found[1]


# ---- styles: what one text does this way, another that way ----------------------------------------------------------

Style = int | None  # 0 and 1 are the two ways; None: a text shows neither


def letter_width(text: str) -> Style:
    """1 where letters or digits are full-width, 0 where all are half-width."""
    if FULL_LETTERS.search(text):
        return 1
    return 0 if HALF_LETTERS.search(text) else None


def mark_width(text: str) -> Style:
    """1 where marks between Chinese characters are mostly half-width, 0 where they are full-width."""
    half = len(HALF_MARKS.findall(text))
    full = len(FULL_MARKS.findall(text)) if half else bool(FULL_MARKS.search(text))
    return int(half > full) if half or full else None


def script(text: str) -> Style:
    """1 for Traditional Chinese, 0 for Simplified; single characters (names, quotations) do not decide."""
    known = scripts()
    if known is None or KANA.search(text):  # Japanese has characters of both
        return None
    # Mostly there is none of the one and some of the other: sets tell that eight times as fast as a pattern.
    traditional = 0 if known[0].isdisjoint(text) else sum(map(known[0].__contains__, text))
    simplified = sum(map(known[1].__contains__, text)) if traditional > 1 else not known[1].isdisjoint(text)
    if traditional > 1 and traditional > simplified:
        return 1
    return 0 if simplified else None


def traditional(text: str) -> str:
    """Return the characters of a text that only Traditional Chinese has."""
    known = scripts()
    return "".join(filter(known[0].__contains__, text)) if known else ""
