"""Mining pipeline: records checked, pools written, encoded and indexed, blocks mined and joined."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from data_tools.mining.audit_page import WARNING, advice, others_note, summary_line, write_audit
from data_tools.mining.blocks import (
    NONE,
    OTHERS,
    SHORT,
    STALE_COUNT,
    BlockContext,
    MiningSettings,
    audited_numbers,
    block_file,
    join_blocks,
    mine_block,
    write_block,
)
from data_tools.mining.false_negatives import CROSS_ENCODER, RULES
from data_tools.mining.finders import WITH_VECTORS, WITH_WORDS, Pool
from data_tools.mining.pools import (
    KEYS,
    STARTS,
    MiningRecord,
    PositiveIndex,
    Texts,
    corpus_texts,
    records_of,
    scan,
    texts_of,
    write_texts,
)
from data_tools.mining.selection import PairScorer
from data_tools.shared.ranks import in_turn, start_ranks
from zh_embedder.core.counts import counted
from zh_embedder.core.distributed import wait_for_all
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import beside_file, missing_parents, partial_of, read_json, remove, remove_empty, write_json
from zh_embedder.core.hashing import files_hashes, model_hash, sha256_of
from zh_embedder.core.machine import prepare
from zh_embedder.core.progress import Bar
from zh_embedder.core.ranks import own_device, world
from zh_embedder.evaluation.model import KEY, Model
from zh_embedder.search.bm25 import K1, B, build_bm25, load_bm25
from zh_embedder.search.encode_files import EncodeOptions, encode_files
from zh_embedder.search.faiss_index import FLAT, build, load_index, make, save_index
from zh_embedder.search.vector_store import SHARD_SIZE, open_vectors

logger = logging.getLogger(__name__)

FORMAT = 2
SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to mine, from what and with what."""

    files: Sequence[Path]
    output: Path
    settings: MiningSettings
    corpus: Sequence[Path] = ()
    model: str | None = None
    instruct: bool = True
    query_prompt: str | None = None
    cross_encoder: str | None = None
    factory: str = FLAT
    words: str = "jieba"
    user_dict: str | None = None
    k1: float = K1
    b: float = B
    dtype: str = "auto"
    shard_size: int = SHARD_SIZE
    audit: int = 100
    work_dir: Path | None = None
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """Where the work is kept until it is done."""
        return self.work_dir or work_folder(self.output)

    @property
    def uses_vectors(self) -> bool:
        """Whether keys are encoded: to be found, or to be judged by their scores."""
        return self.settings.method in WITH_VECTORS or self.settings.limits.scored

    def decides(self) -> dict[str, Any]:
        """All that decides the result."""
        names = ("instruct", "query_prompt", "factory", "words", "k1", "b", "dtype", "shard_size", "audit")
        return {
            "format": FORMAT,
            "files": files_hashes(self.files),
            "corpus": files_hashes(self.corpus),
            "model": self.model and model_hash(self.model),
            "cross_encoder": self.cross_encoder and model_hash(self.cross_encoder),
            "user_dict": self.user_dict and files_hashes([Path(self.user_dict)])[0],
            **{name: getattr(self, name) for name in names},
            **asdict(self.settings),
        }


def work_folder(output: Path) -> Path:
    """Where the work on an output is kept, unless --work_dir says otherwise."""
    return output.with_name(f".{output.name}.mining")


def mine(job: Job) -> None:
    """Mine negatives for all records. All ranks must call this; the first one writes the result.

    Raises:
        UserError: anything that the user can fix.
    """
    first = start_ranks() == 0
    known = scan(job.files, show_progress=first)
    # Whatever can be wrong with the flags comes out before anything is written or encoded.
    model, scorer = load_model(job), load_scorer(job)
    check_search(job, model)
    in_turn(lambda: begin_pools(job, known) if first else None)
    roots = {task: pool_folder(job, number) for number, task in enumerate(known.tasks)}
    folders = {task: vectors_folder(job, roots[task], task, model) for task in known.tasks}
    if model is not None:
        for folder, task in {folder: task for task, folder in folders.items()}.items():
            encode_pool(job, model, task, roots[task], folder)
    in_turn(lambda: build_indexes(job, roots, folders) if first else None)
    pools = {task: open_pool(job, roots[task], folders[task], model) for task in known.tasks}
    tools = BlockContext(
        job.settings,
        known,
        pools,
        audited_numbers(known.records, job.audit, job.settings.seed),
        model,
        scorer,
        job.query_prompt,
    )
    mine_blocks(job, tools)
    wait_for_all()
    if first:
        finish(job, known)
    wait_for_all()


def check_search(job: Job, model: Model | None) -> None:
    """Refuse settings of the search that only its index would notice.

    Raises:
        UserError: words, dictionary, BM25's numbers or the factory are wrong.
    """
    if job.settings.method in WITH_WORDS:
        build_bm25([], words=job.words, dictionary=job.user_dict, k1=job.k1, b=job.b)
    if job.settings.method in WITH_VECTORS and job.factory != FLAT and model is not None:
        make(job.factory, model.query.dimension, model.query.spec.metric)


def start(job: Job) -> None:
    """Take up an earlier run's work, if it was the same.

    Raises:
        UserError: it was another.
    """
    path, now = job.folder / SETTINGS, job.decides()
    if job.overwrite:
        remove_work(job.folder)
    if path.is_file():
        there = read_json(path)
        differences = [
            f"  - {name}: {there.get(name)!r} there, {now[name]!r} now"
            for name in now
            if there.get(name) != as_json(now[name])
        ]
        if differences and any(job.folder.glob("pool-[0-9][0-9]/texts/*")):
            listed = "\n".join(differences)
            raise UserError(f"{job.folder}: holds the work of another run; --overwrite starts anew:\n{listed}")
        if not differences:
            done = len(list((job.folder / "blocks").glob("*.jsonl")))
            logger.info("mine_negatives: continues where an earlier run stopped: %s done", counted(done, "block"))
    write_json(path, now)


def remove_work(folder: Path) -> None:
    """Remove what mining has written into a folder, and nothing else: --work_dir may name one with other things."""
    for path in (folder / "blocks", *folder.glob("pool-[0-9][0-9]")):
        shutil.rmtree(path, ignore_errors=True)
    (folder / SETTINGS).unlink(missing_ok=True)


def as_json(value: object) -> object:
    """Return a value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def finish(job: Job, known: PositiveIndex) -> None:
    """Write the output, the audit and the log."""
    blocks = -(-known.records // job.settings.block)
    counts, entries = join_blocks(job.folder, blocks, job.output)
    summary: dict[str, Any] = {
        "records": counts["records"],
        "taken": counts["taken"],
        "refused": {name: counts[name] for name in (*RULES, "repeated", CROSS_ENCODER) if counts[name]},
        "records_with_fewer": counts[SHORT],
        "records_without_negatives": counts[NONE],
        "records_whose_teacher_scores_went": counts[STALE_COUNT],
        "taken_that_answer_others": counts[OTHERS],
    }
    warning = advice(counts, job.settings)
    if warning:
        summary[WARNING] = warning
    path = job.output.with_name(f"{job.output.name}.audit.html")
    beside_file(path, write_audit(f"{job.output.name}: {job.settings.method}", summary, entries))
    write_json(path.with_suffix(".json"), summary)
    logger.info("mine_negatives: %s", summary_line(summary))
    logger.info("mine_negatives: %s, audit in %s", job.output, path)
    if warning:
        logger.warning("mine_negatives: %s", warning)
    if not job.corpus and (note := others_note(counts)):
        logger.info("mine_negatives: %s", note)
    if job.work_dir is None:
        aside = partial_of(job.folder)  # half of it would pass for the work of an unfinished run
        job.folder.rename(aside)
        remove(aside)


# ---- pools ----------------------------------------------------------------------------------------------------------


def pool_folder(job: Job, number: int) -> Path:
    """Where a task's keys are: a corpus serves all tasks, else each has its own."""
    return job.folder / f"pool-{0 if job.corpus else number:02}"


def begin_pools(job: Job, known: PositiveIndex) -> None:
    """Take up or begin the work, and write the pools; a folder in which no pool could be written goes again."""
    made = missing_parents(job.folder / SETTINGS)
    start(job)
    try:
        write_pools(job, known)
    except BaseException:
        if not any(job.folder.glob(f"pool-[0-9][0-9]/texts/{STARTS}")):
            remove_work(job.folder)
            remove_empty(made)
        raise


def write_pools(job: Job, known: PositiveIndex) -> None:
    """Write the keys of every pool that is not there yet."""
    for number, task in enumerate(known.tasks):
        folder = pool_folder(job, number) / "texts"
        if (folder / STARTS).is_file():
            continue
        where = f"--corpus: {', '.join(map(str, job.corpus))}" if job.corpus else f"task {task}"
        keys = write_texts(folder, corpus_texts(job.corpus) if job.corpus else texts_of(job.files, task), where)
        logger.info(
            "mine_negatives: %s to mine from (%s)", counted(keys, "key"), "corpus" if job.corpus else f"task {task}"
        )


def load_model(job: Job) -> Model | None:
    """Load the model where vectors are used; each rank encodes its own share of the work whole.

    Raises:
        UserError: there is none.
    """
    if not job.uses_vectors:
        return None
    if job.model is None:
        why = "--method" if job.settings.method in WITH_VECTORS else "--margin, --percent: judge by vectors and"
        raise UserError(f"--model: is missing; {why} {job.settings.method} needs one, such as BAAI/bge-large-zh-v1.5")
    prepare(own_device())
    return replace(Model.load(job.model, dtype=job.dtype, instruct=job.instruct), shared=False)


def vectors_folder(job: Job, root: Path, task: str | None, model: Model | None) -> Path:
    """Where the vectors of a task's keys are; tasks with one corpus and one instruction share them."""
    if model is None:
        return root / "vectors"
    end = model.truncation_side(KEY, task)
    prompt = model.side(KEY, task)[1] + ("" if end == "right" else f"\0{end}")
    return root / f"vectors-{sha256_of(prompt.encode())[:8]}"


def encode_pool(job: Job, model: Model, task: str | None, root: Path, folder: Path) -> None:
    """Encode this rank's shards of a pool."""
    encoder, prompt, limit = model.side(KEY, task)
    options = EncodeOptions(
        prompt=prompt,
        side="key",
        max_length=limit,
        truncation_side=model.truncation_side(KEY, task),
        field="text",
        dtype=job.dtype,
        shard_size=job.shard_size,
    )
    encode_files(encoder, [root / "texts" / KEYS], folder, options=options, name=model.name)
    wait_for_all()


def build_indexes(job: Job, roots: Mapping[str | None, Path], folders: Mapping[str | None, Path]) -> None:
    """Build what searches, once: saved, so that a resumed run finds the same keys."""
    if job.settings.method in WITH_WORDS:
        for root in dict.fromkeys(roots.values()):
            if not (root / "bm25").is_dir():
                options = {"words": job.words, "dictionary": job.user_dict, "k1": job.k1, "b": job.b}
                build_bm25(iter(Texts(root / "texts")), show_progress=True, **options).save(root / "bm25")  # type: ignore[arg-type]
    if job.settings.method in WITH_VECTORS and job.factory != FLAT:
        for folder in dict.fromkeys(folders.values()):
            if not folder.with_suffix(".faiss").is_file():
                vectors = open_vectors(folder)
                index = build(vectors, factory=job.factory, metric=vectors.manifest.metric, seed=job.settings.seed)
                save_index(index, folder.with_suffix(".faiss"))


def open_pool(job: Job, root: Path, folder: Path, model: Model | None) -> Pool:
    """Open what is on the disk."""
    dense, indexed = model is not None, job.settings.method in WITH_VECTORS and job.factory != FLAT
    metric = model.query.spec.metric if model is not None else "cos"
    return Pool(
        texts=Texts(root / "texts"),
        vectors=open_vectors(folder) if dense else None,
        index=load_index(folder.with_suffix(".faiss"), metric=metric) if indexed else None,
        bm25=load_bm25(root / "bm25") if job.settings.method in WITH_WORDS else None,
        metric=metric,
    )


def load_scorer(job: Job) -> PairScorer | None:
    """Load the cross-encoder, if one is to check."""
    if job.cross_encoder is None:
        return None
    from zh_embedder.models.cross_encoder import CrossEncoder

    return CrossEncoder.load(job.cross_encoder, dtype=job.dtype, flag="--cross_encoder").scores


# ---- blocks ---------------------------------------------------------------------------------------------------------


def mine_blocks(job: Job, tools: BlockContext) -> None:
    """Mine this rank's blocks that are not there yet."""
    rank, ranks = world()
    with Bar(tools.known.records, shown=rank == 0) as bar:
        for number, records in blocks_of(job):
            path = block_file(job.folder, number)
            if number % ranks == rank and not path.is_file():
                write_block(path, *mine_block(tools, records))
            bar.advance(len(records))


def blocks_of(job: Job) -> Iterator[tuple[int, list[MiningRecord]]]:
    """Cut the records into blocks, in their order."""
    records, number = records_of(job.files), 0
    while some := list(islice(records, job.settings.block)):
        yield number, some
        number += 1
