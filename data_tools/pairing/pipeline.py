"""Pairing pipeline: documents of each file, their pairs, a sample of them, evaluation texts left out."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.pairing.pair_kinds import Pair, Recipe, document_pairs
from data_tools.shared.record_files import write_records
from data_tools.shared.shingles import Shingles, evaluation_shingles
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.numbers import COUNT, SEED
from zh_embedder.core.options import check_numbers, limited
from zh_embedder.core.progress import with_bar
from zh_embedder.data.schema import parse_object
from zh_embedder.data.sources import is_data_file, kind, read_lines
from zh_embedder.data.text_files import TEXT_FILE, Reader
from zh_embedder.text.prefix import field_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOptions:
    """What to make pairs of, and how."""

    corpus: Sequence[Path]
    folder: Path
    recipe: Recipe = Recipe()
    max_pairs: int | None = limited(None, COUNT)  # of each file; None: all
    without: Sequence[str] = ()  # evaluation sets
    shared: int = limited(13, COUNT)  # letters in a row that count as shared with them
    seed: int = limited(0, SEED)
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)

    def targets(self) -> Mapping[Path, Path]:
        """Return the file to write for each file of the corpus.

        Raises:
            UserError: two files have one name, or a target is there already.
        """
        found = {path: self.folder / f"{path.name.split('.')[0]}.jsonl" for path in self.corpus}
        if len(set(found.values())) < len(found):
            raise reject("corpus", ", ".join(path.name for path in found), "files of different names")
        if not self.overwrite and (there := [str(path) for path in found.values() if is_data_file(path)]):
            raise UserError(f"--output_dir: {', '.join(there)}: is there already; --overwrite replaces it")
        return found


def documents(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (where, title, text) of a file's lines.

    Raises:
        UserError: a line is wrong.
    """
    reader, plain = Reader([path]), kind(path) == TEXT_FILE
    for number, line in read_lines(path):
        if line:
            where = f"{path.name}:{number}"
            text = reader.parse(line, f"{path}:{number}", plain=plain)[1]
            title = None if plain else parse_object(str(line), where, '{"text": ...}').get("title")
            yield where, field_text(title, f"{path}:{number}: title"), text


@dataclass(slots=True)
class Reservoir:
    """Reservoir sample: at most `size` of a stream, each with the same chance; all where size is None."""

    size: int | None
    rng: random.Random
    seen: int = 0
    kept: list[tuple[str, Pair]] = field(default_factory=list)

    def add(self, where: str, pair: Pair) -> None:
        """Offer a pair."""
        self.seen += 1
        if self.size is None or len(self.kept) < self.size:
            self.kept.append((where, pair))
        elif (place := self.rng.randrange(self.seen)) < self.size:
            self.kept[place] = where, pair


def make_file(
    path: Path, target: Path, recipe: Recipe, *, seed: int, max_pairs: int | None, forbidden: Shingles | None
) -> int:
    """Make the pairs of one file, leave out what must not be learnt, and write them; returns how many."""
    sample = Reservoir(max_pairs, random.Random(f"{seed} {path.name}"))
    for where, title, text in with_bar(documents(path), name=path.name, unit="texts"):
        for pair in document_pairs(title, text, recipe, random.Random(f"{seed} {where}")):
            sample.add(where, pair)
    sample.rng.shuffle(sample.kept)
    kept = sample.kept if forbidden is None else [one for one in sample.kept if not forbidden.hit(one[1][1:])]
    rows = ({"query": q, "pos": [k], "task": task, "group": where} for where, (task, q, k) in kept)
    count = write_records(target, rows)
    tasks = Counter(task for _, (task, _, _) in kept)
    dropped = f", {len(sample.kept) - count:,} dropped for the evaluation sets" if forbidden else ""
    if not count:
        logger.warning("%s: no pairs: its texts have too few sentences%s", path.name, dropped)
    by_task = ", ".join(f"{task} {number:,}" for task, number in tasks.most_common())
    logger.info(
        "%s: %s found, %d drawn%s: %s", path.name, counted(sample.seen, "pair"), len(sample.kept), dropped, by_task
    )
    return count


def make_pairs(options: PairOptions) -> int:
    """Write the pairs of every file; returns how many.

    Raises:
        UserError: anything that the user can fix.
    """
    targets = options.targets()
    for path in targets:
        if next(documents(path), None) is None:
            raise reject(str(path), "no texts", "a text a line, or JSON Lines with `text`")
    forbidden = evaluation_shingles(options.without, options.shared) if options.without else None
    total = sum(
        make_file(path, target, options.recipe, seed=options.seed, max_pairs=options.max_pairs, forbidden=forbidden)
        for path, target in targets.items()
    )
    logger.info("%s: %s", options.folder, counted(total, "pair"))
    return total
