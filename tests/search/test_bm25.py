"""BM25 is its formula; texts and queries without words find nothing; what is saved is read back."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.means import over_queries
from zh_embedder.evaluation.retrieval_metrics import per_query
from zh_embedder.search.bm25 import K1, B, build_bm25, load_bm25
from zh_embedder.text.words import WORDS

pytest.importorskip("bm25s")

TEXTS = [
    "北京大学在北京", "我在上海交通大学读书", "检索模型把查询和文档编码", "", "文档，文档，文档！", "，。！",
    "北京的天气很好，上海的天气不好", "the BERT model, and the GPT model", "检索",
]  # fmt: skip
QUERIES = ["北京的大学", "文档检索模型", "bert model model", "天气天气", "不存在的字眼啊", "", "？！", "量子"]


def naive(query: str, texts: list[str], cut, k1: float, b: float) -> list[float]:
    """Score of every text, by the formula."""
    counts = [Counter(cut(text)) for text in texts]
    average = sum(map(Counter.total, counts)) / len(texts)
    scores = []
    for count in counts:
        score = 0.0
        for word in cut(query):
            df = sum(word in other for other in counts)
            idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            tf = count[word]
            score += idf * tf / (tf + k1 * (1 - b + b * count.total() / average)) if tf else 0.0
        scores.append(score)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(K1, B), (0.9, 0.4), (2.0, 0.0), (1.2, 1.0)])
@pytest.mark.parametrize("words", WORDS)
def test_scores_are_the_formula(words, k1, b):
    index = build_bm25(iter(TEXTS), words=words, k1=k1, b=b)
    scores, indices = index.search(QUERIES, 100)
    assert scores.shape == indices.shape == (len(QUERIES), len(TEXTS))
    assert (scores.dtype, indices.dtype) == (np.float32, np.int64)
    for query, row, columns in zip(QUERIES, scores, indices, strict=True):
        expected = np.round(naive(query, TEXTS, WORDS[words], k1, b), 7)  # so that equal scores are
        order = [i for i in np.argsort(-expected, kind="stable") if expected[i] > 0]
        assert columns.tolist() == order + [-1] * (len(TEXTS) - len(order))
        np.testing.assert_allclose(row[: len(order)], expected[order], rtol=1e-5)
        assert np.isneginf(row[len(order) :]).all()


def test_a_score_by_hand():
    scores, indices = build_bm25(["甲 乙", "甲 甲 丙 丁"], words="bigram", k1=1.0, b=0.5).search(["甲"], 2)
    idf = math.log(1 + 0.5 / 2.5)  # both texts hold it
    assert indices.tolist() == [[1, 0]]
    np.testing.assert_allclose(scores, [[idf * 2 / (2 + 0.5 + 0.5 * 4 / 3), idf / (1 + 0.5 + 0.5 * 2 / 3)]], rtol=1e-6)


def test_the_defaults_are_llm_embedders():
    assert (K1, B) == (0.82, 0.68)
    one, other = build_bm25(TEXTS), build_bm25(TEXTS, words="jieba", k1=0.82, b=0.68)
    assert np.array_equal(one.search(QUERIES, 3)[0], other.search(QUERIES, 3)[0])


@pytest.mark.parametrize("hits", range(1, 12))
def test_few_hits_are_the_first_of_many_and_equal_scores_go_by_index(hits):
    texts = ["检索 模型", "模型", "检索", "模型"] * 3
    index = build_bm25(texts, words="bigram")
    every, columns = index.search(["检索模型"], 12)
    assert columns[0, :6].tolist() == [0, 4, 8, 2, 6, 10]  # 检索 is rarer
    scores, found = index.search(["检索模型"], hits)
    assert found.tolist() == columns[:, :hits].tolist()
    assert np.array_equal(scores, every[:, :hits])


@pytest.mark.parametrize("texts", [[], ["", "。"]])
def test_keys_without_words_are_never_found(texts, tmp_path):
    index = build_bm25(texts)
    index.save(tmp_path / "index")
    for one in (index, load_bm25(tmp_path / "index")):
        scores, indices = one.search(["检索", ""], 5)
        assert indices.tolist() == [[-1] * len(texts)] * 2
        assert np.isneginf(scores).all()
        assert one.search([], 5)[0].shape == (0, len(texts))


def test_an_index_is_saved_whole_with_its_dictionary_and_read_back(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("凤栖梧桐算法\n", "utf-8")
    texts = [*TEXTS, "凤栖梧桐算法很快", "梧桐"]
    index = build_bm25(texts, dictionary=own)
    index.save(tmp_path / "index")
    own.unlink()
    loaded = load_bm25(tmp_path / "index")
    queries = [*QUERIES, "凤栖梧桐算法", "梧桐"]
    for one, other in zip(index.search(queries, 5), loaded.search(queries, 5), strict=True):
        assert np.array_equal(one, other)
    assert loaded.search(["梧桐"], 2)[1].tolist() == [[len(texts) - 1, -1]]
    assert isinstance(loaded.found.scores["data"], np.memmap)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert not [path for path in (tmp_path / "index").iterdir() if path.suffix not in (".npy", ".json", ".txt")]


def test_a_wrong_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"bm25\.json: is missing, expected a folder with a saved BM25 index"):
        load_bm25(tmp_path)
    build_bm25(TEXTS).save(tmp_path / "index")
    (tmp_path / "index" / "data.csc.index.npy").write_bytes(b"torn")
    with pytest.raises(UserError, match="index: is torn"):
        load_bm25(tmp_path / "index")
    (tmp_path / "index" / "bm25.json").write_text('{"format": 9}')
    with pytest.raises(UserError, match=r"expected the settings of a BM25 index, format 1"):
        load_bm25(tmp_path / "index")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": -1}, "--k1: got -1, expected a number of 0 or more"),
        ({"k1": float("nan")}, "--k1: got nan, expected a number of 0 or more"),
        ({"b": 1.1}, "b: got 1.1, expected a number from 0 to 1"),
        ({"words": "jeba"}, "did you mean 'jieba'?"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(UserError) as error:
        build_bm25(TEXTS, **options)
    assert message in str(error.value)
    with pytest.raises(UserError, match="hits: got 0, expected at least 1"):
        build_bm25(TEXTS).search(QUERIES, 0)


@pytest.mark.real
@pytest.mark.parametrize(("name", "published"), [("tool/acebench", 0.755), ("icl/ewect", 0.307), ("law/stard", 0.502)])
def test_real_sets_give_what_their_table_says(real_data: Path, name, published):
    from zh_embedder.evaluation.read_retrieval import read_retrieval_set

    data = read_retrieval_set(real_data / name)
    index = build_bm25(data.keys.values(), words="bigram", k1=0.9, b=0.4)
    scores, columns = index.search(list(data.queries.values()), 10)
    names = list(data.keys)
    run = {
        query: {names[i]: float(s) for s, i in zip(row, found, strict=True) if i >= 0}
        for query, row, found in zip(data.queries, scores, columns, strict=True)
    }
    assert over_queries(per_query(["ndcg@10"], data.qrels, run))["ndcg@10"] == pytest.approx(
        published, abs=0.04
    )  # its bigrams are not ours to the last comma
