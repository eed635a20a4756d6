"""The plan by tokens, the rows with their masks, documents held out, and how a batch is laid out."""

import itertools
import pickle

import numpy as np
import pytest
import torch

from zh_embedder.core.errors import UserError
from zh_embedder.pretraining.batches import (
    Surroundings,
    TokenBatches,
    WindowCollator,
    WindowRequest,
    WindowRows,
    hold_out,
    plan_tokens,
    steps_of,
)
from zh_embedder.pretraining.corpus import CorpusRule, load_corpus
from zh_embedder.pretraining.masking import mask_rule

LENGTHS = np.random.default_rng(0).integers(3, 65, size=500)


def parts(plan):
    return [plan.rows[a:b].tolist() for a, b in itertools.pairwise(plan.bounds)]


def plan(lengths=LENGTHS, *, budget=256, ranks=2, seed=7, epoch=0):
    return plan_tokens(lengths, tokens_per_rank=budget, ranks=ranks, seed=seed, epoch=epoch)


def test_an_epoch_has_every_window_once():
    assert sorted(itertools.chain(*parts(plan()))) == list(range(500))


def test_a_part_has_at_most_half_a_window_more_than_its_tokens():
    sizes = [int(LENGTHS[rows].sum()) for rows in parts(plan())]
    assert max(sizes) <= 256 + 32
    assert min(sizes) >= 256 - 2 * 64
    assert np.mean(sizes) == pytest.approx(256, rel=0.03)


def test_a_plan_is_a_function_of_seed_and_epoch_and_always_as_long():
    assert parts(plan()) == parts(plan())
    assert parts(plan()) != parts(plan(epoch=1))
    assert parts(plan()) != parts(plan(seed=8))
    expected = -(-int(LENGTHS.sum()) // 512)
    assert {len(plan(epoch=epoch).bounds) - 1 for epoch in range(20)} == {2 * expected}
    assert steps_of(LENGTHS, 512) == expected


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ranks_share_the_steps_that_one_rank_would_make(ranks):
    alone = parts(plan(budget=240 * ranks, ranks=1))
    together = parts(plan(budget=240, ranks=ranks))
    joined = [list(itertools.chain(*together[first : first + ranks])) for first in range(0, len(together), ranks)]
    assert joined == alone


def requests(*, rank=0, ranks=1, lengths=LENGTHS, budget=256, epoch=0):
    batches = TokenBatches(lengths, tokens_per_rank=budget, rank=rank, ranks=ranks, seed=7)
    batches.set_epoch(epoch)
    found = list(batches)
    assert len(found) == len(batches)
    return found


def test_each_rank_reads_its_part_and_knows_the_step():
    both = [requests(rank=rank, ranks=2) for rank in (0, 1)]
    for step, (mine, theirs) in enumerate(zip(*both, strict=True)):
        rows = [request.row for request in [*mine, *theirs]]
        assert {request.step_rows for request in [*mine, *theirs]} == {tuple(rows)}
        assert rows == list(itertools.chain(*parts(plan())[2 * step : 2 * step + 2]))
        assert {request.epoch for request in mine} == {0}


def test_resuming_is_slicing():
    assert requests(epoch=3)[5:] == list(itertools.islice(requests(epoch=3), 5, None))
    assert requests(epoch=3) != requests(epoch=4)


def test_a_rank_without_a_window_takes_one_that_does_not_count():
    both = [requests(rank=rank, ranks=2, lengths=np.array([40]), budget=64) for rank in (0, 1)]
    assert sorted(step[0].counts for (step,) in both) == [False, True]
    assert {step[0].row for (step,) in both} == {0}


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


@pytest.fixture(scope="module")
def files(tokenizer, tmp_path_factory):
    """Two files of 30 and 10 documents of several windows each."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, count in (("a", 30), ("b", 10)):
        text = "".join(f"{name}第{i}篇。" + "北京大学的学生在图书馆。" * (1 + i % 7) + "\n" for i in range(count))
        (folder / f"{name}.txt").write_text(text, "utf-8")
    paths = [folder / "a.txt", folder / "b.txt"]
    return load_corpus(paths, tokenizer, CorpusRule(limit=30), cache=folder / "cache")


def rows_of(files, tokenizer, *, seed=1, decoder=None, probability=0.3):
    rule = mask_rule(tokenizer, size=len(tokenizer), probability=probability, whole_words=True)
    return WindowRows(files, Surroundings.of(tokenizer), rule, seed=seed, decoder_probability=decoder)


def ask(row, *, epoch=0, counts=True):
    return WindowRequest(epoch, row, counts, (row,))


def test_special_tokens_stand_around_a_text(tokenizer):
    around = Surroundings.of(tokenizer)
    assert around.before.tolist() == [tokenizer.cls_token_id]
    assert around.behind.tolist() == [tokenizer.sep_token_id]
    assert len(around) == 2


def test_a_row_is_its_window_with_special_tokens_around(files, tokenizer):
    rows = rows_of(files, tokenizer)
    assert len(rows) == len(files[0]) + len(files[1])
    for row, file, own in ((0, files[0], 0), (len(files[0]) + 2, files[1], 2)):
        example = rows[ask(row)]
        assert example.ids[1:-1].tolist() == file[own].ids.tolist()
        assert len(example.ids) == rows.lengths()[row]
        restored = example.masked.ids.copy()
        restored[example.masked.places] = example.masked.labels
        assert restored.tolist() == example.ids.tolist()
        assert rows.where(row) == f"{file.path}:{file.lines[own]}"


def test_masks_are_functions_of_seed_epoch_and_row(files, tokenizer):
    rows, again, other = rows_of(files, tokenizer), rows_of(files, tokenizer), rows_of(files, tokenizer, seed=2)
    first = [rows[ask(row)].masked.places.tolist() for row in range(len(rows))]
    assert first == [again[ask(row)].masked.places.tolist() for row in reversed(range(len(rows)))][::-1]
    assert first != [rows[ask(row, epoch=1)].masked.places.tolist() for row in range(len(rows))]
    assert first != [other[ask(row)].masked.places.tolist() for row in range(len(rows))]


def test_documents_are_held_out_whole(files, tokenizer):
    rows = rows_of(files, tokenizer)
    train, out = hold_out(rows, share=0.2, most_tokens=10**6, seed=0)
    assert sorted([*train.chosen, *out.chosen]) == list(range(len(rows)))
    documents = [{rows.where(int(row)) for row in side.chosen} for side in (train, out)]
    assert not documents[0] & documents[1]
    assert len(documents[1]) == 8  # a fifth of 40
    again = hold_out(rows, share=0.2, most_tokens=10**6, seed=0)[1]
    other = hold_out(rows, share=0.2, most_tokens=10**6, seed=1)[1]
    assert out.chosen.tolist() == again.chosen.tolist() != other.chosen.tolist()
    assert train.where(3) == rows.where(int(train.chosen[3]))
    fewer = hold_out(rows, share=0.2, most_tokens=300, seed=0)
    assert set(fewer[1].chosen) < set(out.chosen)
    assert 150 < fewer[1].lengths().sum() <= 300
    assert sorted([*fewer[0].chosen, *fewer[1].chosen]) == list(range(len(rows)))  # the others are trained
    one = hold_out(rows, share=0.2, most_tokens=1, seed=0)[1]
    assert len({one.where(row) for row in range(len(one))}) == 1  # something is always measured


def test_windows_travel_to_another_process_by_name(files):
    sent = pickle.dumps(files[0])
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert np.array_equal(again.ids, files[0].ids)
    assert again.counts == files[0].counts


def test_nothing_is_held_out_where_nobody_asks_and_one_document_cannot_be(files, tokenizer, tmp_path):
    rows = rows_of(files, tokenizer)
    train, out = hold_out(rows, share=0, most_tokens=100, seed=0)
    assert (len(train), len(out)) == (len(rows), 0)
    (tmp_path / "one.txt").write_text("只有一篇。" * 30, "utf-8")
    one = load_corpus([tmp_path / "one.txt"], tokenizer, CorpusRule(limit=30), cache=tmp_path / "cache")
    with pytest.raises(UserError, match="a single document"):
        hold_out(rows_of(one, tokenizer), share=0.1, most_tokens=100, seed=0)


def test_a_chosen_row_has_the_mask_of_its_row_in_the_corpus(files, tokenizer):
    rows = rows_of(files, tokenizer)
    train, _ = hold_out(rows, share=0.2, most_tokens=100, seed=0)
    last = len(train) - 1
    assert train.chosen[last] != last
    example = train[ask(last)]
    assert example.masked.places.tolist() == rows[ask(int(train.chosen[last]))].masked.places.tolist()
    assert example.request.row == last


# ---- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_lays_windows_end_to_end_with_their_labels(files, tokenizer):
    rows = rows_of(files, tokenizer)
    examples = [rows[ask(row)] for row in (3, 0, 11, 5)]
    batch = WindowCollator(rows.rule.hidden)(examples)
    assert list(batch.tokens.sizes) == sorted(batch.tokens.sizes, reverse=True)
    whole = batch.tokens.ids.clone()
    whole[batch.places] = batch.labels
    found = sorted(text.tolist() for text in whole.split(list(batch.tokens.sizes)))
    assert found == sorted(example.ids.tolist() for example in examples)
    assert len(batch.labels) == sum(len(example.masked.places) for example in examples)
    assert batch.whole is batch.visible is batch.decoded is None
    moved = batch.to(torch.device("meta"))
    assert {tensor.device.type for tensor in (moved.places, moved.labels, moved.tokens.ids)} == {"meta"}


def test_a_decoder_predicts_every_word_and_sees_what_was_drawn(files, tokenizer):
    rows = rows_of(files, tokenizer, decoder=0.5)
    examples = [rows[ask(row)] for row in (3, 0, 11)]
    examples.append(rows[ask(5, counts=False)])
    batch = WindowCollator(rows.rule.hidden)(examples)
    ordered = sorted(examples, key=lambda example: -len(example.ids))
    longest = len(ordered[0].ids)
    assert batch.visible.shape == (4, longest, longest)
    for seen, example in zip(batch.visible.numpy(), ordered, strict=True):
        size = len(example.ids)
        assert (seen[:size, :size] == example.visible).all()
        assert not seen[:size, size:].any()
        assert seen[:, 0].all()
    assert batch.whole.tolist() == list(itertools.chain(*(example.ids.tolist() for example in ordered)))
    special = set(tokenizer.all_special_ids)
    owner = np.repeat(np.arange(4), batch.tokens.sizes)
    expected = [
        i for i, token in enumerate(batch.whole.tolist()) if token not in special and ordered[owner[i]].request.counts
    ]
    assert batch.decoded.tolist() == expected


def test_a_window_that_does_not_count_predicts_nothing(files, tokenizer):
    rows = rows_of(files, tokenizer)
    example = rows[ask(4, counts=False)]
    assert len(example.masked.places) == len(example.masked.labels) == 0
    assert len(WindowCollator(rows.rule.hidden)([example]).labels) == 0
