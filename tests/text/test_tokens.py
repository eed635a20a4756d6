"""Texts end to end and in rows hold the same tokens; a saved tokenizer has the files that older readers want."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from zh_embedder.text.tokens import (
    TokenBatch,
    concatenate,
    fingerprint,
    prompt_tokens,
    save_tokenizer,
    tokenize,
    tokenizer_hash,
    unknown_characters,
    unknown_share,
)

TEXTS = ["猫", "今天天气怎么样？", "请帮我查一下明天上午从北京到上海的高铁。"]


def batch_of(*lengths: int) -> TokenBatch:
    """Texts of these lengths, tokens numbered from 1 through all of them."""
    return TokenBatch.of(torch.arange(1, sum(lengths) + 1), lengths)


def texts_of(batch: TokenBatch) -> list[list[int]]:
    """Token ids of each text, by its length alone."""
    ids = iter(batch.ids.tolist())
    return [[next(ids) for _ in range(size)] for size in batch.sizes]


def assert_whole(batch: TokenBatch) -> None:
    """Bounds and positions are what a loop over the lengths makes of them, in every type that kernels want."""
    bounds, positions = [0], []
    for size in batch.sizes:
        bounds.append(bounds[-1] + size)
        positions += range(size)
    assert (batch.bounds.tolist(), batch.positions.tolist()) == (bounds, positions)
    assert len(batch.ids) == bounds[-1]
    assert (batch.ids.dtype, batch.bounds.dtype, batch.positions.dtype) == (torch.int64, torch.int32, torch.int64)
    assert isinstance(batch.sizes, tuple)
    assert all(type(size) is int for size in batch.sizes)


def rows_one_by_one(batch: TokenBatch, pad_id: int, multiple: int) -> tuple[list, list]:
    """Ids and mask, one text and one token at a time."""
    longest = max(batch.sizes)
    while longest % multiple:
        longest += 1
    ids, mask, start = [], [], 0
    for size in batch.sizes:
        own = batch.ids[start : start + size].tolist()
        fill = longest - size
        ids.append(own + [pad_id] * fill)
        mask.append([1] * size + [0] * fill)
        start += size
    return ids, mask


@pytest.mark.parametrize("multiple", [None, 1, 4, 8])
@pytest.mark.parametrize("lengths", [(3,), (2, 5, 1), (4, 4), (7, 0, 3), (8, 1)])
def test_rows_hold_what_a_loop_puts_there(lengths, multiple):
    batch = batch_of(*lengths)
    ids, mask = batch.padded(-7, multiple=multiple)
    assert (ids.tolist(), mask.tolist()) == rows_one_by_one(batch, -7, multiple or 1)
    assert ids.dtype == batch.ids.dtype
    assert mask.dtype == torch.int64


def test_the_tokens_of_prompts_go_with_their_texts():
    batch = concatenate([[1, 2, 3], [4], [5, 6], [7, 8, 9, 9]], prompts=[2, 0, 1, 3])
    assert (batch.prompts.tolist(), batch.prompts.dtype) == ([2, 0, 1, 3], torch.int32)
    assert batch.piece(1, 3).prompts.tolist() == [0, 1]
    assert [part.prompts.tolist() for part in batch.chunks(3)] == [[2, 0, 1], [3]]
    ordered, place = batch.by_length()
    assert ordered.prompts[place].tolist() == [2, 0, 1, 3]
    assert [texts_of(ordered)[i] for i in place] == [[1, 2, 3], [4], [5, 6], [7, 8, 9, 9]]
    assert batch.to(torch.device("cpu")).prompts.tolist() == [2, 0, 1, 3]
    none = concatenate([[1], [2]])
    assert (none.prompts, none.join(none).prompts, none.by_length()[0].prompts) == (None, None, None)
    assert batch.join(none).prompts.tolist() == [2, 0, 1, 3, 0, 0]
    assert none.join(batch).prompts.tolist() == [0, 0, 2, 0, 1, 3]


def test_the_tokens_of_a_prompt_are_counted_without_a_special_one_at_its_end(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    assert prompt_tokens(tokenizer, "", 512) == 0
    assert prompt_tokens(tokenizer, "为问题：", 512) == 5  # [CLS] too, but not [SEP]
    assert prompt_tokens(tokenizer, "为问题：", 4) == 3  # cut, as the text is


def test_rows_by_hand():
    ids, mask = batch_of(1, 3).padded(0, multiple=4)
    assert ids.tolist() == [[1, 0, 0, 0], [2, 3, 4, 0]]
    assert mask.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [(2,), (5,), (1,), (4,)]),
        (2, [(2, 5), (1, 4)]),
        (3, [(2, 5, 1), (4,)]),
        (4, [(2, 5, 1, 4)]),
        (9, [(2, 5, 1, 4)]),
        (None, [(2, 5, 1, 4)]),
    ],
)
def test_chunks_are_the_texts_in_order(count, sizes):
    batch = batch_of(2, 5, 1, 4)
    chunks = list(batch.chunks(count))
    assert [chunk.sizes for chunk in chunks] == sizes
    for chunk in chunks:
        assert_whole(chunk)
    assert torch.cat([chunk.ids for chunk in chunks]).tolist() == batch.ids.tolist()


def test_texts_lie_end_to_end():
    batch = concatenate([[5, 6], [7], [8, 9, 10]])
    assert batch.ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert batch.ids.dtype == torch.int64
    assert batch.sizes == (2, 1, 3)
    assert len(batch) == 3
    moved = batch.to(torch.device("meta"))
    assert moved.sizes == batch.sizes
    assert {tensor.device.type for tensor in (moved.ids, moved.bounds, moved.positions)} == {"meta"}


LENGTHS = [(3,), (2, 5, 1), (4, 4), (7, 0, 3), (8, 1), (0, 2), (1, 9, 9, 2, 9, 1, 1, 5)]


def test_bounds_and_positions_by_hand():
    batch = TokenBatch.of(torch.tensor([11, 12, 21, 31, 32, 33]), [2, 1, 3])
    assert batch.bounds.tolist() == [0, 2, 3, 6]
    assert batch.positions.tolist() == [0, 1, 0, 0, 1, 2]
    assert batch.sizes == (2, 1, 3)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_bounds_and_positions_are_those_of_a_loop(lengths):
    assert_whole(batch_of(*lengths))
    assert_whole(concatenate(texts_of(batch_of(*lengths))))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_piece_is_the_batch_of_its_texts(lengths):
    batch = batch_of(*lengths)
    for first in range(len(lengths)):
        for last in range(first + 1, len(lengths) + 1):
            piece = batch.piece(first, last)
            assert_whole(piece)
            assert texts_of(piece) == texts_of(batch)[first:last]


@pytest.mark.parametrize("other", LENGTHS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_joined_batches_are_one(lengths, other):
    one, two = batch_of(*lengths), batch_of(*other)
    joined = one.join(two)
    assert_whole(joined)
    assert texts_of(joined) == texts_of(one) + texts_of(two)
    assert len(joined) == len(one) + len(two)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_by_length_the_longest_come_first_and_every_text_is_found_again(lengths):
    batch = batch_of(*lengths)
    ordered, place = batch.by_length()
    assert_whole(ordered)
    assert ordered.sizes == tuple(sorted(lengths, reverse=True))
    found, texts = texts_of(ordered), texts_of(batch)
    assert [found[where] for where in place.tolist()] == texts
    assert found == sorted(texts, key=len, reverse=True)  # texts of one length stay in order


@pytest.mark.parametrize("multiple", [None, 4])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_unpadded_rows_are_the_tokens_again(lengths, multiple):
    batch = batch_of(*lengths)
    ids, _ = batch.padded(-7, multiple=multiple)
    assert torch.equal(batch.unpadded(ids), batch.ids)
    states = torch.stack([ids, ids * 10], dim=2).double()
    assert torch.equal(batch.unpadded(states), torch.stack([batch.ids, batch.ids * 10], dim=1).double())


def test_unpadded_rows_hand_their_gradient_back():
    batch = batch_of(2, 0, 3)
    rows = torch.zeros(3, 4, requires_grad=True)
    batch.unpadded(rows).sum().backward()
    assert rows.grad.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_pinned_batches_are_the_same():
    batch = batch_of(2, 5).pin_memory()
    assert batch.ids.is_pinned()
    assert_whole(batch)


def test_tokens_of_a_text_do_not_depend_on_its_neighbours(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    together = tokenize(tokenizer, TEXTS, 512)
    assert together == [tokenize(tokenizer, [text], 512)[0] for text in TEXTS]
    assert [len(ids) for ids in together] == [len(text) + 2 for text in TEXTS]  # one token a character, [CLS] and [SEP]
    assert tokenizer.decode(together[1]).replace(" ", "") == f"[CLS]{TEXTS[1]}[SEP]"


@pytest.mark.parametrize(("side", "kept"), [("right", "今天天"), ("left", "么样？")])
def test_a_long_text_is_cut_and_keeps_its_special_tokens(tiny_bert, side, kept):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.truncation_side = side
    (ids,) = tokenize(tokenizer, [TEXTS[1]], 5)
    assert tokenizer.decode(ids).replace(" ", "") == f"[CLS]{kept}[SEP]"


def test_a_saved_tokenizer_has_the_files_of_older_releases(tiny_bert, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.truncation_side = "left"
    save_tokenizer(tokenizer, tmp_path)
    lines = (tmp_path / "vocab.txt").read_text("utf-8").split("\n")
    assert lines.pop() == ""
    assert tokenizer.convert_tokens_to_ids(lines) == list(range(len(tokenizer)))  # line i is token i
    assert json.loads((tmp_path / "special_tokens_map.json").read_text("utf-8")) == {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenize(again, TEXTS, 6) == tokenize(tokenizer, TEXTS, 6)


def test_what_was_tokenised_before_leaves_no_trace_in_the_files(tiny_bert, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    save_tokenizer(tokenizer, tmp_path / "fresh")
    tokenize(tokenizer, TEXTS, 5)
    save_tokenizer(tokenizer, tmp_path / "used")
    for path in (tmp_path / "fresh").iterdir():
        assert (tmp_path / "used" / path.name).read_bytes() == path.read_bytes(), path.name
    assert [len(ids) for ids in tokenize(tokenizer, TEXTS, 5)] == [3, 5, 5]  # and saving none on the tokenizer


def test_the_word_list_alone_makes_the_same_tokens(tiny_bert, tmp_path):
    from transformers import BertTokenizerFast

    save_tokenizer(AutoTokenizer.from_pretrained(tiny_bert), tmp_path / "whole")
    older = tmp_path / "older"
    older.mkdir()
    for name in ("vocab.txt", "special_tokens_map.json"):
        (older / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    expected = tokenize(AutoTokenizer.from_pretrained(tiny_bert), TEXTS, 512)
    assert tokenize(BertTokenizerFast.from_pretrained(older), TEXTS, 512) == expected


def test_a_tokenizer_of_bytes_gets_no_word_list(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {token: index for index, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(alphabet, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    save_tokenizer(PreTrainedTokenizerFast(tokenizer_object=inner), tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [len(ids) for ids in tokenize(again, ["猫", "ab"], 512)] == [3, 2]  # UTF-8


def test_a_tokenizer_has_the_same_hashes_after_use(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_bert))
    before = (tokenizer_hash(tokenizer), fingerprint(tokenizer))
    tokenizer(["今天"], truncation=True, padding="max_length", max_length=5)
    assert (tokenizer_hash(tokenizer), fingerprint(tokenizer)) == before
    tokenizer.truncation_side = "left"
    assert tokenizer_hash(tokenizer) != before[0]
    assert fingerprint(tokenizer) != before[1]


# ---- unknown characters ---------------------------------------------------------------------------------------------


def backend_of(model, pre=None, **special):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(model)
    if pre is not None:
        backend.pre_tokenizer = pre
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def without_chinese(kind: str):
    from tokenizers import models, pre_tokenizers

    latin = ["[UNK]", *"abcdefg"]
    words = {piece: place for place, piece in enumerate(latin)}
    if kind == "one unknown piece a character":
        split = pre_tokenizers.Split("", "isolated")
        return backend_of(models.WordLevel(words, unk_token="[UNK]"), split, unk_token="[UNK]")
    if kind == "one unknown piece a sentence":
        words |= {f"##{piece}": len(words) + place for piece, place in words.items() if place}
        return backend_of(models.WordPiece(words, unk_token="[UNK]"), unk_token="[UNK]")
    if kind == "unknown pieces run together":
        return backend_of(models.Unigram([(piece, -1.0) for piece in latin], unk_id=0), unk_token="[UNK]")
    return backend_of(models.BPE({piece: place for piece, place in words.items() if place}, []))  # leaves them out


@pytest.mark.parametrize(
    "kind",
    [
        "one unknown piece a character",
        "one unknown piece a sentence",
        "unknown pieces run together",
        "unknown characters left out",
    ],
)
def test_the_share_of_unknown_characters_is_the_same_however_a_tokenizer_shows_them(kind):
    tokenizer = without_chinese(kind)
    assert unknown_share(tokenizer, ["今天天气怎么样", "abc"]) == 0.7
    assert unknown_share(tokenizer, ["abc", "今天"]) == 0.4
    assert unknown_share(tokenizer, [" \n\u200b"]) == unknown_share(tokenizer, []) == 0
    found, total = unknown_characters(tokenizer, ["今天天气", "abc"])
    assert (found["天"], total) == (2, 7)


def test_a_chinese_tokenizer_knows_chinese_and_not_all_of_it(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    assert unknown_share(tokenizer, TEXTS) == 0
    assert unknown_characters(tokenizer, ["北京𠮷 E\u0301\u200d"])[0] == {"𠮷": 1}
