"""Teacher of vectors: a model, folders that `zh-embedder encode` wrote, or both; all is made once, before step 1.

What a model has made lies in the cache, in a folder for each prompt, length and precision. Ranks make a shard each in
turn; what a killed run has finished is kept, and texts that another dataset shares are not encoded again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from zh_embedder.core.counts import counted
from zh_embedder.core.distributed import found_by_first, wait_for_all
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import write_json
from zh_embedder.core.hashing import weights_hash
from zh_embedder.core.progress import Bar
from zh_embedder.core.ranks import world
from zh_embedder.data.teacher_vectors import (
    KEY,
    TeacherVectors,
    Texts,
    TextsOf,
    VectorTable,
    first_side,
    open_table,
    texts_of,
    texts_on,
    write_shard,
)
from zh_embedder.data.train_rows import TrainSet
from zh_embedder.losses.table import learns_vectors
from zh_embedder.models.spec import SYMMETRIC
from zh_embedder.text.prefix import excerpt
from zh_embedder.training.encoded_teacher import is_encoded, open_encoded
from zh_embedder.training.teacher_model import FLAG, TeacherModel, Way

if TYPE_CHECKING:
    from zh_embedder.config.instructions import Version

logger = logging.getLogger(__name__)

SHARD, MOST_SHARDS = 1024, 128  # texts of a shard at least, and shards of a folder that one run adds at most
SIDES = ("queries", "keys")


@dataclass(frozen=True, slots=True)
class OneSide:
    """The texts of one side of some datasets, all of which become vectors in one way."""

    side: int
    sets: Sequence[TrainSet]
    texts: Sequence[TextsOf]  # of each

    def wanted(self) -> Texts:
        """Identities of the texts, each once."""
        return np.unique(
            np.concatenate([on_side(one, own, self.side) for one, own in zip(self.sets, self.texts, strict=True)])
        )

    def read(self, texts: Texts) -> Iterator[tuple[int, str]]:
        """Yield the (identity, text) of some texts, each once, in the order of the records."""
        for one in self.sets:
            seen = []
            for identity, text in texts_on(one.records, self.side, texts):
                seen.append(identity)
                yield identity, text
            texts = np.setdiff1d(texts, np.asarray(seen, np.int64))

    def shards(self, texts: Texts, size: int) -> Iterator[list[tuple[int, str]]]:
        """Yield them by shards."""
        pairs = self.read(texts)
        while shard := list(islice(pairs, size)):
            yield shard

    def describe(self) -> str:
        """Name the side and the datasets."""
        return f"{SIDES[self.side]} of {', '.join(one.records.name for one in self.sets)}"


def too_many(asked: int, dimension: int) -> UserError:
    """Build the error for a --teacher_dim above the size of the vectors."""
    return reject("--teacher_dim", asked, f"at most {dimension}, the dimensions of the teacher's vectors")


def on_side(one: TrainSet, texts: TextsOf, side: int) -> Texts:
    """Identities of a dataset's texts on a side."""
    first = texts.first if side == first_side(one.records) else texts.first[:0]
    return np.concatenate([first, texts.keys]) if side == KEY else first


class Teacher:
    """Where the vectors of texts come from."""

    def __init__(
        self,
        paths: Sequence[str],
        *,
        version: Version | None = None,
        max_length: int | None = None,
        dimension: int | None = None,
        cache: Path,
        device: torch.device,
    ) -> None:
        """Open the folders; the model is loaded where it is needed.

        Args:
            paths: a model, folders that `encode` wrote, or both.
            version: prompts of the model, in place of its folder's.
            max_length: tokens of a text, in place of what its folder says.
            dimension: that vectors are cut to.
            cache: folder of its vectors.
            device: of the model.

        Raises:
            UserError: they do not go together.
        """
        models = [path for path in paths if not is_encoded(path)]
        if len(models) > 1:
            raise UserError(f"{FLAG}: got {' and '.join(models)}, expected one model, and folders that `encode` wrote")
        self.model = None
        if models:
            self.model = TeacherModel(models[0], version=version, max_length=max_length, device=device)
            if dimension is not None and dimension > self.model.dimension:  # before any text is encoded
                raise too_many(dimension, self.model.dimension)
        elif version is not None or max_length is not None:
            name = "--teacher_version" if version is not None else "--teacher_max_length"
            raise UserError(f"{name}: has no effect on vectors that are made already, expected a model as {FLAG}")
        self.encoded = [open_encoded(path, cache) for path in paths if is_encoded(path)]
        self.cut, self.cache = dimension, cache
        self.check_encoded()

    @property
    def name(self) -> str:
        """What was named, as it would be typed."""
        names = [*(str(folder.path) for folder in self.encoded), *([self.model.name] if self.model else [])]
        return " ".join(names)

    def check_encoded(self) -> None:
        """Refuse folders whose vectors different models made."""
        weights = {folder.manifest.weights for folder in self.encoded}
        if self.encoded and self.model is not None:
            weights |= {weights_hash(self.model.load(name).state_dict()) for name in set(self.model.folders)}
        if len(weights) > 1:
            raise UserError(f"{FLAG}: got {self.name}, whose weights differ, expected vectors of one model")

    def tables(self, sets: Sequence[TrainSet]) -> list[tuple[TextsOf, VectorTable, VectorTable]]:
        """Find the vectors of all texts of some datasets, or make them; returns those of first texts and of keys.

        Every rank must call it.
        """
        texts = [texts_of(one.records, self.cache) for one in sets]
        found: dict[tuple[int, int], VectorTable] = {}
        asked: dict[tuple[int, Way | None], list[int]] = {}  # sets whose texts of a side are made in one way
        for index, one in enumerate(sets):
            for side in sorted({first_side(one.records), KEY}):
                if not len(on_side(one, texts[index], side)):
                    found[index, side] = VectorTable([])
                    continue
                way = self.model.way(one.task, side) if self.model is not None else None
                asked.setdefault((side, way), []).append(index)
        for (side, way), indices in asked.items():
            table = self.table(OneSide(side, [sets[i] for i in indices], [texts[i] for i in indices]), way)
            found |= {(index, side): table for index in indices}
        if self.model is None:
            self.warn_of_one_prompt(sets, {index for side, _ in asked if side == KEY for index in asked[side, None]})
        return [(own, found[i, first_side(sets[i].records)], found[i, KEY]) for i, own in enumerate(texts)]

    def warn_of_one_prompt(self, sets: Sequence[TrainSet], with_keys: Set[int]) -> None:
        """Log a warning where vectors that were made behind one prompt serve the queries of a task and its keys."""
        prompts = {folder.manifest.prompt for folder in self.encoded}
        both = [
            one.records.name
            for index, one in enumerate(sets)
            if index in with_keys and first_side(one.records) != KEY and one.task not in SYMMETRIC
        ]
        if len(prompts) == 1 and (prompt := prompts.pop()) and both:
            logger.warning(
                "teacher: all of %s was made with %s in front, and serves queries and keys of %s alike; `zh-embedder "
                "encode --side query` makes those of the queries, in a folder of their own, or name the model as well",
                *(self.name, excerpt(prompt), ", ".join(both)),
            )

    def table(self, asked: OneSide, way: Way | None) -> VectorTable:
        """Find or make the vectors of some texts."""
        wanted = asked.wanted()
        usable = [folder for folder in self.encoded if way is None or folder.manifest.prompt == way.prompt]
        shards = [shard for folder in usable for shard in folder.table.shards]
        given = VectorTable(shards)
        missing = given.lacks(wanted)
        if self.model is not None and way is not None:
            return VectorTable([*shards, *complete(self.model, asked, way, self.cache, missing).shards])
        if len(missing):
            _, example = next(asked.read(missing))
            raise UserError(
                f"{FLAG}: {self.name}: {counted(len(missing), 'text')} among the {asked.describe()} "
                f"{'is' if len(missing) == 1 else 'are'} not there, such as {excerpt(example)}; expected all, or the "
                f"model as well, which makes the others: {FLAG} {self.name} MODEL"
            )
        return given


def complete(model: TeacherModel, asked: OneSide, way: Way, cache: Path, wanted: Texts) -> VectorTable:
    """Return what the cache has of some vectors once each rank has made its share of what it lacks.

    Raises:
        UserError: ranks do not share the cache.
    """
    folder = model.folder(way, cache)
    missing: Texts = found_by_first(lambda: open_table(folder).lacks(wanted))
    name = f"{model.name}, {asked.describe()}, prompt {way.prompt!r}, at most {way.max_length} tokens"
    if not len(missing):
        logger.info("teacher: %s: %s read from %s", name, counted(len(wanted), "vector"), folder)
        return open_table(folder)
    there = f"; {len(wanted) - len(missing)} are there already" * (len(missing) < len(wanted))
    logger.info(
        "teacher: %s: %s to make in %s, kept in %s%s",
        *(name, counted(len(missing), "vector"), model.dtype, folder, there),
    )
    if world()[0] == 0:
        about = {"model": model.name, "prompt": way.prompt, "max_length": way.max_length, "dtype": model.dtype}
        write_json(folder / "about.json", about)
    make(model, asked, way, folder, missing)
    wait_for_all()
    table = open_table(folder)
    if len(lost := table.lacks(wanted)):
        raise UserError(
            f"{folder}: {counted(len(lost), 'vector')} that other ranks made cannot be seen here, expected "
            "--dataset_cache_dir to be a folder that all ranks share"
        )
    return table


def make(model: TeacherModel, asked: OneSide, way: Way, folder: Path, missing: Texts) -> None:
    """Encode texts, and write each shard as soon as it is done; each rank its own shards."""
    rank, ranks = world()
    size = max(SHARD, -(-len(missing) // MOST_SHARDS))
    own = sum(min(size, len(missing) - first) for first in range(rank * size, len(missing), ranks * size))
    started, name = time.monotonic(), "vectors of the teacher" + f", rank {rank} of {ranks}" * (ranks > 1)
    with Bar(own, name=name, shown=rank == 0) as bar:
        for index, shard in enumerate(asked.shards(missing, size)):
            if index % ranks == rank:
                rows = model.encode([text for _, text in shard], way, bar)
                write_shard(folder, np.asarray([identity for identity, _ in shard], np.int64), rows)
    seconds = max(time.monotonic() - started, 1e-9)
    logger.info("teacher: %s in %.1f s: %.0f texts/s", counted(own, "vector"), seconds, own / seconds)


def with_teacher(sets: Sequence[TrainSet], teacher: Teacher) -> tuple[list[TrainSet], int]:
    """Give datasets that learn from a teacher its vectors; returns them with the size of the vectors.

    Every rank must call it.

    Raises:
        UserError: texts have no vector, or --teacher_dim is larger than the teacher's vectors.
    """
    chosen = [one for one in sets if learns_vectors(one.terms)]
    tables = teacher.tables(chosen)
    sizes = {table.dimension for _, *both in tables for table in both if table.dimension is not None}
    if len(sizes) != 1:
        raise UserError(f"{FLAG}: got vectors of {sorted(sizes)} dimensions, expected those of one model")
    (dimension,) = sizes
    if teacher.cut is not None and teacher.cut > dimension:
        raise too_many(teacher.cut, dimension)
    dimension = teacher.cut or dimension
    given = {
        id(one): TeacherVectors(first=own.first, queries=queries, keys=keys, dimension=dimension)
        for one, (own, queries, keys) in zip(chosen, tables, strict=True)
    }
    if teacher.model is not None:
        teacher.model.loaded.clear()  # its memory is the student's from here on
    return [replace(one, teacher=given.get(id(one))) for one in sets], dimension
