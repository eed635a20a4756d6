"""Token masking: pure functions of a window and a generator.

Devlin et al. 2019 (arXiv 1810.04805): of what is predicted 80 % is replaced by the mask token, 10 % by random tokens,
and 10 % stays. Whole words are hidden together (Cui et al. 2019, arXiv 1906.08101): half a Chinese word gives the other
half away. A word has one of the three fates as a whole, for the same reason.

Shapes: L tokens of a window, M of them predicted, W words, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.errors import UserError
from zh_embedder.text.tokens import Ids

MASKED, RANDOM = 0.8, 0.1  # shares of the predicted words; the rest stays as it is
Places = NDArray[np.int64]
Flags = NDArray[np.bool_]
NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class MaskRule:
    """How windows are masked."""

    probability: float  # of a token to be predicted
    whole_words: bool
    mask_id: int
    hidden: Flags  # (V,) tokens that are never predicted: special ones, the unknown one among them
    drawn: Places  # random replacement tokens


class Masked(NamedTuple):
    """A window as the model sees it."""

    ids: Ids  # (L,)
    places: Places  # (M,) of the tokens that are predicted, ascending
    labels: Places  # (M,) what was there


def mask_rule(tokenizer: Any, *, size: int, probability: float, whole_words: bool) -> MaskRule:
    """Make the rule for a tokenizer.

    Args:
        tokenizer: fast.
        size: V, rows of the model's word embeddings.
        probability: of a token to be predicted.
        whole_words: words are predicted whole.

    Raises:
        UserError: it has no mask token.
    """
    if tokenizer.mask_token_id is None:
        raise UserError("--query_encoder: its tokenizer has no mask token, expected one of a BERT-like base")
    hidden = np.zeros(max(size, len(tokenizer)), bool)
    hidden[list(tokenizer.all_special_ids)] = True
    unused = [index for token, index in tokenizer.get_vocab().items() if token.startswith(("[unused", "<unused"))]
    usable = ~hidden[: len(tokenizer)]
    usable[unused] = False
    return MaskRule(probability, whole_words, int(tokenizer.mask_token_id), hidden, np.flatnonzero(usable))


def draw_words(sizes: Places, probability: float, rng: np.random.Generator) -> Flags:
    """Draw words until they hold a share of all tokens, (W,) True where drawn.

    The expected number of tokens is exactly `probability` of them: what the share leaves of a token is drawn for, and
    so is the word that would pass it. The actual number is off by less than two words.
    """
    total = int(sizes.sum())
    wanted = int(total * probability + rng.random())
    order = rng.permutation(len(sizes))
    behind = np.cumsum(sizes[order])
    whole = int(np.searchsorted(behind, wanted, side="right"))
    taken = np.zeros(len(sizes), bool)
    taken[order[:whole]] = True
    if whole < len(order):
        missing = wanted - (int(behind[whole - 1]) if whole else 0)
        taken[order[whole]] = rng.random() * sizes[order[whole]] < missing
    return taken


def mask(ids: Ids, starts: Flags, rule: MaskRule, rng: np.random.Generator) -> Masked:
    """Hide a share of a window's words.

    Args:
        ids: (L,) the tokens.
        starts: (L,) True where a word begins.
        rule: how.
        rng: of the window, see `selection.row_rng`.
    """
    open_to = np.flatnonzero(~rule.hidden[ids])  # tokens that may be predicted
    if not len(open_to):
        return Masked(ids, NOTHING, NOTHING)
    begins = starts[open_to] if rule.whole_words else np.ones(len(open_to), bool)
    begins |= np.diff(open_to, prepend=-2) > 1  # what follows a special token is another word
    word = np.cumsum(begins) - 1
    sizes = np.bincount(word)
    taken = draw_words(sizes, rule.probability, rng)
    fate = rng.random(len(sizes))[word]
    chosen = taken[word]
    seen = ids.copy()
    seen[open_to[chosen & (fate < MASKED)]] = rule.mask_id
    random = open_to[chosen & (fate >= MASKED) & (fate < MASKED + RANDOM)]
    seen[random] = rule.drawn[rng.integers(len(rule.drawn), size=len(random))]
    places = open_to[chosen]
    return Masked(seen, places, ids[places].astype(np.int64))


def draw_visible(length: int, probability: float, rng: np.random.Generator) -> Flags:
    """Draw what each token's decoder sees of its text, (L, L): row i sees column j where True.

    Xiao et al. 2022 (arXiv 2205.12035), enhanced decoding: every row draws its own share of the text and never sees
    itself. The first place holds the sentence vector, which every row sees.

    Args:
        length: L.
        probability: of a token to be hidden.
        rng: of the window.
    """
    visible = rng.random((length, length), dtype=np.float32) >= probability
    np.fill_diagonal(visible, val=False)
    visible[:, 0] = True
    return visible
