"""An encoder folder of ours -> a folder for sentence-transformers, with prompts, a model card and proven parity."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from zh_embedder.bases.folder_format import MODULES
from zh_embedder.core.errors import UserError, exit_code, unknown_name
from zh_embedder.core.runtime import parse_command, quiet_deepspeed
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.models.spec import KEY_SUFFIX
from zh_embedder.text.tokens import tokenize

TOLERANCE = 1e-4
SAMPLES = (
    "猫",
    "今天天气怎么样？",
    "请帮我查一下明天上午从北京到上海的高铁，最好九点以后出发。",
    "The model reads English, 数字 12345 and 标点，《书名》——all in one line.",
    "茶叶采摘后要经过萎凋、揉捻、发酵和干燥。不同的发酵程度造就了绿茶、乌龙茶和红茶的风味差别，冲泡时的水温也因此不同。",
)
CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
language: zh
tags:
- sentence-transformers
- feature-extraction
- zh_embedder
---

# {name}

A Chinese text embedder trained with zh_embedder: {dimension} dimensions, {pooling} pooling, {metric} similarity, texts
up to {length} tokens.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
queries = model.encode(["..."], prompt_name="{task}")
keys = model.encode(["..."], prompt_name="{task}{suffix}")
scores = model.similarity(queries, keys)
```

{default}

Each task has an instruction for its queries and one for its keys. Use the ones of your task, on both sides.

| task | prompt of queries | prompt of keys |
|---|---|---|
{table}

Largest difference between the vectors of zh_embedder and of sentence-transformers on sample texts, every task and side,
fp32: {difference:.1e}. Trained with at most {query_length} tokens of a query and {key_length} of a key;
sentence-transformers knows one maximum, the larger.
"""


@dataclass(frozen=True, slots=True)
class Parity:
    """Largest difference of any component, by prompt name."""

    by_prompt: dict[str, float]

    @property
    def worst(self) -> str:
        """The prompt whose vectors differ most; a NaN is the largest difference."""
        return max(self.by_prompt, key=lambda name: np.nan_to_num(self.by_prompt[name], nan=np.inf))

    @property
    def largest(self) -> float:
        """The largest of all."""
        return self.by_prompt[self.worst]


def parity(encoder: Encoder, folder: Path) -> Parity:
    """Compare our vectors with those that sentence-transformers makes of a folder, every task and side, in fp32."""
    quiet_deepspeed()
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu")
    ours = encoder.to("cpu").eval()
    found: dict[str, float] = {}
    spec = encoder.spec
    texts = within(encoder, SAMPLES)
    tasks: list[str | None] = [*spec.instructions] or [None]
    for task in tasks:
        pairs = (
            (task, ours.encode_queries(texts, task=task, show_progress=False)),
            (f"{task}{KEY_SUFFIX}" if task else None, ours.encode_keys(texts, task=task, show_progress=False)),
        )
        for name, vectors in pairs:
            found[name or "no prompt"] = difference(vectors, theirs.encode(texts, prompt_name=name))
    if "query" in spec.prompts():
        found["encode_query"] = difference(ours.encode_queries(texts, show_progress=False), theirs.encode_query(texts))
        found["encode_document"] = difference(
            ours.encode_keys(texts, show_progress=False), theirs.encode_document(texts)
        )
    return Parity(found)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest absolute difference of any component."""
    return float(np.abs(ours - np.asarray(theirs, np.float32)).max())


def within(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """Shorten texts so that, with any instruction in front, both maximum lengths hold them."""
    prefixes = {"", *(prefix for sides in encoder.spec.instructions.values() for prefix in sides)}
    limit = min(encoder.spec.query_max_length, encoder.spec.key_max_length)

    def fits(text: str) -> bool:
        return all(len(ids) <= limit for ids in tokenize(encoder.tokenizer, [p + text for p in prefixes], limit + 1))

    return [next((text[:end] for end in range(len(text), 1, -1) if fits(text[:end])), text[:1]) for text in texts]


def halve(folder: Path) -> None:
    """Store the weights of a folder as fp16; its configuration goes on saying fp32, in which every reader loads them.

    Raises:
        UserError: a weight is too large for fp16.
    """
    for path in folder.rglob("*.safetensors"):
        weights = {name: weight.half() for name, weight in load_file(path).items()}
        if lost := [name for name, weight in weights.items() if not weight.isfinite().all()]:
            raise UserError(f"--half: {lost[0]} has values that fp16 cannot hold")
        save_file(weights, path, metadata={"format": "pt"})


def export(
    source: str, target: str | Path, *, default_task: str | None = None, overwrite: bool = False, half: bool = False
) -> Parity:
    """Export an encoder and prove that sentence-transformers makes the same vectors from it.

    Args:
        source: folder of a run, a checkpoint or an encoder, or a model that `Encoder.from_pretrained` loads.
        target: the folder to write.
        default_task: whose instructions `encode_query` and `encode_document` use.
        overwrite: replace the target.
        half: store the weights as fp16, which halves the folder; parity is that of the rounded weights.

    Raises:
        UserError: the target is taken, the task is unknown, or a vector differs by more than 1e-4: nothing is written.
    """
    target = Path(target)
    if target.is_file():
        raise UserError(f"{target}: is a file, expected a new folder")
    if target.exists() and any(target.iterdir()):
        if not overwrite:
            raise UserError(f"{target}: is there already, expected a new folder, or --overwrite")
        if not (target / MODULES).is_file():
            raise UserError(f"--overwrite: {target} holds other things than an encoder, expected an earlier export")
    encoder = load_encoder(source, flag="export").to(torch.device("cpu")).eval()
    if default_task is not None:
        if default_task not in encoder.spec.instructions:
            raise unknown_name("--default_task", default_task, encoder.spec.instructions)
        encoder.spec = replace(encoder.spec, default_task=default_task)
    staging = target.with_name(f".{target.name}.checking")
    try:
        encoder.save(staging)
        if half:
            halve(staging)
            encoder = load_encoder(str(staging), flag="export").eval()
        found = parity(encoder, staging)
        if not found.largest <= TOLERANCE:
            raise UserError(
                f"{target}: sentence-transformers differs by {found.largest:.1e} ({found.worst}), more than "
                f"{TOLERANCE}: not exported"
            )
        (staging / "README.md").write_text(card(encoder, target.name, found), "utf-8")
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return found


def card(encoder: Encoder, name: str, found: Parity) -> str:
    """Text of the model card."""
    spec = encoder.spec
    shown = {
        task: [text.replace("\n", "\\n").replace("|", "\\|") for text in sides]
        for task, sides in spec.instructions.items()
    }
    table = "\n".join(f"| {task} | `{query}` | `{key}` |" for task, (query, key) in sorted(shown.items()))
    default = spec.default_task or (next(iter(spec.instructions)) if len(spec.instructions) == 1 else None)
    return CARD.format(
        name=name,
        dimension=encoder.dimension,
        pooling=spec.pooling,
        metric=spec.metric,
        length=max(spec.query_max_length, spec.key_max_length),
        task=default or next(iter(sorted(spec.instructions)), "query"),
        suffix=KEY_SUFFIX,
        default=f"`encode_query` and `encode_document` use the instructions of task `{default}`."
        if default
        else "`encode_query` and `encode_document` have no instruction: no default task was chosen on export.",
        table=table,
        difference=found.largest,
        query_length=spec.query_max_length,
        key_length=spec.key_max_length,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder export`."""
    parser.add_argument("encoder", help="a run, checkpoint or encoder folder")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--default_task", help="task whose instructions encode_query and encode_document use")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    parser.add_argument("--half", action="store_true", help="store the weights in fp16: half the size, loaded as fp32")


def run(args: argparse.Namespace) -> None:
    """Export and say how equal the vectors are; of a run with two encoders, both, each into a folder below."""
    key = key_folder(args.encoder)
    folders = {args.out: args.encoder}
    if key is not None:
        folders = {str(Path(args.out) / "query"): encoder_folder(args.encoder), str(Path(args.out) / "key"): key}
    for out, source in folders.items():
        found = export(source, out, default_task=args.default_task, overwrite=args.overwrite, half=args.half)
        sys.stdout.write(f"exported {out}\n")
        sys.stdout.write(
            f"parity with sentence-transformers: max |diff| {found.largest:.1e} over {len(found.by_prompt)} prompts\n"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m zh_embedder.export ENCODER OUT`."""
    example = "example: python -m zh_embedder.export data/outputs/icl my-embedder --default_task qa"
    parser = argparse.ArgumentParser(prog="python -m zh_embedder.export", description=__doc__, epilog=example)
    add_arguments(parser)
    args = parse_command("export", parser, argv)
    return exit_code(lambda: run(args))
