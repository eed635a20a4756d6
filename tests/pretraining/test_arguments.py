"""The flags of pretraining: what they mean, other programs' names for them, and what cannot be meant."""

import json

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.pretraining.arguments import EXAMPLE, parse

LEAST = ["--output_dir", "out", "--corpus", "a.jsonl", "--query_encoder", "base"]
SCRATCH = ["--output_dir", "out", "--corpus", "a.jsonl", "--from_scratch"]


def refused(*argv):
    with pytest.raises(UserError) as error:
        parse(list(argv))
    return str(error.value)


def test_the_defaults_are_those_of_bert():
    args = parse(LEAST)
    assert (args.corpus.objective, args.corpus.mlm_probability, args.corpus.whole_word_mask) == ("mlm", 0.15, True)
    assert (args.train.num_train_epochs, args.train.learning_rate) == (1.0, 1e-4)
    assert args.notes == ()
    assert json.loads(args.to_json())["query_encoder"] == "base"


def test_what_is_held_out_is_measured_at_the_start_and_on_the_way():
    train = parse(LEAST).train
    assert (train.eval_strategy, train.eval_on_start, train.eval_steps) == ("steps", True, 0.1)
    assert (train.metric_for_best_model, train.greater_is_better) == ("loss", False)
    assert parse([*LEAST, "--save_steps", "50"]).train.eval_steps == 50
    assert parse([*LEAST, "--eval_steps", "20", "--save_steps", "50"]).train.eval_steps == 20
    assert parse([*LEAST, "--eval_strategy", "epoch"]).train.eval_strategy == "epoch"
    nothing = parse([*LEAST, "--validation_share", "0"]).train
    assert (nothing.eval_strategy, nothing.eval_on_start) == ("no", False)


def test_names_of_run_mlm_and_of_retromae_are_understood_and_said():
    args = parse([
        "--output_dir", "out", "--model_name_or_path", "base", "--train_file", "a.txt", "b.txt",
        "--encoder_mlm_probability", "0.3", "--pretrain_method", "retromae", "--evaluation_strategy=epoch",
    ])  # fmt: skip
    assert args.corpus.corpus == ["a.txt", "b.txt"]
    assert (args.base.query_encoder, args.corpus.mlm_probability) == ("base", 0.3)
    assert args.corpus.objective == "retromae"
    assert set(args.notes) == {
        "--model_name_or_path is --query_encoder",
        "--train_file is --corpus",
        "--encoder_mlm_probability is --mlm_probability",
        "--pretrain_method is --objective",
        "--evaluation_strategy is --eval_strategy",
    }


def test_a_batch_size_is_so_many_windows_of_tokens():
    args = parse([*LEAST, "--per_device_train_batch_size", "8", "--max_seq_length", "256"])
    assert args.corpus.tokens_per_device == 2048
    assert "--per_device_train_batch_size 8 is --tokens_per_device 2048" in args.notes
    both = parse([*LEAST, "--per_device_train_batch_size", "8", "--tokens_per_device", "4096"])
    assert both.corpus.tokens_per_device == 4096
    assert "--per_device_train_batch_size is overridden by --tokens_per_device" in both.notes


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (LEAST[2:], "--output_dir: is missing"),
        ([*LEAST[:2], *LEAST[4:]], "--corpus: is missing"),
        (LEAST[:4], "--query_encoder: is missing, expected a base to continue from, or --from_scratch"),
        ([*LEAST, "--mlm_probabilty", "0.2"], "--mlm_probabilty: unknown flag; did you mean '--mlm_probability'?"),
        ([*LEAST, "--mlm_probability", "0"], "--mlm_probability: got 0, expected a number above 0 and below 1"),
        ([*LEAST, "--mlm_probability", "15"], "--mlm_probability: got 15, expected a number above 0 and below 1"),
        (
            [*LEAST, "--decoder_mlm_probability", "1"],
            "--decoder_mlm_probability: got 1, expected a number above 0 and below 1",
        ),
        ([*LEAST, "--objective", "retro"], "--objective: unknown name 'retro'; did you mean 'retromae'?"),
        ([*LEAST, "--corpus_share", "0"], "--corpus_share: got 0, expected a number above 0 and at most 1"),
        ([*LEAST, "--validation_share", "1"], "--validation_share: got 1, expected a number of 0 or more and below 1"),
        ([*LEAST, "--text_documents", "files"], "--text_documents: unknown name 'files'"),
        ([*LEAST, "--max_seq_length", "4"], "--max_seq_length: got 4, expected a whole number of 8 or more"),
        ([*LEAST, "--hidden_size", "64"], "--hidden_size: only applies from scratch, expected --from_scratch"),
        ([*SCRATCH, "--query_encoder", "x", "--num_layers", "2"], "--num_layers: only applies from scratch"),
        ([*SCRATCH, "--hidden_size", "30"], "--num_heads: got 4, expected a divisor of --hidden_size 30"),
        ([*LEAST, "--tokenizer_name", "x"], "--tokenizer_name: a base keeps its own tokenizer"),
        ([*LEAST, "--pooling_method", "max"], "--pooling_method: unknown name 'max'"),
        ([*LEAST, "--deepspeed", "x.json"], "--deepspeed: is not supported in pretraining"),
        ([*LEAST, "--torch_compile"], "--torch_compile: is not supported in pretraining"),
        ([*LEAST, "--validation_share", "0", "--eval_strategy", "steps"], "--eval_strategy: needs evaluation"),
        ([*LEAST, "--validation_share", "little"], "--validation_share: got 'little', expected a number"),
        (
            [*LEAST, "--validation_share", "0.0", "--early_stopping_patience", "2"],
            "--early_stopping_patience: needs evaluation",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(argv, message):
    assert refused(*argv).startswith(message)


def test_the_examples_of_the_help_parse(capsys):
    lines = EXAMPLE.replace("\\\n", " ").splitlines()
    commands = [line.split("zh_embedder.pretrain ")[1] for line in lines if "zh_embedder.pretrain " in line]
    assert len(commands) == 2
    for command in commands:
        assert parse(command.replace("'", "").split()).train.output_dir in ("domain", "base")
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    assert end.value.code == 0
    assert "continue pretraining a base on your own texts" in capsys.readouterr().out
