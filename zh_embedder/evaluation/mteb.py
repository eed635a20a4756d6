"""MTEB: the official mteb package on an encoder of ours, each task with the instructions that fit it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from zh_embedder.core.errors import UserError, unknown_name
from zh_embedder.core.hashing import hash_of, weights_hash
from zh_embedder.core.machine import resolve_dtype
from zh_embedder.core.similarity import matrix, pairs, prepared
from zh_embedder.models.encoder import Encoder
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.models.spec import EncoderSpec

logger = logging.getLogger(__name__)

C_MTEB = "MTEB(cmn, v1)"
TWO_SIDED = ("Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking")
RETRIEVAL_TASK, TEXT_TASK = "qa", "sts"  # whose instructions serve queries and keys, and texts that are all of one kind


@dataclass(frozen=True, slots=True)
class Score:
    """What mteb says of one task: its main score, mean of its splits and subsets."""

    task: str
    kind: str  # mteb's type of task
    metric: str
    value: float


# ---- instructions ---------------------------------------------------------------------------------------------------


def our_task(spec: EncoderSpec, name: str, kind: str, chosen: Mapping[str, str]) -> str | None:
    """Return the task of ours whose instructions a task of mteb is measured with; None for no instruction.

    Args:
        spec: of the encoder.
        name: of the task, such as T2Retrieval.
        kind: its type, such as Retrieval.
        chosen: name or type -> task of ours, what the user says; an empty one is no instruction.

    Raises:
        UserError: the encoder knows several tasks, and none of them serves retrieval.
    """
    if not spec.instructions:
        return None
    said = chosen.get(name, chosen.get(kind))
    if said is not None:
        return said or None
    if kind not in TWO_SIDED:  # instructions for retrieval would only disturb them
        return next((task for task in (kind.lower(), TEXT_TASK) if task in spec.instructions), None)
    if spec.default_task or len(spec.instructions) == 1:
        return spec.default_task or next(iter(spec.instructions))
    if RETRIEVAL_TASK in spec.instructions:
        return RETRIEVAL_TASK
    known = ", ".join(sorted(spec.instructions))
    raise UserError(f"--prompts: nothing is said of {kind}, expected {kind}=TASK, TASK being one of {known}")


def read_prompts(given: Sequence[str], spec: EncoderSpec, known: Iterable[str]) -> dict[str, str]:
    """Read `NAME=TASK` of the command line: of which of our tasks the instructions of a name or type are.

    Raises:
        UserError: no `=`, or a name that is not measured, or a task that the encoder does not know.
    """
    chosen = {}
    for text in given:
        name, equals, task = text.partition("=")
        if not equals:
            raise UserError(f"--prompts: got {text!r}, expected NAME=TASK, such as Retrieval=qa (or NAME= for none)")
        if name not in (known := list(known)):
            raise unknown_name("--prompts", name, known)
        if task:
            spec.prefix(task, 0)  # raises where it is not known
        chosen[name] = task
    return chosen


# ---- the encoder that mteb sees --------------------------------------------------------------------------------------


class MtebEncoder:
    """An encoder with the methods that mteb calls; see mteb's `EncoderProtocol`."""

    def __init__(
        self,
        encoder: Encoder,
        key_encoder: Encoder | None = None,
        *,
        name: str = "zh_embedder/encoder",
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        """Wrap an encoder; `prompts` is mteb's name or type of task -> task of ours."""
        import_mteb()
        from mteb.models import ModelMeta

        self.encoder, self.key_encoder = encoder, key_encoder or encoder
        self.prompts = dict(prompts or {})
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name,
                "revision": self.fingerprint(),
                "embed_dim": encoder.dimension,
                "max_tokens": max(encoder.spec.lengths),
                "use_instructions": bool(encoder.spec.instructions),
                "framework": ["PyTorch", "Sentence Transformers"],
            }
        )

    def fingerprint(self) -> str:
        """Say which vectors these are: mteb takes up results of the same name and revision, and weights change."""
        decides = [
            {
                **encoder.spec.to_json(),
                "precision": encoder.precision,
                "prompts": self.prompts,
                "weights": weights_hash(encoder.state_dict()),
            }
            for encoder in dict.fromkeys((self.encoder, self.key_encoder))
        ]
        return hash_of(json.dumps(decides, sort_keys=True, default=str).encode())[:16]

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **_options: Any,
    ) -> NDArray[Any]:
        """Encode batches of {"text": [...]}, (N, D), on the side that the task and `prompt_type` ask for."""
        texts = [text for batch in inputs for text in batch["text"]]
        kind = task_metadata.type
        task = our_task(self.encoder.spec, task_metadata.name, kind, self.prompts)
        side = int(kind in TWO_SIDED and getattr(prompt_type, "value", prompt_type) == "document")
        encoder = self.key_encoder if side else self.encoder
        prompt = "" if task is None else encoder.spec.prefix(task, side)
        limit = encoder.spec.lengths[side] if kind in TWO_SIDED else max(encoder.spec.lengths)
        end = None if task is None else encoder.spec.truncation_side(task, side)
        return encoder.encode(texts, prompt=prompt, max_length=limit, truncation_side=end)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Scores of all pairs in the encoder's metric, (A, D) x (B, D) -> (A, B)."""
        metric = self.encoder.spec.metric
        first, second = (prepared(torch.as_tensor(v), metric) for v in (embeddings1, embeddings2))
        return matrix(first, second, metric)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Scores of each row with its partner in the encoder's metric, (N, D), (N, D) -> (N,)."""
        first, second = (torch.as_tensor(v).cpu().numpy() for v in (embeddings1, embeddings2))
        return torch.from_numpy(pairs(first, second, self.encoder.spec.metric))


# ---- tasks ----------------------------------------------------------------------------------------------------------


def import_mteb() -> Any:
    """Return the package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import mteb
    except ImportError as error:
        raise UserError(f"mteb cannot be imported ({error}): pip install 'zh-embedder[mteb]'") from None
    return mteb


def find_tasks(names: Sequence[str] | None, *, benchmark: str, languages: Sequence[str] | None) -> list[Any]:
    """Return mteb's tasks of these names, or all of the benchmark, with the subsets of these languages.

    Raises:
        UserError: a name or language is not known, or no task has one of the languages.
    """
    mteb = import_mteb()
    try:
        own = {task.metadata.name: task for task in mteb.get_benchmark(benchmark).tasks}
    except KeyError as error:
        raise UserError(f"--benchmark: {error.args[0]}") from None
    tasks = []
    for name in names or own:
        try:
            tasks.append(own.get(name) or mteb.get_task(name))  # the benchmark's own may leave out splits
        except KeyError as error:
            raise UserError(f"--tasks: {error.args[0].removeprefix('KeyError: ')}") from None
    return only_languages(tasks, languages) if languages else tasks


def only_languages(tasks: Sequence[Any], languages: Sequence[str]) -> list[Any]:
    """Return the tasks that have subsets of these languages, with those alone.

    Raises:
        UserError: there is none.
    """
    found, last = [], ""
    for task in tasks:
        try:
            found.append(task.filter_languages(list(languages)))
        except ValueError as error:  # none of the task's subsets, or no code of a language
            last = str(error)
    if not found:
        raise UserError(f"--languages: got {' '.join(languages)}, expected codes of these tasks, such as cmn: {last}")
    if len(found) < len(tasks):
        logger.warning("%d of %d tasks have nothing in %s", len(tasks) - len(found), len(tasks), " ".join(languages))
    return found


def run_tasks(model: MtebEncoder, tasks: Iterable[Any], output: Path) -> tuple[list[Score], dict[str, str]]:
    """Measure a model on tasks, or take up what is there of the same weights.

    Args:
        model: the encoder.
        tasks: of mteb.
        output: folder for mteb's JSON, `results/MODEL/REVISION/TASK.json`.

    Returns:
        Scores, and the name -> reason of tasks whose data could not be had.
    """
    mteb = import_mteb()
    scores, missing = [], {}
    for task in tasks:
        name = task.metadata.name
        try:
            done = mteb.evaluate(model, task, cache=mteb.ResultCache(output), co2_tracker=False)
        except OSError as error:  # no network, no such data set, a cache that is not writable
            missing[name] = str(error).strip().split("\n")[0]
            continue
        value = float(done.task_results[0].get_score())
        scores.append(Score(name, task.metadata.type, task.metadata.main_score, value))
    return scores, missing


def cannot_reach(missing: Mapping[str, str], output: Path) -> UserError:
    """Say which tasks were not measured, and what to do about it."""
    lines = [f"{len(missing)} tasks could not be measured: their data could not be had"]
    lines += [f"  {name}: {reason}" for name, reason in missing.items()]
    first = next(iter(missing))
    lines += [
        f'  - no network? On a machine that has one: python -c "import mteb; mteb.get_task({first!r}).load_data()", '
        "then copy its ~/.cache/huggingface (or what HF_HOME names) here",
        "  - behind a mirror? `export HF_ENDPOINT=https://...`",
        f"  - then start the same command again: what {output} holds is not measured twice",
    ]
    return UserError("\n".join(lines))


# ---- all together ---------------------------------------------------------------------------------------------------


def measure(
    name: str,
    tasks: Sequence[str] | None,
    output: str | Path,
    *,
    benchmark: str = C_MTEB,
    languages: Sequence[str] | None = None,
    prompts: Sequence[str] = (),
    instruct: bool = True,
    dtype: str = "auto",
) -> tuple[list[Score], dict[str, str]]:
    """Measure a model with mteb.

    Args:
        name: a run, a checkpoint, an encoder, or a hub name.
        tasks: mteb's names; None is all of the benchmark.
        output: folder for mteb's JSON.
        benchmark: mteb's name of it.
        languages: only their subsets.
        prompts: `NAME=TASK`, as `read_prompts` reads them.
        instruct: with instructions.
        dtype: precision.

    Returns:
        Scores, and the name -> reason of tasks whose data could not be had.

    Raises:
        UserError: a name that is not known, or a task of mteb that no task of ours is named for.
    """
    resolve_dtype(dtype, torch.device("cpu"), flag="--dtype")
    found = find_tasks(tasks, benchmark=benchmark, languages=languages)
    encoder, key = load(encoder_folder(name, flag="MODEL"), instruct=instruct, dtype=dtype), key_folder(name)
    kinds = dict.fromkeys(task.metadata.type for task in found)
    chosen = read_prompts(prompts, encoder.spec, [*(task.metadata.name for task in found), *kinds])
    for task in found:  # a type that no rule covers is noticed before the first is measured
        our_task(encoder.spec, task.metadata.name, task.metadata.type, chosen)
    parts = [part for part in Path(name).parts if part not in ("/", "..", ".")]
    key_encoder = load(key, instruct=instruct, dtype=dtype) if key else None
    model = MtebEncoder(encoder, key_encoder, name="/".join(parts[-2:]), prompts=chosen)
    return run_tasks(model, found, Path(output))


def load(name: str, *, instruct: bool, dtype: str) -> Encoder:
    """Load an encoder, with its instructions or without."""
    encoder = Encoder.from_pretrained(name, dtype=dtype)
    if not instruct:
        encoder.spec = replace(encoder.spec, instructions={}, default_task=None)
    return encoder
