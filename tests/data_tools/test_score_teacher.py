"""Teachers: as one by one without padding; cached, resumed; prompts and advice."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
import torch

from data_tools.score_teacher import METHODS, main, options_of
from data_tools.teaching.score_cache import Cache, file_of_rank, take_in
from data_tools.teaching.score_summary import advice, histogram
from data_tools.teaching.teachers import (
    PROMPTS,
    TEACHERS,
    Item,
    LanguageModel,
    Reranker,
    TeacherSettings,
    filled,
    read_prompts,
)
from tests.jsonl import write
from tests.processes import finish, forked, start
from zh_embedder.cli import build_parser
from zh_embedder.core.errors import UserError
from zh_embedder.losses.teacher_temperature import entropy_shares
from zh_embedder.models.cross_encoder import batches

RECORDS = [
    {
        "query": "北京有什么好吃的",
        "pos": ["烤鸭"],
        "neg": ["上海的早茶很有名，人也多", "天气"],
        "answers": ["烤鸭", "炸酱面很好"],
    },
    {"query": "天气", "history": ["晴天，适合出门走走看看", "雨"], "answers": ["晴"], "task": "chat"},
    {"query": "一个很长的问题" * 5, "pos": ["很长的段落" * 9], "neg": ["短"], "answers": ["是的"]},
]
ITEMS = [
    Item(r["query"], key, r.get("task"), tuple(r["answers"]))
    for r in RECORDS
    for key in (*r.get("pos", ()), *r.get("neg", ()), *r.get("history", ()))
]


def test_the_flag_names_every_teacher():
    assert set(METHODS) == set(TEACHERS)  # listed twice, so that `--help` imports no model


class Killed(BaseException):
    """What ends a command without a word."""


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


def saved(folder, name, config_name, tokenizer, **options):
    import transformers

    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, config_name)(**{**sizes, "pad_token_id": 0, "initializer_range": 0.3, **options})
    torch.manual_seed(0)
    getattr(transformers, name)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["Bert", "Qwen3"])
def reranker(request, tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("rerankers") / request.param
    name = f"{request.param}ForSequenceClassification"
    grouped = {"num_key_value_heads": 2, "head_dim": 8} if request.param == "Qwen3" else {}
    return saved(folder, name, f"{request.param}Config", tokenizer, intermediate_size=48, num_labels=1, **grouped)


@pytest.fixture(scope="module", params=["Qwen3", "GPT2"])
def language_model(request, tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("models") / request.param
    if request.param == "GPT2":
        no_names = {"bos_token_id": None, "eos_token_id": None}
        return saved(folder, "GPT2LMHeadModel", "GPT2Config", tokenizer, n_embd=32, n_layer=2, n_head=4, **no_names)
    grouped = {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48}
    return saved(folder, "Qwen3ForCausalLM", "Qwen3Config", tokenizer, **grouped)


@pytest.mark.parametrize("tokens", [1, 60, 8192])
def test_a_cross_encoders_scores_are_those_of_each_pair_alone(reranker, tokens, tokenizer):
    from transformers import AutoModelForSequenceClassification

    teacher = Reranker.load(TeacherSettings(model=str(reranker), dtype="fp32", tokens=tokens))
    model = AutoModelForSequenceClassification.from_pretrained(reranker).eval()
    with torch.no_grad():
        alone = [model(**tokenizer(i.query, i.key, return_tensors="pt")).logits.item() for i in ITEMS]
    assert len({round(score, 3) for score in alone}) > 3
    torch.testing.assert_close(teacher.scores(ITEMS), alone, atol=1e-4, rtol=1e-4)


def test_the_padding_side_of_a_tokenizer_changes_no_score(reranker, tmp_path):
    from transformers import AutoTokenizer

    left = tmp_path / "left"
    shutil.copytree(reranker, left)
    AutoTokenizer.from_pretrained(reranker, padding_side="left").save_pretrained(left)
    assert AutoTokenizer.from_pretrained(left).padding_side == "left"
    one, other = (Reranker.load(TeacherSettings(model=str(m), dtype="fp32")).scores(ITEMS) for m in (reranker, left))
    assert one == other


def naive(model, tokenizer, item, reduction):
    """Token after token, one sequence at a time, without padding."""
    best = []
    for answer in item.answers:
        before = read_prompts(PROMPTS)[item.task or "default"].removesuffix("{answer}")
        given = tokenizer(filled(before, item.key, item.query), add_special_tokens=False)["input_ids"]
        wanted = tokenizer(answer, add_special_tokens=False)["input_ids"]
        total = 0.0
        for at, token in enumerate(wanted):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([given + wanted[:at]])).logits[0, -1]
            total += logits.log_softmax(-1)[token].item()
        best.append(total / len(wanted) if reduction == "mean" else total)
    return max(best)


@pytest.mark.parametrize("tokens", [1, 8192])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_language_models_scores_are_those_of_its_answers_token_by_token(language_model, tokens, reduction, tokenizer):
    from transformers import AutoModelForCausalLM

    settings = TeacherSettings(model=str(language_model), dtype="fp32", tokens=tokens, reduction=reduction)
    model = AutoModelForCausalLM.from_pretrained(language_model).eval()
    expected = [naive(model, tokenizer, item, reduction) for item in ITEMS]
    assert len({round(score, 3) for score in expected}) > 3
    torch.testing.assert_close(LanguageModel.load(settings).scores(ITEMS), expected, atol=1e-4, rtol=1e-4)


def test_a_key_that_is_too_long_is_cut_and_query_and_answer_stay(language_model, tokenizer):
    teacher = LanguageModel.load(TeacherSettings(model=str(language_model), dtype="fp32", max_length=30))
    given, wanted = teacher.pieces(Item("问题在此", "长" * 100, "lrlm", ("答案",)), "答案")
    assert len(given) + len(wanted) <= 30
    assert tokenizer.decode(given).replace(" ", "").endswith("长问题在此")
    assert tokenizer.decode(wanted).replace(" ", "") == "答案"


def test_what_texts_hold_is_not_searched_for_slots():
    assert filled("甲{key}乙{query}", "{query}", "问") == "甲{query}乙问"


@pytest.mark.parametrize("text", ["- a", 'qa: "{key}{query}"', 'qa: "{answer}{key}{query}"', "qa: ["])
def test_prompts_that_cannot_work_are_refused(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text, "utf-8")
    with pytest.raises(UserError, match=r"p\.yaml"):
        read_prompts(tmp_path / "p.yaml")


def test_batches_hold_every_text_once_and_no_more_tokens_than_allowed():
    lengths = [3, 9, 1, 7, 7, 2, 30]
    found = list(batches(lengths, 20))
    assert sorted(place for own in found for place in own) == list(range(7))
    assert all(len(own) == 1 or max(lengths[p] for p in own) * len(own) <= 20 for own in found)


# ---- the command ----------------------------------------------------------------------------------------------------


def score(folder, model, *flags, rows=RECORDS):
    source = folder / "in.jsonl"
    write(source, rows)
    words = [str(source), "--output", str(folder / "out.jsonl"), "--model", str(model), "--dtype", "fp32", *flags]
    assert main(words) == 0
    return [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").splitlines()]


def test_an_embedders_scores_are_its_cosines_in_the_order_of_pos_then_neg(tmp_path, tiny_bert, caplog):
    from zh_embedder.models.encoder import Encoder

    found = score(tmp_path, tiny_bert, "--method", "embedder")
    encoder = Encoder.from_pretrained(tiny_bert, dtype="fp32")
    for record, row in zip(RECORDS, found, strict=True):
        keys = [*record.get("pos", []), *record.get("neg", []), *record.get("history", [])]
        cosines = (encoder.encode(keys) @ encoder.encode(record["query"])).tolist()
        assert row["teacher_scores"] == pytest.approx(cosines, abs=1e-5)
        assert {name: row[name] for name in record} == record


def test_what_was_scored_is_not_scored_again_and_another_model_is_another_score(tmp_path, tiny_bert, monkeypatch):
    from data_tools.teaching import teachers

    asked = []
    real = teachers.Embedder.scores
    monkeypatch.setattr(teachers.Embedder, "scores", lambda self, items: asked.append(len(items)) or real(self, items))
    first = score(tmp_path, tiny_bert, "--method", "embedder", "--chunk", "2")
    assert asked == [5, 2]
    assert score(tmp_path, tiny_bert, "--method", "embedder", "--chunk", "1") == first
    assert asked == [5, 2]
    other = tmp_path / "other"
    from zh_embedder.bases.tiny import build

    build(other, hidden=32, layers=2, heads=2, seed=5)
    assert score(tmp_path, other, "--method", "embedder") != first
    assert asked == [5, 2, 7]


def test_a_run_that_breaks_goes_on_where_it_stopped_and_gives_the_same_file(tmp_path, tiny_bert, monkeypatch):
    from data_tools.teaching import teachers

    rows = [{"query": f"问题{i}", "pos": [f"答案{i}" * (i + 1)], "neg": [f"别的{i}"]} for i in range(6)]
    whole = score(tmp_path, tiny_bert, "--method", "embedder", "--chunk", "2", rows=rows)
    (tmp_path / "out.jsonl").unlink()
    (tmp_path / "out.jsonl.scores.sqlite").unlink()
    real, calls = teachers.Embedder.scores, []

    def breaks(self, items):
        calls.append([item.query for item in items])
        if len(calls) == 2:
            raise Killed
        return real(self, items)

    monkeypatch.setattr(teachers.Embedder, "scores", breaks)
    with pytest.raises(Killed):
        score(tmp_path, tiny_bert, "--method", "embedder", "--chunk", "2", rows=rows)
    assert not (tmp_path / "out.jsonl").exists()
    assert score(tmp_path, tiny_bert, "--method", "embedder", "--chunk", "2", rows=rows) == whole
    assert calls[1] == calls[2]  # the first chunk is not asked for again, the second forms the same batch
    assert len(calls) == 4


# ---- ranks ----------------------------------------------------------------------------------------------------------


def repeating(count=40):
    """Records whose queries, and some of whose pairs, come again in later chunks, with texts of many lengths."""
    return [
        {
            "query": f"问题{i % 17}" * (i % 17 % 3 + 1),
            "pos": [f"答案{i % 17}" * (i % 17 % 5 + 1)],
            "neg": [f"别的{i % 11}" * (i % 11 + 1), f"段落{i}"],
        }
        for i in range(count)
    ]


def command(folder, model, name):
    source = folder / "in.jsonl"
    write(source, repeating())
    flags = ["--method", "embedder", "--model", model, "--dtype", "fp32", "--chunk", "4"]
    return ["-m", "data_tools.score_teacher", source, "--output", folder / name, *flags]


def test_every_rank_scores_its_chunks_in_the_batches_of_a_single_process(tmp_path, tiny_bert, monkeypatch):
    from data_tools.teaching import pipeline, teachers

    asked = []
    real = teachers.Embedder.scores
    monkeypatch.setattr(teachers.Embedder, "scores", lambda self, items: asked.append(items) or real(self, items))
    words = [str(word) for word in command(tmp_path, tiny_bert, "one.jsonl")[2:]]
    assert main(words) == 0
    alone, batches_of = asked.copy(), []
    options = options_of(build_parser("score").parse_args(words))
    teacher = teachers.Embedder.load(TeacherSettings(model=str(tiny_bert), dtype="fp32"))
    for rank in (1, 0, 2):  # in any order: they know nothing of each other
        asked.clear()
        monkeypatch.setattr(pipeline, "world", lambda rank=rank: (rank, 3))
        cache = Cache(tmp_path / f"rank{rank}")
        pipeline.score_share(options.files, teacher, "id", cache, options)
        batches_of.append((rank, asked.copy()))
        cache.close()
    own = dict(batches_of)
    assert [own[number % 3][number // 3] for number in range(10)] == alone
    assert sum(map(len, alone)) < 3 * 40  # some pairs do come again


def test_scores_that_ranks_left_are_taken_over_once(tmp_path):
    kept = tmp_path / "scores.sqlite"
    for rank, scores in enumerate([{b"a": 1.0}, {b"b": 2.0, b"c": 3.0}]):
        own = Cache(file_of_rank(kept, rank), older=None)
        own.put(scores)
        own.close()
    assert take_in(kept) == 3
    assert take_in(kept) == 0
    reading = Cache(file_of_rank(kept, 0), older=kept)
    reading.put({b"a": 5.0})
    assert reading.get([b"a", b"b", b"d"]) == {b"a": 5.0, b"b": 2.0}
    reading.close()


@pytest.mark.slow
def test_two_ranks_of_which_one_was_killed_write_what_one_process_does(tmp_path, tiny_bert, monkeypatch):
    from data_tools.teaching import pipeline, teachers

    one = [str(word) for word in command(tmp_path, tiny_bert, "one.jsonl")[2:]]
    assert main(one) == 0
    # Rank 1 of a first run dies in its third chunk.
    two = [str(word) for word in command(tmp_path, tiny_bert, "two.jsonl")]
    kept, real, calls = tmp_path / "two.jsonl.scores.sqlite", teachers.Embedder.scores, []

    def dies(self, items):
        calls.append(len(items))
        if len(calls) == 3:
            raise Killed
        return real(self, items)

    Cache(kept).close()
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(teachers.Embedder, "scores", dies)
        patched.setattr(pipeline, "world", lambda: (1, 2))
        patched.setattr(pipeline, "start_ranks", lambda: 1)
        main(two[2:])
    assert file_of_rank(kept, 1).is_file()
    assert f"{sum(calls[:2])} scores kept" in finish(start([*forked(2), *two], tmp_path))
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert sorted(p.name for p in tmp_path.glob("two*")) == ["two.jsonl", "two.jsonl.scores.sqlite"]


def test_old_scores_go_and_answers_are_asked_for(tmp_path, tiny_bert, capsys):
    rows = [{**RECORDS[0], "pos_scores": [1.0], "neg_scores": [0.1, 0.2]}]
    found = score(tmp_path, tiny_bert, "--method", "embedder", rows=rows)[0]
    assert "pos_scores" not in found
    assert len(found["teacher_scores"]) == 3


@pytest.mark.parametrize(
    ("method", "expected"), [("cross_encoder", "a cross-encoder such as"), ("language_model", "a language model")]
)
def test_the_packaged_embedder_is_no_other_kind_of_teacher(tmp_path, capsys, method, expected):
    (tmp_path / "in.jsonl").write_text('{"query": "问", "pos": ["答"], "answers": ["答"]}\n', "utf-8")
    words = [
        str(tmp_path / "in.jsonl"),
        "--output",
        str(tmp_path / "o"),
        "--model",
        "nano-zh-static",
        "--method",
        method,
    ]
    assert main(words) == 2
    assert f"error: nano-zh-static: is an embedder, expected {expected}" in capsys.readouterr().err


def test_a_language_model_needs_answers(tmp_path, language_model, capsys):
    (tmp_path / "in.jsonl").write_text('{"query": "问", "pos": ["答"]}\n', "utf-8")
    words = [str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "o"), "--model", str(language_model)]
    assert main([*words, "--method", "language_model"]) == 2
    assert "in.jsonl:1: answers: is missing" in capsys.readouterr().err


def test_the_histogram_counts_and_the_temperature_gives_the_entropy_asked_for():
    assert [line.split()[3] for line in histogram([0.0, 0.0, 12.0]).splitlines()] == ["2", *["0"] * 10, "1"]
    sample = [[0.9, 0.5, 0.1], [0.7, 0.6, 0.2]]
    said = advice(sample, 0.5)
    assert entropy_shares(sample, float(said.split()[1])).mean() == pytest.approx(0.5, abs=1e-3)
    assert "no temperature" in advice([[1.0, 1.0]], 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"garbage, and more than a header of it" * 9, "the database cannot be used: file is not a database"),
        ("CREATE TABLE scores (id INTEGER, mark REAL)", "got 'a database with id, mark in `scores`', expected a cache"),
    ],
)
def test_a_file_that_is_no_cache_of_scores_is_named(tmp_path, content, message):
    path = tmp_path / "kept.sqlite"
    if isinstance(content, str):
        with closing(sqlite3.connect(path)) as base:
            base.execute(content)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        Cache(path)
    assert str(error.value).startswith(f"{path}: ")


def test_records_are_checked_before_the_teacher_is_loaded(tmp_path, capsys):
    empty, wrong = tmp_path / "empty.jsonl", tmp_path / "wrong.jsonl"
    empty.write_text("\n", "utf-8")
    wrong.write_text('{"query": "问"}\n', "utf-8")
    for path, message in ((empty, f"FILES: no records in {empty}"), (wrong, f"{wrong}:1: ")):
        assert main([str(path), "--output", str(tmp_path / "out.jsonl"), "--model", "nowhere"]) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "wrong.jsonl"]
