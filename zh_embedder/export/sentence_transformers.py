"""Export to sentence-transformers: a folder with prompts, a model card and proven parity."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from zh_embedder.bases.catalogue import BASES, OWN
from zh_embedder.bases.folder_format import ENCODER_FILES
from zh_embedder.core.errors import UserError, unknown_name
from zh_embedder.core.files import beside
from zh_embedder.core.outputs import Output, Places, check_outputs
from zh_embedder.core.runtime import quiet_deepspeed
from zh_embedder.export.parity import SAMPLES, Parity, compare_prompts, difference, within
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.models.spec import KEY_SUFFIX

logger = logging.getLogger(__name__)

CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
language: zh
{base_model}tags:
- sentence-transformers
- feature-extraction
- zh_embedder
---

# {name}

A Chinese text embedder trained with zh_embedder: {dimension} dimensions, {pooling} pooling, {metric} similarity, texts
up to {length} tokens.{origin}

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
queries = model.encode(["..."], prompt_name="{task}")
keys = model.encode(["..."], prompt_name="{task}{suffix}")
scores = model.similarity(queries, keys)
```

{default}

{prompt}Each task has an instruction for its queries and one for its keys. Use the ones of your task, on both sides.

| task | prompt of queries | prompt of keys |
|---|---|---|
{table}

Largest difference between the vectors of zh_embedder and of sentence-transformers on sample texts, every task and side,
fp32: {difference:.1e}. {lengths}
"""
LEFT = (
    "sentence-transformers cuts longer texts on one side for all ({side}), prompts included. zh_embedder keeps the "
    "prompt, and of {kept} the end: cut such texts yourself before you encode them."
)
PROMPT_LEFT_OUT = """The model reads the tokens of an instruction, but its mean leaves them out (`include_prompt: false`
in `1_Pooling/config.json`). Pass instructions by `prompt_name` or `prompt`, not as a part of the text, and use a reader
that knows this setting: others, such as text-embeddings-inference, pool all tokens and make other vectors.

"""


def parity(encoder: Encoder, folder: Path) -> Parity:
    """Compare our vectors with those that sentence-transformers makes of a folder, every task and side, in fp32."""
    quiet_deepspeed()
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu")
    ours = encoder.to("cpu").eval()
    found = dict(compare_prompts(ours, lambda texts, name: theirs.encode(texts, prompt_name=name)).by_prompt)
    if "query" in ours.spec.prompts():
        texts = within(ours, SAMPLES)
        found["encode_query"] = difference(ours.encode_queries(texts, show_progress=False), theirs.encode_query(texts))
        found["encode_document"] = difference(
            ours.encode_keys(texts, show_progress=False), theirs.encode_document(texts)
        )
    return Parity(found)


def halve(folder: Path) -> None:
    """Store the weights of a folder as fp16; its configuration still says fp32, in which every reader loads them.

    Raises:
        UserError: a weight is too large for fp16.
    """
    for path in folder.rglob("*.safetensors"):
        weights = {name: weight.half() for name, weight in load_file(path).items()}
        if lost := [name for name, weight in weights.items() if not weight.isfinite().all()]:
            raise UserError(f"--half: {lost[0]} has values that fp16 cannot hold")
        save_file(weights, path, metadata={"format": "pt"})


def check_finite(encoder: Encoder, source: str) -> None:
    """Refuse weights that parity cannot judge: samples touch few rows of an embedding.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    for name, weight in encoder.state_dict().items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise UserError(f"ENCODER: {source}: the weights {name} hold NaN or infinity, expected finite numbers")


def places(source: str, *targets: Path, overwrite: bool) -> Places:
    """Where exports go."""
    found = [
        Output(flag="OUT", path=target, folder=True, earlier="an earlier export", known=ENCODER_FILES)
        for target in targets
    ]
    others = [] if Path(source) in targets else [source]  # an encoder may be exported onto itself
    return Places(found, models=others, overwrite=overwrite)


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
    check_outputs(places(source, target, overwrite=overwrite))
    encoder = load_encoder(source, flag="ENCODER").to(torch.device("cpu")).eval()
    check_finite(encoder, source)
    if default_task is not None:
        if default_task not in encoder.spec.instructions:
            raise unknown_name("--default_task", default_task, encoder.spec.instructions)
        encoder.spec = replace(encoder.spec, default_task=default_task)
    with beside(target) as staging:
        encoder.save(staging)
        if half:
            halve(staging)
            encoder = load_encoder(str(staging), flag="export").eval()
        found = parity(encoder, staging)
        found.check(target, "sentence-transformers")
        if otherwise := cut_otherwise(encoder):
            logger.info("%s: %s", target, otherwise)
        (staging / "README.md").write_text(card(encoder, target.name, found), "utf-8")
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
    base_model, origin = base_words(spec.base)
    return CARD.format(
        name=name,
        base_model=base_model,
        origin=origin,
        dimension=encoder.dimension,
        pooling=spec.pooling,
        metric=spec.metric,
        length=max(spec.lengths),
        task=default or next(iter(sorted(spec.instructions)), "query"),
        suffix=KEY_SUFFIX,
        default=f"`encode_query` and `encode_document` use the instructions of task `{default}`."
        if default
        else "`encode_query` and `encode_document` have no instruction: no default task was chosen on export.",
        prompt="" if spec.include_prompt else PROMPT_LEFT_OUT,
        table=table,
        difference=found.largest,
        lengths=lengths_text(encoder),
    )


def base_words(name: str | None) -> tuple[str, str]:
    """Return the card's line for a hub and its sentence about the base: what it is made of, and under which licence."""
    if name is None:
        return "", ""
    base = BASES.get(name)
    origin = name if base is None else base.origin
    made = "" if base is None or origin in {name, OWN} else f", made of {origin}"
    licence = "" if base is None else f" (licence: {base.licence})"
    line = f"base_model: {json.dumps(origin, ensure_ascii=False)}\n" if "/" in origin else ""
    return line, f" It began as {name}{made}{licence}."


def lengths_text(encoder: Encoder) -> str:
    """Say how long texts were in training and may be in use, and what other readers cut otherwise."""
    (query, key), trained = encoder.spec.lengths, encoder.spec.training_lengths
    found = [f"In use at most {query} tokens of a query and {key} of a key are read"]
    if query != key:
        found[0] += "; sentence-transformers knows one maximum, the larger"
    if trained is not None:
        found.insert(0, f"Trained with at most {trained[0]} tokens of a query and {trained[1]} of a key")
    return ". ".join([*found, *filter(None, [cut_otherwise(encoder)])]).rstrip(".") + "."


def cut_otherwise(encoder: Encoder) -> str | None:
    """Say which long texts sentence-transformers cuts otherwise than we do; None where there are none."""
    spec, usual = encoder.spec, encoder.tokenizer.truncation_side
    kept = [
        f"the {texts} of {task}"
        for task in (*spec.instructions, *(task for task in spec.truncation_sides if task not in spec.instructions))
        for side, texts in enumerate(("queries", "keys"))
        if (spec.truncation_side(task, side) or usual) == "left"
    ]
    return LEFT.format(side=usual, kept=", ".join(kept)) if kept else None
