"""Tiny Chinese BERT with random weights, built in code: for demos, tests and benchmarks without a base at hand."""

from __future__ import annotations

import string
from pathlib import Path

from zh_embedder.bases.folder_format import Layout, write_layout

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PUNCTUATION = "，。！？；：、（）《》“”‘’—…·「」【】％℃"


def characters() -> list[str]:
    """Return ASCII, Chinese punctuation and the 6,763 characters of GB 2312."""
    rows = [bytes((high, low)) for high in range(0xB0, 0xF8) for low in range(0xA1, 0xFF)]
    common = [text for row in rows if (text := row.decode("gb2312", errors="ignore"))]
    ascii_ = [c for c in string.printable if not c.isspace() and not c.isupper()]
    return [*ascii_, *PUNCTUATION, *common]


def build(
    folder: str | Path,
    *,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 4,
    intermediate: int | None = None,
    vocabulary_size: int | None = None,
    seed: int = 0,
    dropout: float = 0.1,
    pooling: str | None = "mean",
) -> Path:
    """Write the model, a character tokenizer and, with a pooling, the sentence-transformers files.

    Args:
        folder: where to.
        hidden: hidden size.
        layers: how many.
        heads: attention heads.
        intermediate: width of the feed-forward layer; by default twice the hidden size.
        vocabulary_size: filled up to this with tokens that no text has; by default as many as there are characters.
        seed: of the weights.
        dropout: hidden and attention dropout.
        pooling: cls, mean or last_token; None writes a bare model, as many hubs have them.
    """
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*SPECIAL, *characters()]
    vocabulary += [f"[unused{n}]" for n in range((vocabulary_size or 0) - len(vocabulary))]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), "utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(folder, model_max_length=512)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate or 2 * hidden,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if pooling is not None:
        write_layout(folder, Layout(pooling=pooling, dimension=hidden, metric="cos", max_length=512))
    return folder
