"""A batch is a function of its request: the same texts, instructions and identities in any process and on any rank."""

import json
import os
import pickle
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from zh_embedder.bases.tiny import characters
from zh_embedder.core.hashing import text_identity
from zh_embedder.data.batch import Batch
from zh_embedder.data.collator import Collator
from zh_embedder.data.groups import SelectionRule
from zh_embedder.data.loader import PlanLoader, RankBatches, Waiting, start_worker
from zh_embedder.data.plan import MIXED, epoch_steps, plan_epoch
from zh_embedder.data.records import load_datasets
from zh_embedder.data.train_rows import RowRequest, TrainRows, TrainSet

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "train"
PREFIXES = {"icl": ("例问：", "例答："), "qa": ("问：", "答："), "tool": ("工具：", "")}
MODES = ("epoch", "epoch-static", "epoch-random", "random", None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def sets(cache) -> list[TrainSet]:
    """Three tasks of the bundled records."""
    datasets = load_datasets([DEMO / f"{task}.jsonl" for task in PREFIXES], cache_dir=cache)
    rule = SelectionRule(group_size=4, select_positive="random")
    return [
        TrainSet(records=d, task=d.task, rule=rule, query_prefix=PREFIXES[d.task][0], key_prefix=PREFIXES[d.task][1])
        for d in datasets
    ]


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    return AutoTokenizer.from_pretrained(tiny_bert)


@pytest.fixture
def collator(tokenizer) -> Collator:
    return Collator(tokenizer, query_max_length=48, key_max_length=64)


@pytest.fixture
def one_set(tmp_path, cache):
    """A dataset of these records."""

    def make(*records: dict, query_prefix="", key_prefix="", use_prompts=True, **rule) -> TrainSet:
        path = tmp_path / "train.jsonl"
        query = {} if "text" in records[0] or "text1" in records[0] else {"query": "问"}
        lines = [json.dumps({**query, "task": "qa", **record}, ensure_ascii=False) for record in records]
        path.write_text("\n".join(lines), "utf-8")
        (dataset,) = load_datasets([path], cache_dir=cache)
        rule = SelectionRule(**{"group_size": 3, **rule})
        return TrainSet(
            records=dataset,
            task="qa",
            rule=rule,
            query_prefix=query_prefix,
            key_prefix=key_prefix,
            use_prompts=use_prompts,
        )

    return make


def requests(*rows: int, epoch: int = 0, dataset: int = 0, count: int | None = None) -> list[RowRequest]:
    return [RowRequest(epoch, row, True, dataset, rows, count or len(rows)) for row in rows]


def collated(collator, sets, asked, *, seed: int = 7) -> Batch:
    rows = TrainRows(sets, seed=seed)
    return collator([rows[request] for request in asked])


def plain(batch: Batch) -> dict:
    """Everything in a batch, as comparable values."""
    return {
        "queries": (batch.queries.ids.tolist(), batch.queries.sizes),
        "keys": (batch.keys.ids.tolist(), batch.keys.sizes, batch.key_rows.tolist(), batch.duplicate_tokens),
        "prompts": [None if side.prompts is None else side.prompts.tolist() for side in (batch.queries, batch.keys)],
        "key_texts": batch.key_texts.tolist(),
        "positive_texts": batch.positive_texts.tolist(),
        "counts": batch.counts.tolist(),
        **{
            name: None if getattr(batch, name) is None else getattr(batch, name).tolist()
            for name in ("teacher", "query_texts", "pair_scores", "labels", "answers", "key_answers")
        },
        "step": (batch.dataset, batch.step_rows, batch.step_queries),
    }


def ids_of(tokens) -> list[list[int]]:
    return [ids.tolist() for ids in tokens.ids.split(list(tokens.sizes))]


def keys_of(batch) -> list[list[int]]:
    """Token ids of every key, group by group."""
    distinct = ids_of(batch.keys)
    return [distinct[row] for row in batch.key_rows.tolist()]


def texts_of(tokenizer, tokens) -> list[str]:
    """Texts, decoded from token ids; the tokenizer knows no blanks."""
    decoded = [text.replace(" ", "") for text in tokenizer.batch_decode(ids_of(tokens))]
    return [text.removeprefix("[CLS]").removesuffix("[SEP]") for text in decoded]


# ---- from rows to a batch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["the same object", "a new one", "a pickled one", "after other rows"])
def test_a_batch_is_a_function_of_its_request(collator, sets, again):
    asked = requests(5, 17, 200, epoch=3)
    rows = TrainRows(sets, seed=7)
    first = collator([rows[request] for request in asked])
    if again == "a new one":
        rows = TrainRows(sets, seed=7)
    if again == "a pickled one":
        rows, collator = pickle.loads(pickle.dumps(rows)), pickle.loads(pickle.dumps(collator))
    if again == "after other rows":
        np.random.seed(1)
        torch.manual_seed(1)
        for request in requests(*range(40), epoch=1):
            rows[request]
    assert plain(collator([rows[request] for request in asked])) == plain(first)


@pytest.mark.parametrize("change", [{"seed": 8}, {"epoch": 4}])
def test_another_seed_or_epoch_draws_other_groups_of_the_same_records(collator, sets, change):
    epoch = change.pop("epoch", 3)
    one = collated(collator, sets, requests(5, 17, 200, epoch=3))
    other = collated(collator, sets, requests(5, 17, 200, epoch=epoch), **{"seed": 7, **change})
    assert one.queries.ids.tolist() == other.queries.ids.tolist()
    assert one.key_texts.tolist() != other.key_texts.tolist()


def test_neighbours_in_a_batch_change_nothing(collator, sets):
    together = collated(collator, sets, requests(5, 17, 111))
    for place, row in enumerate((5, 17, 111)):
        alone = collated(collator, sets, requests(row))
        assert alone.key_texts.tolist() == together.key_texts[place * 4 : place * 4 + 4].tolist()
        assert alone.queries.sizes[0] == together.queries.sizes[place]


def test_the_texts_of_a_batch_are_the_records_behind_their_instructions(tokenizer, sets):
    asked = requests(3, 115, 230)  # a row of each dataset: 112 records each
    batch = collated(Collator(tokenizer, query_max_length=512, key_max_length=512), sets, asked)
    assert (batch.group_size, len(batch.queries), len(batch.key_rows)) == (4, 3, 12)
    queries, keys = ids_of(batch.queries), keys_of(batch)
    for place, (chosen, row) in enumerate(zip(sets, (3, 3, 6), strict=True)):
        record, (before_query, before_key) = chosen.records[row], PREFIXES[chosen.task]
        assert queries[place] == tokenizer(before_query + record.query)["input_ids"]
        group = keys[4 * place : 4 * place + 4]
        assert group[0] in tokenizer([before_key + text for text in record.pos])["input_ids"]
        negatives = tokenizer([before_key + text for text in record.neg])["input_ids"]
        assert all(ids in negatives for ids in group[1:])
        assert len({tuple(ids) for ids in group}) == 4


def test_both_sides_are_cut_at_their_own_length(collator, sets):
    batch = collated(collator, sets, requests(*range(112, 140)))  # questions and passages
    assert max(batch.queries.sizes) <= 48
    assert max(batch.keys.sizes) == 64
    longer = Collator(collator.tokenizer, query_max_length=8, key_max_length=512)
    batch = collated(longer, sets, requests(*range(112, 140)))
    assert set(batch.queries.sizes) == {8}
    assert max(batch.keys.sizes) > 64


def test_keys_may_have_a_tokenizer_of_their_own(tokenizer, sets, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {token: index for index, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(alphabet, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    of_bytes = PreTrainedTokenizerFast(tokenizer_object=inner)
    one = collated(Collator(tokenizer, query_max_length=512, key_max_length=9999), sets, requests(3))
    two = collated(
        Collator(tokenizer, query_max_length=512, key_max_length=9999, key_tokenizer=of_bytes), sets, requests(3)
    )
    assert one.queries.ids.tolist() == two.queries.ids.tolist()
    example = TrainRows(sets, seed=7)[requests(3)[0]]
    assert two.keys.sizes == tuple(len(key.encode()) for key in example.keys)


@pytest.mark.parametrize("use_prompts", [True, False])
def test_a_records_own_prompt_replaces_the_tasks_instruction(collator, tokenizer, one_set, use_prompts):
    records = [
        {"query": "一", "pos": ["甲"], "prompt": "自己的："},
        {"query": "二", "pos": ["乙"]},
        {"query": "三", "pos": ["丙"], "prompt": ""},
    ]
    chosen = one_set(*records, query_prefix="任务：", key_prefix="段落：", use_prompts=use_prompts, group_size=1)
    batch = collated(collator, [chosen], requests(0, 1, 2))
    own = ["自己的：一", "任务：二", "三"]
    assert texts_of(tokenizer, batch.queries) == (own if use_prompts else ["任务：一", "任务：二", "任务：三"])
    assert texts_of(tokenizer, batch.keys) == ["段落：甲", "段落：乙", "段落：丙"]  # keys are never touched by it


# ---- identities -----------------------------------------------------------------------------------------------------


def test_a_text_has_one_identity_everywhere():
    assert text_identity("猫") == 2070014464972919452  # on every machine
    assert 0 < text_identity("") < 2**63
    texts = [f"第{i}条" for i in range(20000)]
    assert len({text_identity(text) for text in texts}) == len(texts)
    assert torch.tensor([text_identity(text) for text in texts[:100]]).dtype == torch.int64


def test_keys_with_the_same_text_share_an_identity_across_records_and_datasets(collator, one_set):
    chosen = one_set(
        {"pos": ["共同"], "neg": ["甲", "乙"]},
        {"pos": ["丙"], "neg": ["共同", "甲"]},
        key_prefix="段落：",
        select_negative="first",
    )
    other = replace(chosen, key_prefix="另一种：")
    batch = collated(collator, [chosen, other], requests(0, 1, 2))
    texts = ["共同", "甲", "乙", "丙", "共同", "甲", "共同", "甲", "乙"]
    assert batch.key_texts.tolist() == [text_identity(text) for text in texts]


LONG = "".join(characters()[-150:])  # all different


def test_only_the_positive_is_shuffled_and_it_keeps_its_identity(collator, tokenizer, one_set):
    chosen = one_set({"pos": [LONG], "neg": ["甲"]}, {"pos": ["乙"], "neg": [LONG]}, group_size=2, shuffle_ratio=1.0)
    whole = Collator(tokenizer, query_max_length=512, key_max_length=512)
    batches = [collated(whole, [chosen], requests(0, 1, epoch=epoch)) for epoch in range(30)]
    decoded = [[tokenizer.decode(ids[1:-1]).replace(" ", "") for ids in keys_of(batch)] for batch in batches]
    positives = {texts[0] for texts in decoded}
    assert len(positives) == 6  # every order of the thirds
    assert {"".join(sorted(text)) for text in positives} == {"".join(sorted(LONG))}
    assert {tuple(texts[1:]) for texts in decoded} == {("甲", "乙", LONG)}
    for batch in batches:
        assert batch.key_texts.tolist() == [text_identity(text) for text in (LONG, "甲", "乙", LONG)]
        assert batch.positive_texts[0, 0] == text_identity(LONG)


def test_known_positives_stand_in_rows_filled_with_zeros(collator, one_set):
    chosen = one_set({"pos": ["甲", "乙", "丙"]}, {"pos": ["丁"]}, {"pos": ["戊", "甲", "戊"]}, group_size=1)
    batch = collated(collator, [chosen], requests(0, 1, 2))
    expected = [["甲", "乙", "丙"], ["丁", None, None], ["戊", "甲", None]]
    assert batch.positive_texts.tolist() == [[text_identity(t) if t else 0 for t in row] for row in expected]


def test_the_chosen_positive_is_among_the_known(collator, sets):
    for epoch in range(5):
        batch = collated(collator, sets, requests(*range(30), epoch=epoch))
        assert torch.equal(batch.positive_texts[:, 0], batch.key_texts[:: batch.group_size])
        negatives = batch.key_texts.view(30, -1)[:, 1:]
        assert not (negatives.unsqueeze(2) == batch.positive_texts.unsqueeze(1)).any()


# ---- identical keys ------------------------------------------------------------------------------------------------

TWINS = [
    {"query": "甲", "pos": ["甲"], "neg": ["乙", "丙丁"]},
    {"query": "甲", "pos": ["丙丁"], "neg": ["乙", "戊"]},
]


def test_identical_keys_of_a_step_are_there_once(collator, tokenizer, one_set):
    batch = collated(collator, [one_set(*TWINS, select_negative="first")], requests(0, 1, 0))
    assert texts_of(tokenizer, batch.keys) == ["甲", "乙", "丙丁", "戊"]  # in order of appearance
    assert batch.key_rows.tolist() == [0, 1, 2, 2, 1, 3, 0, 1, 2]
    assert texts_of(tokenizer, batch.queries) == ["甲"] * 3  # merged neither with one another nor with a key
    assert (batch.group_size, batch.texts, batch.duplicates) == (3, 12, 5)
    # [CLS] and [SEP] around each: 丙丁 has 4 tokens, the others 3.
    assert batch.duplicate_tokens == 4 + 3 + 3 + 3 + 4
    assert batch.tokens == 3 * 3 + (3 + 3 + 4 + 3) + 17


def test_texts_that_are_cut_to_the_same_tokens_are_there_once_and_keep_their_identities(tokenizer, one_set):
    chosen = one_set({"pos": ["甲乙丙丁"], "neg": ["甲乙丙戊", "己"]}, select_negative="first")
    batch = collated(Collator(tokenizer, query_max_length=9, key_max_length=5), [chosen], requests(0))
    assert batch.key_rows.tolist() == [0, 0, 1]
    assert batch.key_texts.tolist() == [text_identity(text) for text in ("甲乙丙丁", "甲乙丙戊", "己")]


def test_without_merging_every_key_is_there(tokenizer, one_set):
    chosen = one_set(*TWINS, select_negative="first")
    merged, whole = (
        collated(Collator(tokenizer, query_max_length=9, key_max_length=9, merge_keys=m), [chosen], requests(0, 1, 0))
        for m in (True, False)
    )
    assert keys_of(merged) == ids_of(whole.keys) == keys_of(whole)
    assert (whole.duplicates, whole.duplicate_tokens) == (0, 0)
    assert (whole.texts, whole.tokens) == (merged.texts, merged.tokens)


# ---- teacher and step -----------------------------------------------------------------------------------------------

SCORED = [
    {"pos": ["甲", "乙"], "neg": ["丙", "丁"], "teacher_scores": [4, 3, 2, 1]},
    {"pos": ["戊"], "neg": ["己", "庚"], "teacher_scores": [0.5, 0.25, 0.75]},
]


def test_teacher_scores_stand_beside_their_keys(collator, one_set):
    chosen = one_set(*SCORED, with_teacher=True, select_negative="first")
    batch = collated(collator, [chosen], requests(0, 1))
    assert batch.teacher.tolist() == [[4, 2, 1], [0.5, 0.25, 0.75]]
    assert batch.teacher.dtype == torch.float32


@pytest.mark.parametrize(
    ("records", "with_teacher"),
    [(SCORED, False), ([SCORED[0], {"pos": ["戊"], "neg": ["己"]}], True), ([{"pos": ["戊"]}], True)],
    ids=["not asked", "one without", "none"],
)
def test_there_is_no_teacher_unless_every_record_has_one(collator, one_set, records, with_teacher):
    chosen = one_set(*records, with_teacher=with_teacher)
    assert collated(collator, [chosen], requests(*range(len(records)))).teacher is None


def test_a_batch_carries_what_is_known_of_its_step(collator, sets):
    asked = [RowRequest(0, 3, True, 0, (3, 9, 3, 9), 2), RowRequest(0, 9, False, 0, (3, 9, 3, 9), 2)]
    batch = collated(collator, sets, asked)
    assert batch.counts.tolist() == [True, False]
    assert (batch.dataset, batch.step_rows, batch.step_queries) == (0, (3, 9, 3, 9), 2)


def test_moving_a_batch_moves_every_tensor_and_nothing_else(collator, one_set):
    for with_teacher in (True, False):
        batch = collated(collator, [one_set(*SCORED, with_teacher=with_teacher)], requests(0, 1))
        moved = batch.to(torch.device("meta"))
        tensors = [moved.queries.ids, moved.keys.ids, moved.key_rows, moved.key_texts, moved.positive_texts]
        tensors += [moved.counts]
        tensors += [moved.teacher] if with_teacher else []
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert (moved.teacher is None) is not with_teacher
        assert (moved.queries.sizes, moved.keys.sizes) == (batch.queries.sizes, batch.keys.sizes)
        assert (moved.step_rows, moved.step_queries, moved.group_size) == ((0, 1), 2, 3)


@pytest.mark.parametrize(("row", "expected"), [(0, (0, 0)), (111, (0, 111)), (112, (1, 0)), (335, (2, 111))])
def test_global_rows_run_through_the_datasets(sets, row, expected):
    rows = TrainRows(sets, seed=0)
    assert len(rows) == 336
    assert rows.locate(row) == expected


# ---- ranks ----------------------------------------------------------------------------------------------------------

SIZES = (10, 23, 3)


def steps(*, rank: int = 0, ranks: int = 1, mode="epoch", batch_size: int = 2, epoch: int = 0):
    batches = RankBatches(SIZES, mode=mode, batch_size=batch_size, rank=rank, ranks=ranks, seed=7)
    batches.set_epoch(epoch)
    assert len(list(batches)) == len(batches)
    return list(batches)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("epoch", [0, 1])
def test_two_ranks_share_the_dataset_and_split_the_rows(mode, epoch):
    plan = plan_epoch(SIZES, step_rows=4, mode=mode, seed=7, epoch=epoch)
    both = zip(
        steps(rank=0, ranks=2, mode=mode, epoch=epoch), steps(rank=1, ranks=2, mode=mode, epoch=epoch), strict=True
    )
    for index, (first, second) in enumerate(both):
        step = first + second
        assert {request.dataset for request in step} == {int(plan.datasets[index])}
        assert {request.step_rows for request in step} == {tuple(plan.rows[index].tolist())}
        assert {request.step_queries for request in step} == {int(plan.counts[index].sum())}
        assert {request.epoch for request in step} == {epoch}
        assert [request.row for request in step] == plan.rows[index].tolist()
        assert [request.counts for request in step] == plan.counts[index].tolist()


@pytest.mark.parametrize("mode", MODES)
def test_two_ranks_of_two_read_what_one_of_four_reads(mode):
    together = [
        a + b for a, b in zip(steps(rank=0, ranks=2, mode=mode), steps(rank=1, ranks=2, mode=mode), strict=True)
    ]
    assert together == steps(mode=mode, batch_size=4)


@pytest.mark.parametrize("mode", MODES)
def test_the_length_is_the_number_of_steps_of_every_epoch(mode):
    for epoch in range(3):
        assert len(steps(mode=mode, epoch=epoch)) == epoch_steps(SIZES, step_rows=2, mode=mode)


def test_rows_that_fill_a_step_do_not_count_on_either_rank():
    small = [[r for r in step if r.dataset == 2] for rank in (0, 1) for step in steps(rank=rank, ranks=2)]
    filled = [request for step in small for request in step]
    assert sorted(request.row for request in filled if request.counts) == [33, 34, 35]  # behind 10 + 23
    assert sum(not request.counts for request in filled) == 1  # 3 rows in a step of 4
    assert {request.step_queries for request in filled} == {3}


def test_mixed_steps_have_no_dataset(sets, collator):
    (step, *_) = steps(mode=None, batch_size=8)
    assert {request.dataset for request in step} == {MIXED}
    assert len({TrainRows(sets, seed=0).locate(request.row * 9)[0] for request in step}) > 1


# ---- the loader -----------------------------------------------------------------------------------------------------


def loader(sets, collator, *, workers: int = 0, rank: int = 0) -> PlanLoader:
    batches = RankBatches([len(s) for s in sets], mode="epoch", batch_size=8, rank=rank, ranks=2, seed=7)
    return PlanLoader(TrainRows(sets, seed=7), batch_sampler=batches, collate_fn=collator, num_workers=workers)


def checksums(batches) -> list[int]:
    return [zlib.crc32(repr(plain(batch)).encode()) for batch in batches]


def test_the_loaders_epoch_is_its_plans(sets, collator):
    loading = loader(sets, collator)
    first = checksums(loading)
    assert len(first) == len(loading) == 3 * (112 // 16)
    loading.set_epoch(1)  # of a fresh run
    second = checksums(loading)
    assert set(first).isdisjoint(second)
    loading.batch_sampler.set_epoch(0)  # of a resumed one
    assert checksums(loading) == first


@pytest.mark.slow
def test_workers_change_nothing(sets, collator):
    alone, workers = loader(sets, collator), loader(sets, collator, workers=2)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        workers.set_epoch(epoch)
        torch.manual_seed(epoch)  # nothing is drawn from the global state
        assert [plain(batch) for batch in workers] == [plain(batch) for batch in alone]


def test_a_worker_starts_no_threads_of_tokenizers(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    start_worker(0)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


# ---- waiting --------------------------------------------------------------------------------------------------------


def test_on_the_cpu_every_second_until_a_batch_is_there_is_waiting():
    waiting = Waiting(torch.device("cpu"))
    start = time.perf_counter()
    for _ in range(3):
        with waiting:
            time.sleep(0.02)
    time.sleep(0.1)  # the step
    seconds = waiting.drain()
    assert 0.06 <= seconds < time.perf_counter() - start - 0.1
    assert waiting.drain() == 0


class Device:
    """A device that works off its queue on a clock of its own; `Event` stands for torch's."""

    def __init__(self) -> None:
        self.host = self.busy_until = 0.0

    def event(self, *, enable_timing: bool) -> "Device.Event":
        assert enable_timing
        return self.Event(self)

    class Event:
        def __init__(self, device) -> None:
            self.device, self.synchronized = device, False

        def record(self) -> None:
            self.at = max(self.device.host, self.device.busy_until)

        def elapsed_time(self, other) -> float:
            return 1000 * (other.at - self.at)

        def synchronize(self) -> None:
            self.synchronized = True


def test_on_a_gpu_only_the_time_without_work_is_waiting(monkeypatch):
    device = Device()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    waiting = Waiting(torch.device("cuda"))
    # Host seconds until the next batch is there, seconds of work in the queue before that, and the idle ones of them.
    for until_batch, queued, idle in ((2.0, 5.0, 0.0), (3.0, 1.0, 2.0), (0.5, 0.0, 0.5), (1.0, 1.0, 0.0)):
        device.host = device.busy_until = max(device.host, device.busy_until)
        device.busy_until += queued
        with waiting:
            device.host += until_batch
        last = waiting.gaps[-1]
        assert last[0].elapsed_time(last[1]) == pytest.approx(1000 * idle)
    assert waiting.drain() == pytest.approx(2.5)
    assert last[1].synchronized
    assert (waiting.gaps, waiting.drain()) == ([], 0)


# ---- real data ------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_records_keep_their_text_and_never_take_a_positive_for_a_negative(real_data, cache, tokenizer):
    files = [real_data / "convsearch" / "kdconv" / "train.jsonl.gz", real_data / "tool" / "acebench" / "train.jsonl"]
    files[0] = files[0] if files[0].is_file() else files[0].with_suffix("")
    rule = SelectionRule(group_size=8, select_positive="random", shuffle_ratio=0.5)
    sets = [
        TrainSet(records=d, task=d.task, rule=rule, query_prefix="问：", key_prefix="答：")
        for d in load_datasets(files, cache_dir=cache)
    ]
    whole = Collator(tokenizer, query_max_length=512, key_max_length=512)
    for asked in list(RankBatches([len(s) for s in sets], mode="epoch", batch_size=16, rank=0, ranks=1, seed=1))[:40]:
        batch = collated(whole, sets, asked)
        own = batch.key_texts.view(16, 8)
        for place, request in enumerate(asked):
            dataset, row = TrainRows(sets, seed=1).locate(request.row)
            record = sets[dataset].records[row]
            positives = {text_identity(text) for text in record.pos}
            assert own[place, 0].item() in positives
            assert positives.isdisjoint(own[place, 1:].tolist())
            assert set(batch.positive_texts[place].tolist()) - {0} == positives


def test_a_records_prompt_is_joined_by_the_format_of_the_flags():
    """FlagEmbedding formats a record's own prompt exactly as it formats the global instruction."""
    from zh_embedder.data.groups import SelectionRule
    from zh_embedder.data.records import Record

    train_set = TrainSet(
        records=None,
        task="qa",
        rule=SelectionRule(group_size=1),
        query_prefix="指令：",
        key_prefix="",
        prompt_format="Instruct: {}\\nQuery: {}",
    )
    assert train_set.query_text(Record("问", ["答"], [], None, "找答案")) == "Instruct: 找答案\nQuery: 问"
    assert train_set.query_text(Record("问", ["答"], [])) == "指令：问"


# ---- pairs and labelled texts ---------------------------------------------------------------------------------------


def test_a_pair_is_a_query_with_one_key_and_its_score(collator, tokenizer, one_set):
    rows = [{"text1": f"甲{i}", "text2": f"乙{i}", "score": i / 2} for i in range(3)]
    chosen = one_set(*rows, query_prefix="问：", key_prefix="答：", group_size=1)
    batch = collated(collator, [chosen], requests(2, 0, 1))
    assert texts_of(tokenizer, batch.queries) == ["问：甲2", "问：甲0", "问：甲1"]
    assert texts_of(tokenizer, batch.keys) == ["答：乙2", "答：乙0", "答：乙1"]
    assert batch.pair_scores.tolist() == [1.0, 0.0, 0.5]
    assert batch.labels is None
    assert (batch.group_size, batch.texts, batch.duplicates) == (1, 6, 0)


def test_labelled_texts_are_queries_that_serve_as_each_others_keys(collator, tokenizer, one_set):
    rows = [{"text": text, "label": label} for text, label in (("甲", "喜"), ("乙", 3), ("丙", "喜"), ("甲", "怒"))]
    batch = collated(collator, [one_set(*rows, query_prefix="问：", group_size=1)], requests(0, 1, 2, 3))
    assert texts_of(tokenizer, batch.queries) == ["问：甲", "问：乙", "问：丙", "问：甲"]
    assert len(batch.keys) == 0
    assert batch.key_rows.tolist() == [0, 1, 2, 3]
    first, second, third, fourth = batch.labels.tolist()
    assert first == third
    assert len({first, second, fourth}) == 3
    assert torch.equal(batch.key_texts, batch.query_texts)
    assert batch.key_texts[0] == batch.key_texts[3]
    assert len(set(batch.key_texts.tolist())) == 3
    assert (batch.group_size, batch.texts, batch.duplicates) == (1, 4, 0)
    assert batch.tokens == sum(batch.queries.sizes)
    assert batch.padded_tokens == 4 * max(batch.queries.sizes)
    moved = batch.to(torch.device("meta"))
    assert {t.device.type for t in (moved.labels, moved.query_texts, moved.queries.ids)} == {"meta"}


def test_queries_are_the_same_text_only_with_the_same_instruction(collator, one_set):
    rows = [{"pos": ["答"], "prompt": "甲："}, {"pos": ["答"], "prompt": "乙："}, {"pos": ["答"], "prompt": "甲："}]
    texts = collated(collator, [one_set(*rows, group_size=1)], requests(0, 1, 2)).query_texts.tolist()
    assert texts[0] == texts[2] != texts[1]
