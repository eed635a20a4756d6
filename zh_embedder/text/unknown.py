"""Share of unknown characters: whether a tokenizer knows the language of the user's texts.

A base without Chinese trains without an error: every character is [UNK], and all texts become alike.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from zh_embedder.core.errors import UserError
from zh_embedder.text.tokens import unknown_characters

logger = logging.getLogger(__name__)


MAX_UNKNOWN = 0.2  # share of the characters of a task
SAMPLE = 100  # texts of a task that are looked at, and their characters
LONGEST = 300
SHOWN = 5  # characters in the message
WORTH_SAYING = 0.001

HELP = "Stop where the tokenizer does not know more than this share of the characters of a task's texts."


def sample_of(texts: Collection[str], count: int = SAMPLE) -> list[str]:
    """Take texts that are evenly spread."""
    return list(islice(texts, 0, None, max(1, len(texts) // count)))


def check_unknown(
    sides: Iterable[tuple[Any, Mapping[str, Sequence[str]]]], *, limit: float, base: str
) -> dict[str, float]:
    """Measure the share of unknown characters of each task, and say it where there are any.

    Args:
        sides: tokenizers with texts of each task: two where queries and keys have a tokenizer each.
        limit: the share above which is refused.
        base: name of the base, for messages.

    Raises:
        UserError: the tokenizer does not know the language of a task.
    """
    shares: dict[str, float] = {}
    for tokenizer, tasks in sides:
        over = []
        for task, texts in tasks.items():
            unknown, total = unknown_characters(tokenizer, (text[:LONGEST] for text in texts))
            share = unknown.total() / max(1, total)
            shares[task] = max(share, shares.get(task, 0))
            if share > limit:
                shown = " ".join(character for character, _ in unknown.most_common(SHOWN))
                over.append(f"{share:.0%} of the characters of {task} ({shown} ...)")
        if over:
            raise UserError(
                f"--max_unknown: the tokenizer of {base} does not know {', '.join(over)}, expected at most "
                f"{limit:.0%}; "
                "take another base, or this one all the same with --max_unknown 1"
            )
    if any(share >= WORTH_SAYING for share in shares.values()):
        said = ", ".join(f"{task} {share:.1%}" for task, share in shares.items())
        logger.info("characters that the tokenizer of %s does not know: %s", base, said)
    return shares
