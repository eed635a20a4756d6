"""A model that does not know the language of a set is refused before anything is encoded."""

import json
from pathlib import Path

import pytest
from transformers import BertTokenizerFast

from zh_embedder.bases.tiny import build
from zh_embedder.cli import call
from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.sets import LabelSet, PairSet, RetrievalSet
from zh_embedder.evaluation.unknown_texts import check_models

SETS = [
    RetrievalSet("wiki", "qa", {"q": "长江有多长"}, {"d": "全长约六千公里"}, {"q": {"d": 1}}),
    PairSet("pairs", "sts", ["天"], ["今天"], [1.0]),
    LabelSet("labels", None, ["今天"], ["a"]),
]


@pytest.fixture(scope="module")
def latin(tmp_path_factory) -> Path:
    """A base whose vocabulary has no Chinese."""
    folder = build(tmp_path_factory.mktemp("latin") / "latin", hidden=8, layers=1, heads=1)
    pieces = (folder / "vocab.txt").read_text("utf-8").splitlines()
    left = [piece if piece.isascii() else f"[unused{place}]" for place, piece in enumerate(pieces)]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in left), "utf-8")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return folder


def test_every_kind_of_set_is_looked_at(latin, tiny_bert):
    with pytest.raises(UserError, match=r"does not know 100% of the characters of wiki \(.*100% .* of labels"):
        check_models([str(tiny_bert), str(latin)], SETS, limit=0.2)
    with pytest.raises(UserError, match=r"100% of the characters of pairs \(天 \.\.\.\)"):
        check_models([str(latin)], SETS[1:2], limit=0.2)
    check_models([str(tiny_bert), "nano-zh-static"], SETS, limit=0.2)
    check_models([str(latin)], SETS, limit=1.0)


@pytest.fixture
def records(workdir) -> Path:
    lines = [{"query": f"第{n}个问题", "pos": [f"第{n}个回答"], "neg": [], "task": "qa"} for n in range(8)]
    path = workdir / "train.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return path


def test_evaluate_and_training_stop_unless_told_otherwise(latin, records, capsys):
    assert call("evaluate", [str(latin), "--data", str(records), "--task", "qa"]) == 2
    said = f"error: --max_unknown: the tokenizer of {latin} does not know "
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(said)
    assert "80% of the characters of " in message
    assert call("evaluate", [str(latin), "--data", str(records), "--task", "qa", "--max_unknown", "1"]) == 0
    capsys.readouterr()
    train = ["--train_data", str(records), "--query_encoder", str(latin), "--max_steps", "1", "--output_dir", "out"]
    train += ["--use_cpu", "--report_to", "none", "--per_device_train_batch_size", "2", "--train_group_size", "2"]
    assert call("train", train) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(said)
    assert "of the characters of qa" in message
    assert not Path("out").exists()
