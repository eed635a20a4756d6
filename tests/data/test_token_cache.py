"""Prepared token ids give the batches that the texts give, bit for bit; they are made once and found by their name."""

import json
import logging
import pickle
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer

from tests.data.test_collator import plain
from zh_embedder.core.errors import UserError
from zh_embedder.core.hashing import text_identity
from zh_embedder.data import token_cache
from zh_embedder.data.collator import Collator, merge
from zh_embedder.data.groups import SelectionRule
from zh_embedder.data.loader import RankBatches
from zh_embedder.data.records import limit_rows, load_datasets, merge_small
from zh_embedder.data.token_cache import TokenTable, file_name, fingerprints, token_table, with_tokens, write_tokens
from zh_embedder.data.train_rows import RowRequest, TrainRows, TrainSet
from zh_embedder.text.tokens import tokenize

SECONDS = 15
DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "train"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tokenizer(tiny_bert):
    return AutoTokenizer.from_pretrained(tiny_bert)


@pytest.fixture
def collator(tokenizer) -> Collator:
    return Collator(tokenizer, query_max_length=24, key_max_length=40)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that a few records fill several blocks; the last one is not full."""
    monkeypatch.setattr(token_cache, "ROWS_PER_BLOCK", 9)


def set_of(records, **changes) -> TrainSet:
    settings = {"rule": SelectionRule(group_size=4), "query_prefix": "问：", "key_prefix": "答：", **changes}
    return TrainSet(records=records, task="qa", **settings)


@pytest.fixture
def written(tmp_path, cache):
    """A dataset of these records."""

    def make(records, name="train.jsonl", **changes) -> TrainSet:
        path = tmp_path / name
        query = {} if "text" in records[0] or "text1" in records[0] else {"query": "问"}
        lines = [json.dumps({**query, "task": "qa", **record}, ensure_ascii=False) for record in records]
        path.write_text("\n".join(lines), "utf-8")
        (dataset,) = load_datasets([path], cache_dir=cache)
        return set_of(dataset, **changes)

    return make


@pytest.fixture
def qa(cache) -> TrainSet:
    (dataset,) = load_datasets([DEMO / "qa.jsonl"], cache_dir=cache)
    return set_of(dataset)


def same_batches(sets, folder: Path, collator, *, mode="epoch", batch_size=8, epochs=2, every=1) -> int:
    """Compare the batches of texts with those of tokens over whole epochs; returns how many there are."""
    with_ids = [
        replace(chosen, tokens=token_table(chosen, folder / f"{i}.arrow", collator)) for i, chosen in enumerate(sets)
    ]
    texts, tokens = TrainRows(sets, seed=5), TrainRows(with_ids, seed=5)
    steps = RankBatches([len(s) for s in sets], mode=mode, batch_size=batch_size, rank=1, ranks=2, seed=5)
    compared = 0
    for epoch in range(epochs):
        steps.set_epoch(epoch)
        for asked in list(steps)[::every]:
            one, other = (collator([rows[request] for request in asked]) for rows in (texts, tokens))
            assert plain(one) == plain(other)
            assert [t.dtype for t in (one.queries.ids, one.keys.ids)] == [
                t.dtype for t in (other.queries.ids, other.keys.ids)
            ]
            compared += 1
    return compared


def test_tokens_know_how_many_are_the_prompts(tokenizer, cache, tmp_path, written):
    """Of each query, its own prompt's; of keys of one text behind two instructions, each its own."""
    records = [
        {"pos": [f"甲{i}"], "neg": ["乙", "丙"], **({"prompt": "自己的指令：" + "长" * (i % 3)} if i % 2 else {})}
        for i in range(20)
    ]
    own, other = written(records), written(records, name="other.jsonl", key_prefix="另一个：")
    for include in ((False, False), (True, False), (False, True)):
        collator = Collator(tokenizer, query_max_length=24, key_max_length=40, include_prompt=include)
        same_batches([own, other], tmp_path / f"{include}", collator, mode=None)
    rows = TrainRows([own], seed=5)
    collator = Collator(tokenizer, query_max_length=24, key_max_length=40, include_prompt=(False, False))
    asked = [RowRequest(0, row, True, 0, (0,), 1) for row in range(20)]
    batch = collator([rows[request] for request in asked])
    texts = [own.query_prompt(own.records[row]) for row in range(20)]
    assert batch.queries.prompts.tolist() == [len(tokenize(tokenizer, [text], 24)[0]) - 1 for text in texts]
    assert batch.keys.prompts.tolist() == [3] * len(batch.keys)  # [CLS] 答 ：
    # The cache serves runs that pool instructions and runs that do not.
    names = {file_name(own, replace_include(collator, include), ("a", "b")) for include in (True, False)}
    assert len(names) == 1


def replace_include(collator: Collator, include: bool) -> Collator:
    return Collator(collator.tokenizer, query_max_length=24, key_max_length=40, include_prompt=(include, include))


def test_keys_of_equal_tokens_behind_different_prompts_are_two(tokenizer):
    ids = np.array([2, 7, 8, 3], np.int32)
    assert merge([ids, ids, ids]) == ([0, 0, 0], [0])
    assert merge([ids, ids, ids], [1, 2, 1]) == ([0, 1, 0], [0, 1])


# ---- equal to the texts ---------------------------------------------------------------------------------------------

RULES = {
    "first": {"group_size": 4},
    "random": {"group_size": 5, "select_positive": "random", "random_negatives": 2},
    "more than there are": {"group_size": 14},
    "one": {"group_size": 1},
}


@pytest.mark.parametrize(
    ("rule", "mode"), [("first", "epoch"), ("random", None), ("more than there are", "random"), ("one", "epoch")]
)
def test_tokens_give_the_batches_of_the_texts(rule, mode, cache, collator, tmp_path):
    datasets = load_datasets([DEMO / f"{task}.jsonl" for task in ("qa", "icl", "tool")], cache_dir=cache)
    sets = [set_of(dataset, rule=SelectionRule(**RULES[rule])) for dataset in datasets]
    assert same_batches(sets, tmp_path, collator, mode=mode) == 42


TEACHER = [
    {"pos": [f"甲{i}", "共同"], "neg": [f"乙{i}", "丙", "丁"], "teacher_scores": [0.5, 0.75, i / 30, 0.25, 1e-3]}
    for i in range(30)
]


@pytest.mark.parametrize("positive", ["first", "random", "teacher-pos", "teacher"])
@pytest.mark.parametrize("negative", ["first", "random", "teacher+", "teacher-"])
def test_teacher_scores_and_their_choices_are_those_of_the_texts(positive, negative, written, collator, tmp_path):
    rule = SelectionRule(group_size=3, select_positive=positive, select_negative=negative, with_teacher=True)
    assert same_batches([written(TEACHER, rule=rule)], tmp_path, collator) == 2


@pytest.mark.parametrize("use_prompts", [True, False])
def test_records_with_a_prompt_history_or_no_negatives(use_prompts, written, collator, tmp_path):
    prompts = [{"query": f"问{i}", "pos": [f"答{i}"], **({"prompt": f"第{i}："} if i % 3 else {})} for i in range(20)]
    history = [{"history": [f"旧{i}", "旧", f"旧{i}"], "teacher_scores": [0.1, 0.3, 0.2 + i]} for i in range(20)]
    drawn = SelectionRule(group_size=3, random_negatives=2, with_teacher=True)  # which these have not
    teacher = SelectionRule(group_size=3, select_positive="teacher", random_negatives=1)
    sets = [
        written(prompts, "a.jsonl", rule=drawn, use_prompts=use_prompts, prompt_format="{}｜{}"),
        written(history, "b.jsonl", rule=teacher, key_prefix=""),
    ]
    assert same_batches(sets, tmp_path, collator, batch_size=4) == 8


def test_pairs_and_labelled_texts(written, collator, tmp_path):
    alone = SelectionRule(group_size=1)
    pairs = [{"text1": f"甲{i}", "text2": "乙", "score": i / 7} for i in range(20)]
    labels = [{"text": f"丙{i}", "label": i % 3} for i in range(20)]
    sets = [written(rows, f"{i}.jsonl", rule=alone) for i, rows in enumerate((pairs, labels))]
    assert same_batches(sets, tmp_path, collator, batch_size=4) == 8


def test_few_records_that_are_repeated_to_fill_a_step(written, collator, tmp_path):
    chosen = written(TEACHER[:5], rule=SelectionRule(group_size=8))
    assert same_batches([chosen], tmp_path, collator, epochs=5) == 5


def test_merged_and_limited_datasets(tmp_path, cache, collator, written):
    names = [tmp_path / "parts" / f"{n}.jsonl" for n in range(3)]
    names[0].parent.mkdir()
    for number, path in enumerate(names):
        lines = [{"query": f"{number}问{i}", "pos": [f"{number}答{i}"], "task": "qa"} for i in range(15)]
        path.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    ((merged,), _) = merge_small(load_datasets(names, cache_dir=cache), small=99, drop=0)
    limited = limit_rows(merged, 31, seed=3)
    assert [len(part.rows) for part in limited.parts] != [15, 15, 15]
    assert same_batches([set_of(merged), set_of(limited)], tmp_path, collator, batch_size=3) == 2 * (7 + 5)


def test_two_tokenizers_and_texts_cut_on_the_left(qa, tiny_bert, tmp_path):
    query, key = AutoTokenizer.from_pretrained(tiny_bert), AutoTokenizer.from_pretrained(tiny_bert)
    key.truncation_side = "left"
    key.add_tokens(["的"], special_tokens=True)
    collator = Collator(query, query_max_length=8, key_max_length=12, key_tokenizer=key)
    assert same_batches([qa], tmp_path, collator, epochs=1) == 7
    table = TokenTable(tmp_path / "0.arrow")
    assert table[3].pos[0].ids.tolist() == tokenize(key, ["答：" + qa.records[3].pos[0]], 12)[0]
    assert table[3].query.tolist() == tokenize(query, ["问：" + qa.records[3].query], 8)[0]


def test_texts_whose_ends_stay_keep_their_instructions(qa, tiny_bert, tmp_path, collator):
    tokenizer, ends = AutoTokenizer.from_pretrained(tiny_bert), replace(qa, sides=("left", "right"))
    short = Collator(tokenizer, query_max_length=8, key_max_length=12)
    assert same_batches([ends, qa], tmp_path, short, epochs=1)
    table, record = TokenTable(tmp_path / "0.arrow"), qa.records[3]
    assert tokenizer.decode(table[3].query).replace(" ", "") == f"[CLS]问：{record.query[-4:]}[SEP]"
    assert table[3].pos[0].ids.tolist() == tokenize(tokenizer, ["答：" + record.pos[0]], 12)[0]


@pytest.mark.real
def test_real_records_of_every_task(real_data, cache, collator, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "ROWS_PER_BLOCK", 512)
    datasets = load_datasets(sorted(real_data.glob("*/*/train.jsonl*")), cache_dir=cache)
    rule = SelectionRule(group_size=8, select_positive="random", random_negatives=2)
    sets = [set_of(limit_rows(dataset, 130, seed=0), rule=rule) for dataset in datasets]
    assert same_batches(sets, tmp_path, collator, epochs=1) == 9 * 8


# ---- the file -------------------------------------------------------------------------------------------------------


def test_a_record_is_read_from_the_map_without_a_copy(qa, collator, tmp_path):
    write_tokens(qa, tmp_path / "a.arrow", collator)
    before = pa.total_allocated_bytes()
    table = TokenTable(tmp_path / "a.arrow")
    records = list(table)
    assert pa.total_allocated_bytes() == before
    assert len(records) == len(table) == 112
    assert not records[0].query.flags.owndata
    assert not records[111].neg[0].ids.flags.writeable
    assert records[50].query.dtype == records[50].pos[0].ids.dtype == "int32"
    assert [key.text for key in records[7].neg] == [text_identity(text) for text in qa.records[7].neg]
    assert [r.query.tolist() for r in table[107:]] == [r.query.tolist() for r in records[107:]]
    with pytest.raises(IndexError):
        table[112]


def test_another_process_gets_the_file_and_not_its_content(qa, collator, tmp_path):
    table = token_table(qa, tmp_path / "a.arrow", collator)
    sent = pickle.dumps(table)
    assert len(sent) < 500
    assert pickle.loads(sent)[99].query.tolist() == table[99].query.tolist()


def test_processes_write_the_same_file_as_one(qa, collator, tmp_path, monkeypatch):
    for count in (1, 3):
        monkeypatch.setattr(token_cache, "processes_for", lambda _, count=count: count)
        write_tokens(qa, tmp_path / f"{count}.arrow", collator)
    assert (tmp_path / "1.arrow").read_bytes() == (tmp_path / "3.arrow").read_bytes()


def test_what_fails_on_the_way_leaves_nothing(qa, collator, tmp_path, monkeypatch):
    made = token_cache.make_block

    def fails(chosen, collator, rows):
        if 50 in rows:
            raise OSError("disk full")
        return made(chosen, collator, rows)

    monkeypatch.setattr(token_cache, "make_block", fails)
    monkeypatch.setattr(token_cache, "processes_for", lambda _: 1)
    with pytest.raises(UserError, match=r"a\.arrow: disk full"):
        token_table(qa, tmp_path / "new" / "a.arrow", collator)
    assert not (tmp_path / "new").exists()


def test_several_that_want_the_same_file_make_it_once(qa, collator, tmp_path, monkeypatch):
    writes, made = [], token_cache.write_tokens
    monkeypatch.setattr(token_cache, "processes_for", lambda _: 1)
    monkeypatch.setattr(token_cache, "write_tokens", lambda *args: (writes.append(args), made(*args)))
    tables = []
    threads = [
        threading.Thread(target=lambda: tables.append(token_table(qa, tmp_path / "a.arrow", collator)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(writes) == 1
    assert [len(table) for table in tables] == [112] * 3
    assert [p.name for p in tmp_path.glob("a.*")] == ["a.arrow"]


# ---- the name -------------------------------------------------------------------------------------------------------


def test_the_name_changes_with_everything_that_decides_the_ids(qa, written, tiny_bert, tokenizer):
    def named(chosen=qa, tokenizer=tokenizer, **options):
        collator = Collator(tokenizer, **{"query_max_length": 24, "key_max_length": 40, **options})
        return file_name(chosen, collator, fingerprints(collator))

    rows = [json.loads(line) for line in (DEMO / "qa.jsonl").open(encoding="utf-8")]
    left, added, whole = (AutoTokenizer.from_pretrained(tiny_bert) for _ in range(3))
    left.truncation_side = "left"
    added.add_tokens(["新词"])
    whole.split_special_tokens = True
    names = [
        named(),
        named(query_max_length=25),
        named(key_max_length=41),
        named(tokenizer=left),
        named(tokenizer=added),
        named(tokenizer=whole),
        named(key_tokenizer=added),
        named(replace(qa, query_prefix="另：")),
        named(replace(qa, key_prefix="")),
        named(replace(qa, use_prompts=False)),
        named(replace(qa, prompt_format="{}: {}")),
        named(replace(qa, sides=("left", None))),
        named(replace(qa, sides=("left", "left"))),
        named(replace(qa, records=limit_rows(qa.records, 50, seed=0))),
        named(replace(qa, records=limit_rows(qa.records, 50, seed=1))),
        named(written([{**row, "query": row["query"] + "吗"} for row in rows])),
    ]
    assert len(set(names)) == len(names)
    # What was tokenised before, and what only selection uses, changes nothing.
    other_rule = replace(qa, task="icl", rule=SelectionRule(group_size=9, select_positive="random"))
    tokenize(tokenizer, ["旧的状态"], 3)
    assert named(other_rule) == names[0]
    assert named(other_rule, tokenizer=AutoTokenizer.from_pretrained(tiny_bert)) == names[0]


def test_a_tokenizer_that_python_code_stands_before_has_no_fingerprint(collator, tiny_bert):
    class Odd(type(collator.tokenizer)):
        def __call__(self, texts, **options):
            return super().__call__([text + "吗" for text in texts], **options)

    odd = Collator(Odd.from_pretrained(tiny_bert), query_max_length=24, key_max_length=40)
    assert fingerprints(odd) is None
    assert (
        fingerprints(Collator(collator.tokenizer, query_max_length=9, key_max_length=9, key_tokenizer=odd.tokenizer))
        is None
    )
    # And it is asked as it wants to be.
    assert [ids.tolist() for ids in odd.key_ids(["今天天气"])] == [
        ids.tolist() for ids in collator.key_ids(["今天天气吗"])
    ]


# ---- when -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def choose(qa, collator, tmp_path, caplog):
    """Whether a dataset got its tokens, and what the log says."""

    def chosen(choice, *sets) -> tuple[list[bool], str]:
        caplog.clear()
        caplog.set_level(logging.INFO, "zh_embedder")
        found = with_tokens(sets or [qa], collator, cache=tmp_path / "tokens", choice=choice, device=CPU)
        return [one.tokens is not None for one in found], caplog.messages[-1]

    return chosen


def test_always_makes_them_and_never_does_not(choose, tmp_path):
    assert choose("never") == ([False], "tokens: made in the loader (--token_cache never)")
    assert not (tmp_path / "tokens").exists()
    assert choose("always") == ([True], "tokens: made before training, 112 records (--token_cache always)")
    said = f"tokens: read from the cache of earlier runs, {tmp_path / 'tokens'} (--token_cache never makes them anew)"
    assert choose("auto") == ([True], said)
    assert choose("never")[0] == [False]  # though they are there


def test_auto_makes_them_where_that_takes_seconds(choose, monkeypatch):
    monkeypatch.setattr(token_cache, "PATIENCE", 0.0)
    made, said = choose("auto")
    assert made == [False]
    assert said.startswith("tokens: made in the loader: all 112 records before step 1 would take about 0 s on ")
    monkeypatch.setattr(token_cache, "PATIENCE", 20.0)
    made, said = choose("auto")
    assert made == [True]
    assert said.startswith("tokens: made before training: 112 records, about 0 s on ")


def test_what_is_there_serves_though_the_rest_would_take_long(choose, qa, monkeypatch):
    choose("always")
    monkeypatch.setattr(token_cache, "PATIENCE", 0.0)
    assert choose("auto", qa, replace(qa, key_prefix="新："))[0] == [True, False]


def test_shuffled_texts_are_tokenised_each_epoch(choose, qa):
    shuffled = replace(qa, rule=SelectionRule(group_size=2, shuffle_ratio=0.5))
    assert choose("always", shuffled)[0] == [False]
    assert "texts are shuffled each epoch" in choose("always", shuffled)[1]
    assert choose("always", shuffled, qa)[0] == [False, True]


def test_the_estimate_is_the_time_of_all_records(qa, collator, monkeypatch):
    times = iter([100.0, 101.5])
    monkeypatch.setattr(token_cache.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(token_cache, "processes_for", lambda _: 3)
    monkeypatch.setattr(token_cache, "SAMPLE", 28)
    assert token_cache.seconds_to_make(qa, collator) == pytest.approx(1.5 * 112 / 28 / 3)
