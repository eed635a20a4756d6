"""The Trainer in one process: what a run learns, logs, refuses and leaves behind."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.jsonl import read, write
from tests.processes import ROOT, losses, weights
from zh_embedder.commands.train import main

DEMO = ROOT / "examples" / "demo" / "train"
SECONDS = 70


@pytest.fixture
def folder(workdir):
    return workdir


def train(base, *more, data=("qa", "chat"), out="out", steps=4) -> int:
    """Train a few steps in this process; returns the exit code."""
    flags = [
        "--output_dir", out, "--query_encoder", base, "--train_data", *[DEMO / f"{name}.jsonl" for name in data],
        "--max_steps", steps, "--per_device_train_batch_size", 8, "--train_group_size", 3, "--cos_temperature", 0.05,
        "--learning_rate", 1e-3, "--dtype", "fp32", "--report_to", "none", "--logging_steps", 1,
        "--max_unknown", 1, *more,
    ]  # fmt: skip
    return main([str(flag) for flag in flags])


SAME = ("--inbatch_same_dataset", "epoch")


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        None,
        "epoch-random",
        *(pytest.param(mode, marks=pytest.mark.full) for mode in ("epoch", "epoch-static", "random")),
    ],
)
def test_workers_change_nothing_in_any_mode(mode, tiny_bert, folder):
    more = ("--inbatch_same_dataset", mode) if mode else ()
    assert train(tiny_bert, *more, out="none", steps=6) == 0
    assert train(tiny_bert, *more, "--dataloader_num_workers", 2, out="two", steps=6) == 0
    assert losses(folder / "none", 6) == losses(folder / "two", 6)
    assert len(set(losses(folder / "none", 6))) == 6


@pytest.mark.slow
def test_prepared_tokens_change_nothing(tiny_bert, folder, capfd):
    drawn = ("--select_positive", "random", "--random_negatives", 1, "--max_sample_num", 60)
    for number, choice in enumerate((("never",), ("always",), ("auto", "--dataloader_num_workers", 1))):
        assert train(tiny_bert, *SAME, *drawn, "--token_cache", *choice, out=f"out{number}", steps=20) == 0
    never, always, auto = (losses(folder / f"out{number}", 20) for number in range(3))
    assert never == always == auto  # over the end of the first epoch
    said = capfd.readouterr().err
    assert "tokens: made before training, 120 records (--token_cache always)" in said
    assert "tokens: read from the cache of earlier runs, " in said
    assert len(list((folder / "cache" / "tokens").iterdir())) == 2


RATES = {"adamw_torch": 3e-4, "sgd": 0.05}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [pytest.param("adamw_torch", marks=pytest.mark.full), "sgd"])
@pytest.mark.parametrize("keys", ["distinct", "duplicate"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_packed_and_padded_give_the_same_losses(pooling, keys, optimizer, folder, capfd):
    """The same base, data and seed, 20 steps without dropout, fp32."""
    from zh_embedder.bases.tiny import build

    base = build(folder / "base", hidden=32, heads=2, dropout=0.0, pooling=pooling)
    rows = [json.loads(line) for line in (DEMO / "qa.jsonl").open(encoding="utf-8")][:48]
    if keys == "duplicate":
        for number, row in enumerate(rows[1:], start=1):  # one negative of all, and one of every eight
            row["neg"] = [rows[0]["pos"][0], rows[number // 8 * 8 - 1]["pos"][0]]
    data = write(folder / "own.jsonl", rows)
    own = ("--train_data", data, "--optim", optimizer, "--learning_rate", RATES[optimizer])
    for out, choice in (("packed", "--packing"), ("padded", "--no_packing")):
        assert train(base, *SAME, *own, choice, out=out, steps=20) == 0
    said = capfd.readouterr().err
    trimmed = ", the last layer computed for first tokens alone" if pooling == "cls" else ""
    assert said.count(f"texts are packed: no padding is computed{trimmed}\n") == 1
    assert said.count("texts are padded, those of like lengths together: packing is switched off\n") == 1
    packed, padded = (losses(folder / out, 20) for out in ("packed", "padded"))
    assert len(packed) == 20
    np.testing.assert_allclose(packed, padded, rtol=1e-5)
    start, one, other = (weights(p) for p in (base, folder / "packed/encoder", folder / "padded/encoder"))
    moved = {name: (one[name] - start[name]).abs().max().item() for name in start}
    apart = {name: (one[name] - other[name]).abs().max().item() for name in start}
    assert max(moved.values()) > 1e-4
    # Adam divides by the size of a gradient: where that is near zero, the order of a sum decides its sign.
    assert optimizer != "sgd" or max(apart.values()) < 1e-2 * max(moved.values())


def test_identical_keys_encoded_once_give_the_loss_and_the_gradients_of_all(folder):
    from zh_embedder.bases.tiny import build
    from zh_embedder.data.groups import SelectionRule
    from zh_embedder.data.records import load_datasets
    from zh_embedder.data.train_rows import RowRequest, TrainRows, TrainSet
    from zh_embedder.losses.retrieval import info_nce
    from zh_embedder.models.bi_encoder import BiEncoder
    from zh_embedder.models.encoder import load_encoder
    from zh_embedder.training.dense_trainer import DenseTrainer, collator_of

    encoder = load_encoder(str(build(folder / "base", hidden=32, heads=2, dropout=0.0)))
    rows = [json.loads(line) for line in (DEMO / "qa.jsonl").open(encoding="utf-8")][:4]
    shared = rows[0]["pos"][0]  # a positive of one query, a negative of the others, twice of one
    for row in rows[1:]:
        row["neg"] = [shared, row["neg"][0]]
    (dataset,) = load_datasets([write(folder / "rows.jsonl", rows)], cache_dir=str(folder / "cache"))
    rule = SelectionRule(group_size=4)
    examples = TrainRows([TrainSet(records=dataset, task="qa", rule=rule, query_prefix="", key_prefix="")], seed=1)
    asked = [RowRequest(0, row, place < 4, 0, (0, 1, 2, 3, 0), 4) for place, row in enumerate((0, 1, 2, 3, 0))]
    model = BiEncoder(encoder)
    found = []
    for merge in (True, False):
        batch = collator_of(model, merge_keys=merge)([examples[request] for request in asked])
        assert (len(batch.keys) < 20) is merge
        assert len(batch.queries) == 5
        queries, keys = model(batch.queries, batch.keys, batch.key_rows)
        assert (len(queries), len(keys)) == (5, 20)
        trainer = SimpleNamespace(args=SimpleNamespace(negative_cross_device=False), model=model, with_labels=False)
        loss = info_nce(DenseTrainer.loss_batch(trainer, batch, queries, keys, with_queries=False), temperature=0.05)
        loss.backward()
        found.append((loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        model.zero_grad()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert len(found[0][1]) > 20
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_loss_of_the_first_step_is_the_one_computed_by_hand(tiny_bert, folder):
    """Read the batch that the plan asks for, encode it text by text, and sum InfoNCE in double precision."""
    from zh_embedder.bases.tiny import build
    from zh_embedder.config.instructions import read_version
    from zh_embedder.data.groups import SelectionRule, row_rng, select_group
    from zh_embedder.data.plan import plan_epoch
    from zh_embedder.data.records import Record
    from zh_embedder.models.encoder import Encoder

    base = build(folder / "base", hidden=32, heads=2, dropout=0.0)
    assert train(base, *SAME, steps=1) == 0
    rows = {name: [json.loads(line) for line in (DEMO / f"{name}.jsonl").open()] for name in ("qa", "chat")}
    names = ["qa", "chat"]
    plan = plan_epoch([len(rows[n]) for n in names], step_rows=8, mode="epoch", seed=42, epoch=0)
    task = names[plan.datasets[0]]
    offset = 0 if plan.datasets[0] == 0 else len(rows["qa"])
    spec, encoder, rule = (
        read_version("zh_llm_embedder").task(task),
        Encoder.from_pretrained(base, dtype="fp32"),
        SelectionRule(group_size=3),
    )
    queries, keys = [], []
    for row in plan.rows[0]:
        record = rows[task][row - offset]
        rng = row_rng(42, 0, int(plan.datasets[0]), int(row - offset))
        group = select_group(Record(record["query"], record["pos"], record["neg"]), rule, rng, lambda _: "")
        queries.append(encoder.encode(record["query"], prompt=spec.query, show_progress=False))
        keys.append([encoder.encode(key, prompt=spec.key, show_progress=False) for key in group.keys])
        keys[-1].append(group.keys)
    total = 0.0
    for i, query in enumerate(queries):
        own = keys[i][-1][0]
        scores = [
            float(query.astype(np.float64) @ vector) / 0.05
            for j, group in enumerate(keys)
            for text, vector in zip(group[-1], group[:-1], strict=True)
            if text != own or (j == i and text == own)
        ]
        positive = float(query.astype(np.float64) @ keys[i][0]) / 0.05
        total += np.log(np.exp(scores).sum()) - positive
    assert losses(folder / "out", 1)[0] == pytest.approx(total / 8, abs=1e-5)


@pytest.mark.parametrize("more", [(), ("--save_steps", 1)])
def test_weights_that_the_last_step_ruined_are_not_saved(tiny_bert, folder, capsys, more):
    """No loss comes behind the last update: its weights are looked at."""
    wild = ("--learning_rate", 1e38, "--weight_decay", 1e9, "--warmup_steps", 0)
    assert train(tiny_bert, *SAME, *wild, *more, steps=1) == 2
    message = capsys.readouterr().err
    assert re.search(
        r"error: step 1: \d+ of \d+ weights hold NaN or infinity, such as \S+: they are not saved", message
    )
    assert not (folder / "out" / "encoder").exists()
    assert not list((folder / "out").glob("checkpoint-*"))


def test_a_non_finite_loss_stops_the_run_and_names_the_records(tiny_bert, folder, capsys):
    wild = ("--optim", "sgd", "--learning_rate", 1e38, "--max_grad_norm", 0, "--warmup_steps", 0)
    assert train(tiny_bert, *SAME, *wild, steps=8) == 2
    message = capsys.readouterr().err
    assert "the loss is not finite, the update was skipped" in message
    assert "records at lines" in message
    assert "dataset qa:qa.jsonl" in message or "dataset chat:chat.jsonl" in message
    assert not (folder / "out" / "encoder").exists()
    assert not list((folder / "out").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_loss_of_exactly_zero_stops_the_run(tiny_bert, folder, capsys):
    alone = ("--per_device_train_batch_size", 1, "--train_group_size", 1)
    assert train(tiny_bert, *SAME, *alone, steps=30) == 2
    message = capsys.readouterr().err
    assert "step 20: the loss has been exactly 0 for 20 steps" in message


@pytest.mark.slow
def test_tensorboard_has_loss_and_gradient_norm_of_every_task(tiny_bert, folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(tiny_bert, *SAME, "--report_to", "tensorboard", "--tensorboard_dir", "board", steps=6) == 0
    events = EventAccumulator(str(folder / "board"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    wanted = {f"train/{kind}/{task}" for kind in ("loss", "grad_norm") for task in ("qa", "chat")}
    assert wanted | {"train/loss", "train/texts_per_second", "train/tokens_per_second"} <= scalars
    parts = {e.step: e.value for task in ("qa", "chat") for e in events.Scalars(f"train/loss/{task}")}
    assert parts == {e.step: pytest.approx(e.value) for e in events.Scalars("train/loss")}  # a step has one task


def test_the_run_folder_holds_the_files_that_users_know(tiny_bert, folder):
    assert train(tiny_bert, *SAME, "--save_steps", 2, "--token", "hf_secret") == 0
    encoder = {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "vocab.txt", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
    }  # fmt: skip
    for place in ("out", "out/checkpoint-2", "out/checkpoint-4"):
        assert encoder <= {p.name for p in (folder / place / "encoder").iterdir()}
        args = json.loads((folder / place / "args.json").read_text("utf-8"))
        assert (args["train_group_size"], args["cos_temperature"], args["query_encoder"]) == (3, 0.05, str(tiny_bert))
        assert "hf_secret" not in (folder / place / "args.json").read_text("utf-8")
    assert not [p for p in (folder / "out").iterdir() if p.name.startswith(".")]  # nothing half-written
    prompts = json.loads((folder / "out/encoder/config_sentence_transformers.json").read_text("utf-8"))["prompts"]
    assert prompts["icl"] == "为这个句子生成表示以用于检索相关文章："


@pytest.mark.slow
def test_sentence_transformers_reads_the_encoder_folder_as_we_do(tiny_bert, folder):
    from sentence_transformers import SentenceTransformer

    from zh_embedder.models.encoder import Encoder

    assert train(tiny_bert, *SAME, "--pooling_method", "cls", "--default_task", "chat") == 0
    texts = ["今天", "杭州的龙井茶什么时候采最好？", "上次说的那盆花，叶子又黄了两片。"]
    theirs, ours = (
        SentenceTransformer(str(folder / "out/encoder"), device="cpu"),
        Encoder.from_pretrained("out", dtype="fp32"),
    )
    for task in ("qa", "chat", "icl"):
        np.testing.assert_allclose(
            theirs.encode(texts, prompt_name=task), ours.encode_queries(texts, task=task), atol=1e-5
        )
        keys = theirs.encode(texts, prompt_name=f"{task}.key")
        np.testing.assert_allclose(keys, ours.encode_corpus(texts, task=task), atol=1e-5)
    np.testing.assert_allclose(theirs.encode_query(texts), ours.encode_queries(texts, task="chat"), atol=1e-5)
    np.testing.assert_allclose(theirs.encode_document(texts), ours.encode_keys(texts, task="chat"), atol=1e-5)
    assert (
        np.abs(ours.encode_queries(texts, task="qa") - ours.encode_queries(texts, task="chat")).max() > 1e-4
    )  # the instruction matters


@pytest.mark.slow
def test_a_run_is_not_written_over_unless_asked(tiny_bert, folder, capsys):
    assert train(tiny_bert, *SAME, "--save_steps", 2) == 0
    before = weights(folder / "out" / "encoder")
    assert train(tiny_bert, *SAME, "--seed", 1) == 2
    assert "--output_dir: out already holds a run (checkpoint-2, checkpoint-4, encoder)" in capsys.readouterr().err
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(folder / "out" / "encoder").items())
    assert train(tiny_bert, *SAME, "--seed", 1, "--overwrite_output_dir", "--save_steps", 3) == 0
    assert sorted(p.name for p in (folder / "out").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_resuming_without_a_whole_checkpoint_is_refused(tiny_bert, folder, capsys):
    (folder / "out" / "checkpoint-7").mkdir(parents=True)
    assert train(tiny_bert, *SAME, "--resume_from_checkpoint", "True") == 2
    assert "no complete checkpoint in out" in capsys.readouterr().err
    assert train(tiny_bert, *SAME, "--resume_from_checkpoint", "out/checkpoint-7") == 2
    assert "out/checkpoint-7 is not a complete checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_untied_encoders_are_trained_apart_and_saved_in_two_folders(tiny_bert, folder):
    """Each side learns from its own texts: no piece moves that occurs in those of the other side alone."""
    from zh_embedder.config.instructions import read_version
    from zh_embedder.models.encoder import load_encoder

    assert train(tiny_bert, *SAME, "--tie_encoders", "False", "--weight_decay", 0) == 0
    start, query, key = (weights(p) for p in (tiny_bert, folder / "out/encoder", folder / "out/key_encoder"))
    name, tokenizer = "embeddings.word_embeddings.weight", load_encoder(str(tiny_bert)).tokenizer
    version, texts = read_version("zh_llm_embedder"), {"query": [], "key": []}
    for task in ("qa", "chat"):
        spec = version.task(task)
        for row in read(DEMO / f"{task}.jsonl"):
            texts["query"].append(spec.query + row["query"])
            texts["key"] += [spec.key + text for text in (*row["pos"], *row["neg"])]
    occur = {side: {i for row in tokenizer(own)["input_ids"] for i in row} for side, own in texts.items()}
    moved = {
        side: set((trained[name] != start[name]).any(dim=1).nonzero().flatten().tolist())
        for side, trained in (("query", query), ("key", key))
    }
    for own, other in (("query", "key"), ("key", "query")):
        assert moved[own] <= occur[own]
        assert len(moved[own] - occur[other]) > 5
    assert query.keys() == key.keys() == start.keys()


@pytest.mark.slow
def test_gradient_checkpointing_and_sub_batches_change_no_loss(folder):
    from zh_embedder.bases.tiny import build

    base = build(folder / "base", hidden=32, heads=2, dropout=0.0)
    plain = ("--optim", "sgd")
    assert train(base, *SAME, *plain, out="plain") == 0
    assert train(base, *SAME, *plain, "--gradient_checkpointing", "--sub_batch_size", 5, out="frugal") == 0
    np.testing.assert_allclose(losses(folder / "plain", 4), losses(folder / "frugal", 4), rtol=1e-5)


@pytest.mark.slow
def test_position_embeddings_can_be_fixed(tiny_bert, folder):
    assert train(tiny_bert, *SAME, "--fix_position_embedding") == 0
    start, trained = weights(tiny_bert), weights(folder / "out" / "encoder")
    fixed = "embeddings.position_embeddings.weight"
    assert torch.equal(start[fixed], trained[fixed])
    assert not torch.equal(start["embeddings.word_embeddings.weight"], trained["embeddings.word_embeddings.weight"])


@pytest.mark.slow
def test_early_exit_stops_with_the_schedule_of_the_whole_run(tiny_bert, folder):
    assert train(tiny_bert, *SAME, "--save_steps", 1, steps=6) == 0
    shutil.move(folder / "out", folder / "whole")
    assert train(tiny_bert, *SAME, "--save_steps", 1, "--early_exit_steps", 3, steps=6) == 0
    rates = [
        [entry["learning_rate"] for entry in json.loads(p.read_text())["log_history"] if "loss" in entry]
        for p in (folder / "whole/checkpoint-3/trainer_state.json", folder / "out/checkpoint-3/trainer_state.json")
    ]
    assert rates[0] == rates[1]
    assert not (folder / "out" / "checkpoint-4").exists()


@pytest.mark.slow
def test_negatives_are_drawn_anew_each_epoch(folder):
    """With one negative of many and no dropout, the same rows give another loss in the next epoch."""
    from zh_embedder.bases.tiny import build

    base = build(folder / "base", hidden=32, heads=2, dropout=0.0)
    data = write(folder / "one.jsonl", [json.loads(line) for line in (DEMO / "qa.jsonl").open()][:8])
    still = ("--learning_rate", 1e-12, "--train_group_size", 2, "--train_data", data)
    assert train(base, *SAME, *still, steps=4) == 0
    assert len({round(loss, 6) for loss in losses(folder / "out", 4)}) == 4


@pytest.mark.slow
def test_teacher_scores_are_learned_from_and_lack_of_them_is_said_once(tiny_bert, folder, capfd):
    scored = [json.loads(line) for line in (DEMO / "qa.jsonl").open()][:16]
    for row in scored:
        row["teacher_scores"] = [3.0, *[1.0] * len(row["neg"])]
    data = write(folder / "scored.jsonl", scored)
    own = ("--use_train_config", "--train_data", data, DEMO / "icl.jsonl", DEMO / "tool.jsonl")
    assert train(tiny_bert, *SAME, *own) == 0
    said = capfd.readouterr().err
    assert "1 ranked_distillation" in said  # qa distils only, and ranks
    assert said.count("icl:icl.jsonl: set to distil only, but its records have no teacher scores: InfoNCE instead") == 1


@pytest.mark.slow
def test_the_published_flags_of_precision_run_on_a_machine_without_a_gpu(tiny_bert, folder, capfd):
    assert train(tiny_bert, *SAME, "--dtype", "auto", "--fp16", steps=1) == 0
    said = capfd.readouterr().err
    assert "fp16 needs a GPU; using the best precision for this CPU instead" in said or torch.cuda.is_available()


@pytest.mark.slow
def test_without_instructions_nothing_stands_in_front_of_a_text(tiny_bert, folder):
    """The run of a version equals the run of `none`, and its folder has empty prompts."""
    assert train(tiny_bert, *SAME, "--add_instruction", "False", out="without") == 0
    assert train(tiny_bert, *SAME, "--version", "none", out="none") == 0
    assert train(tiny_bert, *SAME, out="with") == 0
    assert losses(folder / "without", 4) == losses(folder / "none", 4) != losses(folder / "with", 4)
    settings = json.loads((folder / "without/encoder/config_sentence_transformers.json").read_text("utf-8"))
    assert set(settings["prompts"].values()) == {""}


@pytest.mark.slow
def test_pairs_labels_and_groups_train_in_one_run_each_with_its_loss(tiny_bert, folder, capfd):
    words = [json.loads(line)["query"] for line in (DEMO / "qa.jsonl").open()][:40]
    pairs = [{"text1": w, "text2": words[i - 1], "score": i % 5, "task": "sts"} for i, w in enumerate(words)]
    labels = [{"text": w, "label": i % 3, "task": "icl"} for i, w in enumerate(words)]
    files = [write(folder / "pairs.jsonl", pairs), write(folder / "labels.jsonl", labels), DEMO / "qa.jsonl"]
    assert train(tiny_bert, *SAME, "--train_data", *files, steps=12) == 0
    said = capfd.readouterr().err
    for loss in ("1 cosent", "1 supervised_contrastive", "1 info_nce"):
        assert said.count(loss) == 1
    logged = [json.loads((folder / "out/checkpoint-12/trainer_state.json").read_text())["log_history"]]
    names = {name for entry in logged[0] for name in entry}
    assert {"loss/sts", "loss/icl", "loss/qa", "masked_by_text/qa"} <= names
    assert all(np.isfinite(entry["loss"]) for entry in logged[0] if "loss" in entry)
    start, trained = weights(tiny_bert), weights(folder / "out/encoder")
    assert not torch.equal(start["embeddings.word_embeddings.weight"], trained["embeddings.word_embeddings.weight"])


@pytest.mark.slow
def test_a_run_learns_what_its_pairs_say(folder):
    """Ten pairs that belong together and ten that do not: their cosines part."""
    from zh_embedder.bases.tiny import build
    from zh_embedder.models.encoder import Encoder

    base = build(folder / "base", hidden=32, heads=2, dropout=0.0, pooling="mean")
    words = [json.loads(line)["query"] for line in (DEMO / "qa.jsonl").open()][:40]
    pairs = [{"text1": words[i], "text2": words[i + 20], "score": 1 - i % 2, "task": "sts"} for i in range(20)]
    data = write(folder / "pairs.jsonl", pairs)
    for loss in ("cosent", "cosine_regression", "online_contrastive", "contrastive", "angle"):
        more = ("--train_data", data, "--loss", loss, "--per_device_train_batch_size", 20, "--warmup_steps", 0)
        assert train(base, *SAME, *more, steps=12, out=loss) == 0
        encoder = Encoder.from_pretrained(str(folder / loss), dtype="fp32")
        left, right = (encoder.encode([p[name] for p in pairs], show_progress=False) for name in ("text1", "text2"))
        cosines = (left * right).sum(axis=1)
        assert cosines[::2].mean() > cosines[1::2].mean() + 0.03, loss


@pytest.mark.slow
def test_the_log_counts_what_is_masked_and_how_sharp_the_teacher_is(tiny_bert, folder):
    rows = [json.loads(line) for line in (DEMO / "qa.jsonl").open()][:16]
    shared = rows[0]["pos"][0]
    for row in rows:  # one known positive for all: every other query's key of that text is left out
        row["pos"] = [shared]
        row["teacher_scores"] = [1.0, *[0.0] * len(row["neg"])]
    data = write(folder / "rows.jsonl", rows)
    more = ("--train_data", data, "--false_negative_margin", "0.0", "--loss", "info_nce", "teacher_kl")
    assert train(tiny_bert, *SAME, *more, steps=1) == 0
    (entry,) = [e for e in json.loads((folder / "out/checkpoint-1/trainer_state.json").read_text())["log_history"]
                if "masked_by_text/qa" in e]  # fmt: skip
    assert entry["masked_by_text/qa"] == 7  # of 8 queries' positives, its own left out
    assert entry["masked_by_score/qa"] >= 0
    share = [np.exp(1), 1, 1] / (np.exp(1) + 2)
    assert entry["teacher_entropy/qa"] == pytest.approx(-(share * np.log(share)).sum() / np.log(3), abs=1e-5)


@pytest.mark.slow
def test_vectors_trained_by_matryoshka_are_good_when_cut(folder):
    from zh_embedder.bases.tiny import build
    from zh_embedder.models.encoder import Encoder

    base = build(folder / "base", hidden=32, heads=2, dropout=0.0, pooling="mean")
    assert train(base, *SAME, "--warmup_steps", 0, data=("qa",), steps=30, out="plain") == 0
    dims = ("--matryoshka_dims", 32, 4, "--matryoshka_weights", 1, 3)
    assert train(base, *SAME, "--warmup_steps", 0, *dims, data=("qa",), steps=30, out="cut") == 0
    rows = [json.loads(line) for line in (DEMO / "qa.jsonl").open()]

    def found(run):
        encoder = Encoder.from_pretrained(str(folder / run), dtype="fp32")
        queries, keys = (
            encoder.encode(texts, truncate_dim=4, show_progress=False)
            for texts in ([r["query"] for r in rows], [r["pos"][0] for r in rows])
        )
        np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
        scores = queries @ keys.T
        return (scores >= np.diag(scores)[:, None]).sum(axis=1).mean()  # mean rank of the positive

    assert found("cut") < 0.9 * found("plain")


def test_dimensions_that_the_base_has_not_are_refused(tiny_bert, folder, capsys):
    assert train(tiny_bert, *SAME, "--matryoshka_dims", 64, 16) == 2
    assert "--matryoshka_dims: got 64, expected at most 32, the dimensions of this base" in capsys.readouterr().err


def test_halves_that_are_not_whole_are_refused(tiny_bert, folder, capsys):
    pairs = [{"text1": "甲", "text2": "乙", "score": 1, "task": "sts"}]
    data = ("--train_data", write(folder / "pairs.jsonl", pairs), "--loss", "angle")
    assert train(tiny_bert, *SAME, *data, "--matryoshka_dims", 16, 5) == 2
    assert "--matryoshka_dims: got 5, expected even numbers: loss angle" in capsys.readouterr().err


@pytest.mark.slow
def test_every_task_has_the_same_steps_at_temperature_0(tiny_bert, folder, capfd):
    few = write(
        folder / "few.jsonl", [{**json.loads(line), "task": "tool"} for line in (DEMO / "tool.jsonl").open()][:8]
    )
    more = ("--train_data", DEMO / "qa.jsonl", few, "--task_temperature", "0", "--num_train_epochs", 1)
    assert train(tiny_bert, *SAME, *more, steps=-1) == 0
    table = [line.split() for line in capfd.readouterr().err.splitlines() if ".jsonl " in line and "info_nce" in line]
    steps = [int(line[3]) for line in table]
    assert abs(steps[0] - steps[1]) <= 1


LORA = ("--lora_rank", 4, "--lora_alpha", 8, "--learning_rate", 1e-2, "--warmup_steps", 0)


@pytest.mark.slow
def test_adapters_are_trained_beside_the_base_and_saved_merged(tiny_bert, folder, capfd):
    from zh_embedder.models.encoder import load_encoder

    assert train(tiny_bert, *SAME, *LORA, "--gradient_checkpointing") == 0
    total, trained = re.search(r"([\d,]+) parameters, ([\d,]+) trained", capfd.readouterr().err).groups()
    assert 0 < int(trained.replace(",", "")) < int(total.replace(",", "")) / 10
    start, merged = weights(tiny_bert), weights(folder / "out/encoder")
    assert start.keys() == merged.keys()
    moved = {name for name in start if not torch.equal(start[name], merged[name])}
    linear = ("query", "key", "value", "dense")
    assert moved == {f"encoder.layer.{i}.{part}.weight" for i in (0, 1) for part in (
        *(f"attention.self.{name}" for name in linear[:3]), "attention.output.dense", "intermediate.dense",
        "output.dense",
    )}  # fmt: skip
    # Its vectors are those of the adapters, not merged: the encoder of the folder beside one built by hand.
    from safetensors.torch import load_file

    from zh_embedder.models.lora import add_lora

    encoder = load_encoder(str(tiny_bert)).eval()
    add_lora(encoder.backbone, rank=4, alpha=8)
    encoder.backbone.load_state_dict(load_file(folder / "out/encoder/lora.safetensors"), strict=False)
    texts = ["猫", "今天心情很好"]
    expected = encoder.eval().encode(texts, show_progress=False)
    found = load_encoder(str(folder / "out")).encode(texts, show_progress=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - load_encoder(str(tiny_bert)).encode(texts, show_progress=False)).max() > 1e-3


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_adapters(tiny_bert, folder, capsys):
    assert train(tiny_bert, *SAME, *LORA, "--save_steps", 2, out="whole") == 0
    shutil.copytree(folder / "whole", folder / "half")
    shutil.rmtree(folder / "half/checkpoint-4")
    shutil.rmtree(folder / "half/encoder")
    assert train(tiny_bert, *SAME, *LORA, "--save_steps", 2, "--resume_from_checkpoint", "True", out="half") == 0
    one, other = (weights(folder / name / "encoder") for name in ("whole", "half"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    (folder / "half/checkpoint-2/encoder/lora.safetensors").unlink()
    again = ("--resume_from_checkpoint", "half/checkpoint-2")
    assert train(tiny_bert, *SAME, *LORA, *again, out="half") == 2
    assert "encoder/lora.safetensors is missing" in capsys.readouterr().err


def test_layers_that_are_not_there_get_no_adapters(tiny_bert, folder, capsys):
    assert train(tiny_bert, *SAME, *LORA, "--target_modules", "q_proj") == 2
    assert "--target_modules: " in capsys.readouterr().err
