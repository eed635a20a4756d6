"""Encoder spec: how a folder's vectors are made, how long texts may be, which instructions tasks have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from zh_embedder.bases.fields import Fields, as_text, read_any
from zh_embedder.bases.folder_format import MODULES, read_layout
from zh_embedder.core.errors import UserError, nearest, reject, unknown_name
from zh_embedder.core.similarity import SIMILARITIES
from zh_embedder.models.heads import HEADS
from zh_embedder.models.packing import first_position
from zh_embedder.models.pooling import POOLINGS, WITHOUT_PROMPT
from zh_embedder.text.truncation import SIDES

OUR_FILE = "zh_embedder.json"  # next to the sentence-transformers files: what only we need to know
KEY_SUFFIX = ".key"  # of the prompt of a task's keys
ANY_TASK = "default"  # entry that serves every task without one of its own, as in a version's file
QUERY_PROMPT, KEY_PROMPTS = "query", ("document", "passage", "corpus")  # sentence-transformers' names of either side
SYMMETRIC = ("sts", "classification", "clustering")  # tasks in which neither side is searched in

Instructions = Mapping[str, tuple[str, str]]  # task -> prefixes of its queries and of its keys


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSpec:
    """How vectors are made from the model's states, and with which instructions."""

    pooling: str = "cls"
    include_prompt: bool = True  # pool the tokens of the instruction too
    heads: tuple[str, ...] = ("dense",)
    dense: bool = False  # a linear layer behind the pooling
    normalize: bool = True
    metric: str = "cos"
    query_max_length: int = 256  # tokens in use
    key_max_length: int = 256
    training_lengths: tuple[int, int] | None = None  # of a query and of a key, at which training cut
    default_task: str | None = None
    instructions: Instructions = field(default_factory=dict)
    # task -> (query, key): side that is cut; "default" serves tasks without an entry; None: as the tokenizer cuts
    truncation_sides: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    base: str | None = None  # what the first training began from: a name of the catalogue or of a hub, never a path

    def __post_init__(self) -> None:
        """Refuse a pooling or a head that is not there."""
        if self.pooling not in POOLINGS:
            raise unknown_name("pooling", self.pooling, POOLINGS)
        check_include_prompt("include_prompt", self.include_prompt, self.pooling)
        for name in self.heads:
            if name not in HEADS:
                raise unknown_name("heads", name, HEADS)
        if "dense" not in self.heads:
            raise reject("heads", list(self.heads), "`dense` among them")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON, some only where they say something: older releases read the file then."""
        found = asdict(self)
        plain = {"heads": ("dense",), "include_prompt": True, "training_lengths": None, "truncation_sides": {}}
        plain |= {"base": None}
        return {name: value for name, value in found.items() if name not in plain or value != plain[name]}

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of a query and of a key, in use."""
        return self.query_max_length, self.key_max_length

    @property
    def lengths_in_training(self) -> tuple[int, int]:
        """Tokens of a query and of a key, in training."""
        return self.training_lengths or self.lengths

    def truncation_side(self, task: str | None, side: int) -> str | None:
        """Return which end of a task's texts is cut on a side (0 query, 1 key); None: the tokenizer's."""
        name = task or self.default_task or (next(iter(self.instructions)) if len(self.instructions) == 1 else ANY_TASK)
        return self.truncation_sides.get(name, self.truncation_sides.get(ANY_TASK, (None, None)))[side]

    def prefix(self, task: str | None, side: int) -> str:
        """Return the instruction of a task on a side (0 query, 1 key).

        Raises:
            UserError: the encoder does not know the task, or none was named and it knows several.
        """
        if task is None and self.default_task is None:
            if not self.instructions:
                return ""
            if len(self.instructions) > 1:
                raise UserError(f"task: is missing, expected one of {', '.join(sorted(self.instructions))}")
        name = task or self.default_task or next(iter(self.instructions))
        if name not in self.instructions and ANY_TASK in self.instructions:
            name = ANY_TASK
        if name not in self.instructions:
            raise unknown_name("task", name, self.instructions)
        return self.instructions[name][side]

    def prompts(self) -> dict[str, str]:
        """Prompts of the sentence-transformers folder: `qa`, `qa.key`, ..., `query` and `document`."""
        prompts: dict[str, str] = {}
        for task, (query, key) in self.instructions.items():
            prompts |= {task: query, task + KEY_SUFFIX: key}
        if self.default_task is not None or len(self.instructions) == 1:
            prompts |= {"query": self.prefix(self.default_task, 0), "document": self.prefix(self.default_task, 1)}
        return prompts


def by_default(spec: EncoderSpec, task: str) -> str | None:
    """Say that a task has no instruction of its own, so that a mistyped one is seen; None where it has one, or none."""
    known = spec.instructions
    if not any(any(pair) for pair in known.values()):
        return "no instructions, so the task changes nothing"
    if task in known or ANY_TASK not in known:
        return None
    others = [name for name in known if name != ANY_TASK]
    return f"no instruction of that name, the default is used{nearest(task, others)}"


def check_include_prompt(where: str, include_prompt: bool, pooling: str) -> None:
    """Refuse to leave instructions out of a pooling that takes one token.

    Raises:
        UserError: with the pooling, and what can be done.
    """
    if not include_prompt and pooling not in WITHOUT_PROMPT:
        known = " or ".join(WITHOUT_PROMPT)
        raise reject(
            where,
            False,
            f"True with pooling {pooling}, which takes one token; {known} pooling can leave the prompt's tokens out",
        )


def check_lengths(config: Any, spec: EncoderSpec) -> None:
    """Refuse lengths that the model has no positions for."""
    limit = position_limit(config)
    for lengths in (spec.lengths, spec.lengths_in_training):
        for name, length in zip(("query_max_length", "key_max_length"), lengths, strict=True):
            if limit and length > limit:
                raise reject(f"--{name}", length, f"at most {limit}, the positions of this base")


def in_use(spec: EncoderSpec, config: Any, *, asked: tuple[int, int] | None) -> EncoderSpec:
    """Return the spec with the lengths that a trained encoder is used with: its base's, and no less than in training.

    What is cut in training need not be cut in use.

    Args:
        spec: of the base, with the lengths of training.
        config: of the model.
        asked: tokens of a query and of a key, instead of the base's.

    Raises:
        UserError: the model has no positions for what is asked.
    """
    limit = position_limit(config)
    if asked and limit and max(asked) > limit:
        raise reject("--saved_max_length", max(asked), f"at most {limit}, the positions of this base")
    longest = [max(pair) for pair in zip(spec.lengths, spec.lengths_in_training, strict=True)]
    query, key = asked or longest
    return replace(spec, query_max_length=query, key_max_length=key)


def within_positions(spec: EncoderSpec, config: Any) -> EncoderSpec:
    """Shorten a folder's lengths, or the defaults, to the positions that are there."""
    limit = position_limit(config) or max(spec.query_max_length, spec.key_max_length)
    return replace(
        spec, query_max_length=min(limit, spec.query_max_length), key_max_length=min(limit, spec.key_max_length)
    )


def position_limit(config: Any) -> int | None:
    """Tokens of a text that a model has positions for; None where it has no table of them."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or getattr(config, "position_embedding_type", "absolute") not in (None, "absolute"):
        return None
    return int(positions) - first_position(config)


def read_spec(folder: Path, *, pooling: str | None = None, include_prompt: bool | None = None) -> EncoderSpec | None:
    """What a folder says about pooling, instructions and lengths: our own file, else sentence-transformers' files.

    Args:
        folder: the folder.
        pooling: overrides the folder's.
        include_prompt: overrides the folder's.

    Raises:
        UserError: a newer release has written it, or it makes vectors in a way that we do not have.
    """
    if (folder / OUR_FILE).exists():
        if (folder / MODULES).exists():
            read_any(folder / MODULES)  # says nothing that our file does not, but a copy that was cut short is refused
        return read_own(Fields.read(folder / OUR_FILE))
    layout = read_layout(
        folder, poolings=POOLINGS, without_prompt=WITHOUT_PROMPT, pooling=pooling, include_prompt=include_prompt
    )
    if layout is None:
        return None
    check_include_prompt("--include_prompt", layout.include_prompt, layout.pooling)  # only the flag can be wrong here
    instructions = from_prompts(layout.prompts)
    length = layout.max_length or 512
    return EncoderSpec(
        pooling=layout.pooling,
        include_prompt=layout.include_prompt,
        dense=layout.dense,
        normalize=layout.normalize,
        metric=layout.metric,
        query_max_length=length,
        key_max_length=length,
        default_task=ANY_TASK if ANY_TASK in instructions else None,
        instructions=instructions,
    )


def instructions_for(instructions: Instructions, task: str) -> tuple[str, str] | None:
    """Return the prefixes of a task's queries and keys, else those that serve every task; None where there are none."""
    return instructions.get(task, instructions.get(ANY_TASK))


def from_prompts(prompts: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Turn prompts of sentence-transformers' names into instructions.

    `query` and `document` (or `passage`, or `corpus`) serve every task. A base with a prompt in front of its keys, such
    as E5, saw no text without one: where neither side is searched in, it gets that of queries on both, as its authors
    say. Any other name is that of a task, with `.key` behind it for the keys.

    >>> from_prompts({"query": "query: ", "passage": "passage: "})["sts"]
    ('query: ', 'query: ')
    """
    sides = (QUERY_PROMPT, *KEY_PROMPTS)
    tasks = [name for name in prompts if name not in sides and not name.endswith(KEY_SUFFIX)]
    found = {name: (prompts[name], prompts.get(name + KEY_SUFFIX, "")) for name in tasks}
    if any(name in prompts for name in sides):
        query, key = prompts.get(QUERY_PROMPT, ""), next((p for n in KEY_PROMPTS if (p := prompts.get(n))), "")
        if key:
            found = dict.fromkeys(SYMMETRIC, (query, query)) | found
        found[ANY_TASK] = query, key
    return found


FORMAT = 1  # of our file
OWN_FIELDS = ("pooling", "dense", "normalize", "metric", "query_max_length", "key_max_length", "instructions")


def read_own(own: Fields) -> EncoderSpec:
    """Read our own file.

    Raises:
        UserError: a field is missing or wrong, or a newer release has written it.
    """
    if unknown := own.values.keys() - {f.name for f in fields(EncoderSpec)} - {"format"}:
        raise UserError(f"{own.path}: {', '.join(sorted(unknown))}: written by a newer zh_embedder")
    if (own.whole("format") or FORMAT) > FORMAT:
        raise reject(own.where("format"), own.values["format"], f"{FORMAT}: written by a newer zh_embedder")
    for name in OWN_FIELDS:
        if own.values.get(name) is None:
            raise UserError(f"{own.where(name)}: is missing, expected it in every folder that zh_embedder writes")
    heads = own.values.get("heads", ["dense"])
    if not isinstance(heads, list) or not heads:
        raise reject(own.where("heads"), heads, "a list with `dense` in it")
    if lacking := [str(name) for name in heads if name not in list(HEADS)]:
        raise UserError(
            f"{own.where('heads')}: got {', '.join(lacking)}, expected some of {', '.join(HEADS)}: "
            "a newer zh_embedder wrote this folder, with heads that this one lacks"
        )
    instructions = {}
    for task, sides in own.mapping("instructions").items():
        if not isinstance(sides, list) or len(sides) != 2:
            raise reject(own.where(f"instructions.{task}"), sides, "two texts: in front of queries and of keys")
        query, key = (as_text(own.where(f"instructions.{task}"), side) for side in sides)
        instructions[as_text(own.where("instructions"), task)] = (query, key)
    default = own.text("default_task")
    if default is not None and default not in instructions:
        raise unknown_name(own.where("default_task"), default, instructions)
    pooling = one_of(own, "pooling", POOLINGS)
    include_prompt = own.flag("include_prompt", default=True)
    check_include_prompt(own.where("include_prompt"), include_prompt, pooling)
    return EncoderSpec(
        pooling=pooling,
        include_prompt=include_prompt,
        heads=tuple(heads),
        dense=own.flag("dense", default=False),
        normalize=own.flag("normalize", default=True),
        metric=one_of(own, "metric", SIMILARITIES),
        query_max_length=own.whole("query_max_length") or 0,
        key_max_length=own.whole("key_max_length") or 0,
        training_lengths=training_lengths(own),
        default_task=default,
        instructions=instructions,
        truncation_sides=truncation_sides(own),
        base=own.text("base"),
    )


def training_lengths(own: Fields) -> tuple[int, int] | None:
    """Read the lengths of training; folders of earlier releases, and bases, have none."""
    found = own.values.get("training_lengths")
    if found is None:
        return None
    if not isinstance(found, list) or [type(length) for length in found] != [int, int] or min(found) < 1:
        raise reject(own.where("training_lengths"), found, "two whole numbers, 1 or more: of a query and of a key")
    return found[0], found[1]


def truncation_sides(own: Fields) -> dict[str, tuple[str | None, str | None]]:
    """Read which ends of tasks' texts are cut."""
    found = {}
    for task, sides in own.mapping("truncation_sides").items():
        if not isinstance(sides, list) or len(sides) != 2 or any(side not in (None, *SIDES) for side in sides):
            where = own.where(f"truncation_sides.{task}")
            raise reject(where, sides, f"two of {', '.join(SIDES)} or null: of queries and of keys")
        found[task] = (sides[0], sides[1])
    return found


def one_of(own: Fields, name: str, known: Iterable[str]) -> str:
    """Return a field that must be a name of a table."""
    value, known = own.text(name) or "", list(known)
    if value not in known:
        raise unknown_name(own.where(name), value, known)
    return value
