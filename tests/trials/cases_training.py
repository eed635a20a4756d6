"""Trials of train, pretrain, vocabulary and new-base."""

import gzip
import os
import pickle
import shutil
from pathlib import Path

from tests.trials.case import Cases
from tests.trials.material import (
    CORPUS,
    DEEP,
    GOOD,
    LABELLED,
    PAIRS,
    RECORDS,
    SCORED,
    SET,
    TRUNCATED_GZIP,
    do,
    every,
    exists,
    flag,
    garble,
    halve,
    holds,
    line,
    png,
    pretrain,
    record,
    rows,
    train,
)

cases = Cases()
DATA = {"train.jsonl": GOOD}
ESCAPE = "\x1b[31mred\x1b[0m"
FLAG_EMBEDDING = """train --model_name_or_path nano-zh-static --train_data train.jsonl --output_dir out
    --temperature 0.02 --passage_max_len 32 --query_max_len 16 --max_steps 1 --report_to none --version none"""

# --- train: flags and numbers

for name, value, *says in (
    ("max_steps", "abc", "abc"),
    ("max_steps", "1.5", r"1\.5"),
    ("max_steps", "-3"),
    ("learning_rate", "nan"),
    ("learning_rate", "inf"),
    ("learning_rate", "-1e-3"),
    ("learning_rate", "3e-3x", "3e-3x"),
    ("per_device_train_batch_size", "0"),
    ("per_device_train_batch_size", "-2"),
    ("train_group_size", "0"),
    ("train_group_size", "-1"),
    ("query_max_length", "0"),
    ("key_max_length", "-5"),
    ("cos_temperature", "0"),
    ("cos_temperature", "nan"),
    ("warmup_steps", "-1"),
    ("weight_decay", "nan"),
    ("num_train_epochs", "nan"),
    ("save_steps", "0"),
    ("logging_steps", "-5"),
    ("task_temperature", "-1"),
    ("validation_share", "1.5"),
    ("validation_share", "-0.1"),
    ("hits", "0"),
    ("matryoshka_dims", "0"),
    ("matryoshka_dims", "99999"),
    ("sub_batch_size", "0"),
    ("lora_rank", "-4"),
    ("max_sample_num", "0"),
    ("shuffle_ratio", "1.5"),
    ("random_negatives", "-1"),
    ("random_negatives", "5"),
    ("teacher_temperature", "0"),
    ("teacher_temperature", "warm", "warm"),
    ("teacher_entropy", "2"),
    ("contrastive_weight", "-1"),
    ("distill_weight", "nan"),
    ("early_stopping_patience", "0"),
    ("small_threshold", "-1"),
    ("cpu_threads", "0"),
    ("gradient_accumulation_steps", "0"),
    ("dataloader_num_workers", "-1"),
    ("false_negative_margin", "ten%"),
    ("dtype", "int8", "int8", "bf16"),
    ("pooling_method", "max", "max", "mean"),
    ("dense_metric", "cosine", "cosine", "cos"),
    ("truncation_side", "middle", "middle", "left"),
    ("inbatch_same_dataset", "yes", "yes", "epoch"),
    ("select_positive", "best", "best", "teacher-pos"),
    ("select_negative", "hard", "hard", "random"),
    ("kd_loss_type", "mse", "mse", "kl_div"),
    ("loss", "infonce", "infonce", "info_nce"),
    ("token_cache", "sometimes", "sometimes", "auto"),
    ("add_instruction", "vielleicht", "vielleicht"),
    ("prompt_format", "{}", "prompt"),
    ("prompt_format", "{0.__class__}{1}", "prompt"),
    ("key_encoder", "nowhere/at/all", "nowhere"),
    ("tokenizer_name", "nowhere/at/all", "nowhere"),
    ("version", "no_such_version", "no_such_version", "zh_llm_embedder"),
    ("instructions_dir", "no-such-folder", "no-such-folder"),
    ("deepspeed", "missing.json", r"missing\.json"),
):
    cases.refused(f"--{name} {value}", train(**{name: value}), flag(name), *says, files=DATA)

cases.refused("no --train_data value", ["train", "--train_data"], flag("train_data"), files=DATA)
cases.refused("no output folder", train(output_dir=None), flag("output_dir"), files=DATA)
cases.refused("a misspelt flag", [*train(), "--learning_rat_e", "1e-3"], "learning_rat_e", files=DATA)
cases.refused("a stray word", [*train(), "stray.jsonl"], r"stray\.jsonl", files=DATA)
cases.heard(
    "the same flag twice",
    [*train(), "--seed", "1", "--seed", "2"],
    r"seed",
    "twice|again|repeat|more than once|last|2 times",
    files=DATA,
)
cases.refused("unified finetuning", [*train(), "--unified_finetuning", "True"], "unified_finetuning", files=DATA)
cases.refused("colbert", [*train(), "--colbert_dim", "128"], "colbert_dim", files=DATA)
cases.refused(
    "matryoshka weights of another number",
    train(matryoshka_dims=[64, 32], matryoshka_weights=[1]),
    flag("matryoshka_weights"),
    files=DATA,
)
cases.heard(
    "the same matryoshka size twice",
    train(matryoshka_dims=[64, 64]),
    "64",
    "twice|repeat|duplicate|more than once",
    files=DATA,
)
cases.refused("load best without evaluation", [*train(), "--load_best_model_at_end"], "load_best|eval", files=DATA)
cases.refused(
    "early stopping without evaluation", train(early_stopping_patience=2), flag("early_stopping_patience"), files=DATA
)
cases.refused(
    "metric for best that nothing measures",
    train(
        eval_data="set",
        metric_for_best_model="qa/none_ndcg@10",
        load_best_model_at_end=True,
        eval_steps=1,
        save_steps=1,
    ),
    "none_ndcg@10|metric_for_best_model",
    files={**DATA, **SET},
)
cases.heard("lengths beyond the base", train(query_max_length=99999), "99999|512", files=DATA)
cases.refused("the metric ndcg@0", train(eval_data="set", metrics="ndcg@0"), "ndcg@0", files={**DATA, **SET})
cases.refused("an unknown metric", train(eval_data="set", metrics="ndgc@10"), "ndgc", files={**DATA, **SET})
cases.heard("a negative seed", train(seed=-1), "seed", files=DATA)
cases.refused("a huge seed", train(seed=10**30), "seed", files=DATA)
cases.refused(
    "metric file of a stranger as log_path folder",
    ["train", "--eval_data", "set/queries.jsonl", "--log_path", "."],
    r"log[_-]path|corpus",
    files=SET,
)

# --- train: data

BAD = "bad.jsonl"


def bad_record(name: str, *says: str, at: int = 2, **fields: object) -> None:
    """A bad record on line 2 of a file."""
    content = rows(record(0), record(1, **fields), record(2))
    cases.refused(name, train(train_data=BAD), line(BAD, at), *says, files={BAD: content})


bad_record("query missing", "query", query=...)
bad_record("query is a number", "query", "5", query=5)
bad_record("query is a list", "query", query=["a"])
bad_record("query is null", "query", query=None)
bad_record("query is empty", "query", query="")
bad_record("query is white space", "query", query=" \u3000\n")
bad_record("pos is missing", "pos", pos=...)
bad_record("pos is empty", "pos", pos=[])
bad_record("pos is an object", "pos", pos={"text": "a"})
bad_record("pos holds null", "pos", pos=["a", None])
bad_record("pos holds a list", "pos", pos=[["a"]])
bad_record("pos holds an empty text", "pos", pos=[""])
bad_record("neg is a number", "neg", neg=3)
bad_record("neg holds a number", "neg", neg=["a", 3])
bad_record("task is a number", "task", task=7)
bad_record("task is a list", "task", task=["qa"])
bad_record("too few teacher scores", "teacher_scores", teacher_scores=[1.0])
bad_record("teacher score is a text", "teacher_scores", teacher_scores=["high", "low"])
bad_record("teacher score is a boolean", "teacher_scores", teacher_scores=[True, False])
bad_record("teacher score is null", "teacher_scores", teacher_scores=[None, 1.0])
bad_record("both spellings of teacher scores", "scores", teacher_scores=[1, 0], pos_scores=[1], neg_scores=[0])
bad_record("prompt is a number", "prompt", prompt=1)
bad_record("group is a list", "group", group=["a"])

for name, text, *says in (
    ("truncated JSON", '{"query": "a", "pos": ["b"'),
    ("a bare word", "hello"),
    ("a number", "42"),
    ("null", "null"),
    ("a list", '[{"query": "a", "pos": ["b"]}]'),
    ("two objects on a line", '{"query": "a", "pos": ["b"]} {"query": "c", "pos": ["d"]}'),
    ("single quotes", "{'query': 'a', 'pos': ['b']}"),
    ("a trailing comma", '{"query": "a", "pos": ["b"],}'),
    (
        "NaN as teacher score",
        '{"query": "a", "pos": ["b"], "neg": ["c"], "teacher_scores": [NaN, 1]}',
        "teacher_scores|NaN",
    ),
    (
        "Infinity as teacher score",
        '{"query": "a", "pos": ["b"], "neg": ["c"], "teacher_scores": [1e999, 1]}',
        "teacher_scores|nfinit|inf",
    ),
    ("an escaped lone surrogate", '{"query": "\\ud800", "pos": ["b"]}', "surrogate|query|UTF"),
):
    cases.refused(
        f"line: {name}", train(train_data=BAD), line(BAD, 2), *says, files={BAD: rows(record(), text, record(2))}
    )

cases.heard(
    "duplicate keys in an object",
    train(),
    line("train.jsonl", 2),
    "query",
    files={"train.jsonl": rows(record(), '{"query": "甲", "query": "乙", "pos": ["丙"]}', record(2))},
)
cases.refused("deeply nested JSON", train(), line("train.jsonl", 2), files={"train.jsonl": rows(record()) + DEEP})
cases.refused(
    "a whole JSON array",
    train(train_data="a.json"),
    r"a\.json",
    files={"a.json": "[\n" + ",\n".join(rows(r).strip() for r in RECORDS) + "\n]\n"},
)
cases.refused(
    "a missing file",
    train(train_data="nope.jsonl"),
    r"nope\.jsonl",
    flag("train_data") + "|not exist|No such|not found",
    files=DATA,
)
cases.refused("an empty file", train(train_data="e.jsonl"), r"e\.jsonl", files={"e.jsonl": ""})
cases.refused("only blank lines", train(train_data="e.jsonl"), r"e\.jsonl", files={"e.jsonl": "\n\n  \n"})
cases.refused("GB18030", train(), line("train.jsonl", 1), "UTF-8", files={"train.jsonl": GOOD.encode("gb18030")})
cases.refused("UTF-16", train(), "train.jsonl", "UTF-8|UTF-16", files={"train.jsonl": GOOD.encode("utf-16")})
cases.refused(
    "one bad byte in line 3",
    train(),
    line("train.jsonl", 3),
    "UTF-8|utf-8",
    files={"train.jsonl": rows(*RECORDS[:2]).encode() + b'{"query": "\xff", "pos": ["a"]}\n'},
)
cases.refused("a picture", train(train_data="p.jsonl"), r"p\.jsonl", files={"p.jsonl": png()})
cases.refused("truncated gzip", train(train_data="t.jsonl.gz"), r"t\.jsonl\.gz", files={"t.jsonl.gz": TRUNCATED_GZIP})
cases.refused("plain text called gz", train(train_data="t.jsonl.gz"), r"t\.jsonl\.gz", files={"t.jsonl.gz": GOOD})
cases.refused(
    "gzip called zst",
    train(train_data="t.jsonl.zst"),
    r"t\.jsonl\.zst",
    files={"t.jsonl.zst": gzip.compress(GOOD.encode())},
)
cases.refused("gzip called jsonl", train(), r"train\.jsonl", files={"train.jsonl": gzip.compress(GOOD.encode())})
cases.refused("NUL bytes", train(), line("train.jsonl", 3), files={"train.jsonl": rows(*RECORDS[:2]) + "\0" * 4096})
cases.refused("an empty folder", train(train_data="d"), r"\bd\b", make=lambda work: (work / "d").mkdir())
cases.heard(
    "a folder with other files",
    train(train_data="d"),
    r"notes\.txt|README\.md",
    files={"d/a.jsonl": GOOD, "d/README.md": "# Notes\n", "d/notes.txt": "abc\n"},
)
cases.refused("a folder called train.jsonl", train(), r"train\.jsonl", make=lambda work: (work / "train.jsonl").mkdir())
cases.refused("a glob without matches", train(train_data="none*.jsonl"), r"none\*\.jsonl", files=DATA)
cases.refused(
    "a dangling link", train(train_data="l.jsonl"), r"l\.jsonl", make=lambda work: (work / "l.jsonl").symlink_to("gone")
)
cases.refused(
    "a link to itself",
    train(train_data="l.jsonl"),
    r"l\.jsonl",
    make=lambda work: (work / "l.jsonl").symlink_to("l.jsonl"),
)
cases.refused(
    "a folder that contains itself",
    train(train_data="d"),
    r"\bd\b",
    make=do(lambda work: (work / "d").mkdir(), lambda work: (work / "d" / "loop").symlink_to("..")),
)
cases.refused(
    "a FIFO that nobody writes to",
    train(train_data="f.jsonl"),
    r"f\.jsonl",
    make=lambda work: os.mkfifo(work / "f.jsonl"),
    timeout=30,
)
cases.refused("/dev/null", train(train_data="/dev/null"), "/dev/null")
cases.refused("/dev/zero", train(train_data="/dev/zero"), "/dev/zero", timeout=30)
cases.refused(
    "no permission to read",
    train(),
    r"train\.jsonl",
    "ermission|readable",
    files=DATA,
    make=lambda work: (work / "train.jsonl").chmod(0),
    permissions=True,
)
cases.says(
    "the same file twice",
    train(train_data=["train.jsonl", "train.jsonl"]),
    "twice|again|2 times|more than once|repeat",
    files=DATA,
)
cases.refused(
    "an unknown task",
    train(version="zh_llm_embedder"),
    r"train\.jsonl",
    "nosuch",
    files={"train.jsonl": rows(record(), record(1, task="nosuch"))},
)
cases.refused(
    "terminal escapes in a task",
    train(version="zh_llm_embedder"),
    r"train\.jsonl",
    absent=("\x1b",),
    files={"train.jsonl": rows(record(task=ESCAPE))},
)
cases.refused(
    "terminal escapes in a field that fails",
    train(),
    line("train.jsonl", 1),
    absent=("\x1b",),
    files={"train.jsonl": rows(record(pos=ESCAPE * 3 + "x", neg=7))},
)
cases.refused(
    "a message of reasonable length",
    train(),
    line("train.jsonl", 1),
    absent=(r"字{2000}",),
    files={"train.jsonl": rows({"query": ["字" * 200_000], "pos": ["a"]})},
)
cases.refused(
    "a file name with a line break and an escape",
    train(train_data="a\n\x1b[2Jb.jsonl"),
    "jsonl",
    absent=("\x1b",),
    files={"a\n\x1b[2Jb.jsonl": "junk\n"},
)
cases.refused(
    "llm-embedder: without --data_root", train(train_data="llm-embedder:train.jsonl"), "data[_-]root", files=DATA
)
cases.heard(
    "mixed kinds in one file", train(), r"train\.jsonl", "kind|text1|pair|mix", files={"train.jsonl": GOOD + PAIRS}
)
cases.refused(
    "a pair without score",
    train(train_data="p.jsonl"),
    line("p.jsonl", 2),
    "score",
    files={"p.jsonl": rows({"text1": "a", "text2": "b", "score": 1}, {"text1": "a", "text2": "b"})},
)
cases.refused(
    "a score that is a text",
    train(train_data="p.jsonl"),
    line("p.jsonl", 1),
    "score",
    files={"p.jsonl": rows({"text1": "a", "text2": "b", "score": "high"})},
)
cases.refused(
    "a label that is null",
    train(train_data="p.jsonl"),
    line("p.jsonl", 1),
    "label",
    files={"p.jsonl": rows({"text": "a", "label": None})},
)
cases.refused(
    "both history and pos",
    train(),
    line("train.jsonl", 1),
    "history",
    files={"train.jsonl": rows(record(history=["a", "b"], teacher_scores=[1, 2]))},
)
cases.refused(
    "history without scores",
    train(select_positive="teacher"),
    line("train.jsonl", 1),
    "teacher_scores|score",
    files={"train.jsonl": rows({"query": "a", "history": ["b", "c"], "task": "qa"})},
)
cases.refused(
    "scores required, none there",
    train(knowledge_distillation="True"),
    line("train.jsonl", 1) + "|train.jsonl",
    "score",
    files=DATA,
)
cases.refused("teacher picks, no scores", train(select_positive="teacher"), "select[_-]positive|teacher", files=DATA)
cases.refused(
    "all records dropped by a threshold",
    train(teacher_scores_min=100),
    r"teacher[_-]scores[_-]min|drop|record",
    files={"train.jsonl": SCORED},
)
cases.refused("a loss that no record fits", train(loss="cosent"), "cosent", files=DATA)
cases.says("an unknown field", train(), "negs", files={"train.jsonl": rows(*(record(n, negs=["x"]) for n in range(6)))})
cases.heard(
    "negatives that are positives",
    train(),
    r"neg",
    files={"train.jsonl": rows(*(record(n, neg=record(n)["pos"]) for n in range(6)))},
)
cases.heard(
    "records that are all the same",
    train(),
    "same|equal|duplicate|repeat|negativ",
    files={"train.jsonl": rows(*[record(0, neg=...)] * 6)},
)
cases.heard(
    "one label only",
    train(train_data="l.jsonl"),
    "label",
    files={"l.jsonl": rows(*({"text": t * 3, "label": "x"} for t in "甲乙丙丁"))},
)
cases.refused(
    "instructions broken", train(version="v.yaml"), r"v\.yaml", files={**DATA, "v.yaml": "tasks:\n  qa:\n\tquery: a\n"}
)
cases.refused(
    "use_train_config with an unknown setting",
    train(version="v.yaml", use_train_config=True),
    r"v\.yaml",
    "selct_negative",
    files={**DATA, "v.yaml": 'tasks:\n  qa:\n    query: ""\n    key: ""\n    training: {selct_negative: first}\n'},
)
cases.refused(
    "a loss option of the wrong type in YAML",
    train(version="v.yaml", use_train_config=True),
    r"v\.yaml",
    "temperature",
    files={
        **DATA,
        "v.yaml": 'tasks:\n  qa:\n    query: ""\n    key: ""\n'
        "    training: {loss: [{name: info_nce, temperature: warm}]}\n",
    },
)
cases.refused(
    "a broken evaluation set",
    train(eval_data="set"),
    r"qrels\.tsv",
    files={**DATA, **SET, "set/qrels.tsv": "query-id\tcorpus-id\tscore\nq0\td0\tyes\n"},
)
cases.refused("an evaluation set that does not exist", train(eval_data="nope"), "nope", files=DATA)

# --- train: outputs

cases.refused("output is an existing file", train(output_dir="out"), r"\bout\b", files={**DATA, "out": "mine\n"})
cases.refused("output below a file", train(output_dir="train.jsonl/out"), r"train\.jsonl", files=DATA)
cases.refused("output is a stranger's folder", train(), r"\bout\b", files={**DATA, "out/thesis.txt": "years of work\n"})
cases.heard(
    "--overwrite on a stranger's folder",
    train(overwrite=True),
    r"\bout\b",
    files={**DATA, "out/thesis.txt": "years of work\n"},
    check=holds("out/thesis.txt", "years of work"),
)
cases.refused(
    "output is the data's folder", train(train_data="d", output_dir="d"), r"\bd\b", files={"d/train.jsonl": GOOD}
)
cases.refused(
    "--overwrite where the data lies",
    train(train_data="d/train.jsonl", output_dir="d", overwrite=True),
    r"\bd\b",
    files={"d/train.jsonl": GOOD},
)
cases.refused(
    "--overwrite of the base it trains",
    train(query_encoder="run", output_dir="run", overwrite=True),
    r"\brun\b",
    files=DATA,
    needs=("run",),
)
cases.refused("an empty output name", train(output_dir=""), flag("output_dir"), files=DATA)
cases.refused(
    "a read-only parent",
    train(output_dir="ro/out"),
    "ro",
    "ermission|writ",
    files=DATA,
    make=lambda work: (work / "ro").mkdir(0o555),
    permissions=True,
)
cases.refused(
    "output is a dangling link",
    train(),
    r"\bout\b",
    files=DATA,
    make=lambda work: (work / "out").symlink_to("nowhere/deep"),
)
cases.refused("a name that is too long", train(output_dir="x" * 300), "x{50}|too long", files=DATA)
cases.refused(
    "a finished run without --overwrite",
    train(output_dir="run"),
    r"\brun\b",
    "overwrite|resume",
    files=DATA,
    needs=("run",),
)
cases.refused(
    "tensorboard_dir is a file",
    train(tensorboard_dir="train.jsonl", report_to="tensorboard"),
    r"train\.jsonl|tensorboard",
    files=DATA,
)
cases.refused("cache folder is a file", train(dataset_cache_dir="train.jsonl"), r"train\.jsonl", files=DATA)

# --- train: bases

cases.refused("a base that does not exist", train(query_encoder="./nope"), "nope", files=DATA)
cases.refused(
    "a hub name without a network", train(query_encoder="BAAI/no-such-model-x"), "BAAI/no-such-model-x", files=DATA
)
cases.refused("a base that is a file", train(query_encoder="train.jsonl"), r"train\.jsonl", files=DATA)
cases.refused(
    "an empty folder as base",
    train(query_encoder="base"),
    r"\bbase\b",
    files=DATA,
    make=lambda work: (work / "base").mkdir(),
)
cases.refused(
    "an empty folder called nano-zh-static",
    train(),
    "nano-zh-static",
    files=DATA,
    make=lambda work: (work / "nano-zh-static").mkdir(),
)
cases.heard("another case: Nano-ZH", train(query_encoder="Nano-ZH"), "[Nn]ano-[Zz][Hh]", files=DATA)
for name, pattern, change, *says in (
    ("config.json is cut", "run/encoder/config.json", halve, r"config\.json"),
    ("config.json is a list", "run/encoder/config.json", lambda path: path.write_text("[]"), r"config\.json"),
    ("config.json is gone", "run/encoder/config.json", Path.unlink, r"config\.json"),
    ("weights are cut", "run/encoder/*.safetensors", halve, "safetensors|weights"),
    ("weights are garbage", "run/encoder/*.safetensors", garble, "safetensors|weights"),
    ("weights are gone", "run/encoder/*.safetensors", Path.unlink, "safetensors|weights"),
    ("tokenizer.json is garbage", "run/encoder/tokenizer.json", garble, "tokenizer"),
    ("tokenizer.json is gone", "run/encoder/tokenizer.json", Path.unlink, "tokenizer"),
    ("modules.json is cut", "run/encoder/modules.json", halve, "modules"),
):
    cases.refused(
        f"base: {name}",
        train(query_encoder="run/encoder"),
        "run/encoder",
        *says,
        files=DATA,
        needs=("run",),
        tamper=every(pattern, change),
    )


class Evil:
    """What a pickle of a stranger does."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def evil_base(work: Path) -> None:
    """Weights that run a program when they are unpickled."""
    for path in (work / "run" / "encoder").glob("*.safetensors"):
        path.unlink()
    (work / "run" / "encoder" / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


cases.refused(
    "base: weights that are an evil pickle",
    train(query_encoder="run/encoder"),
    "pytorch_model|run/encoder|weights",
    files=DATA,
    needs=("run",),
    tamper=evil_base,
)
cases.refused(
    "base: code that ships with it, not trusted",
    train(query_encoder="base"),
    "trust[_-]remote[_-]code",
    files={
        **DATA,
        "base/config.json": '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}',
        "base/evil.py": "open('pwned', 'w').close()\n",
    },
)
cases.refused(
    "base: config with a hidden size of text",
    train(query_encoder="run/encoder"),
    "run/encoder",
    needs=("run",),
    files=DATA,
    tamper=every(
        "run/encoder/config.json",
        lambda path: path.write_text(path.read_text().replace('"hidden_size": ', '"hidden_size": "big", "was": ')),
    ),
)

# --- train: resuming

RUN = ("run*",)


def unfinished(work: Path) -> None:
    """The prepared run as it was after step 2."""
    shutil.rmtree(work / "run" / "checkpoint-4")
    shutil.rmtree(work / "run" / "encoder")


def resume(**changes: object) -> list[str]:
    """The command of the prepared run, resumed."""
    return train(**{"output_dir": "run", "max_steps": 4, "save_steps": 2, "resume_from_checkpoint": "True", **changes})


cases.works(
    "resume", resume(max_steps=4), exists("run/encoder"), files=DATA, needs=("run",), tamper=unfinished, outputs=RUN
)
cases.heard("resume where nothing was saved", train(resume_from_checkpoint="True"), "checkpoint", files=DATA)
cases.refused("resume from nowhere", train(resume_from_checkpoint="nowhere"), "nowhere", files=DATA)
cases.refused(
    "resume from an empty folder",
    train(resume_from_checkpoint="c"),
    r"\bc\b",
    files=DATA,
    make=lambda work: (work / "c").mkdir(),
)
cases.heard(
    "resume: an empty later checkpoint",
    resume(),
    "checkpoint-9",
    files=DATA,
    needs=("run",),
    tamper=lambda work: (work / "run" / "checkpoint-9").mkdir(),
    outputs=RUN,
)
for name, pattern, change in (
    ("weights cut", "run/checkpoint-4/**/*.safetensors", halve),
    ("optimizer cut", "run/checkpoint-4/optimizer.pt", halve),
    ("optimizer gone", "run/checkpoint-4/optimizer.pt", Path.unlink),
    ("trainer_state garbage", "run/checkpoint-4/trainer_state.json", garble),
    ("trainer_state gone", "run/checkpoint-4/trainer_state.json", Path.unlink),
    ("random state gone", "run/checkpoint-4/rng_state*.pth", Path.unlink),
):
    cases.heard(
        f"resume: {name}",
        resume(),
        "checkpoint-4",
        files=DATA,
        needs=("run",),
        tamper=every(pattern, change),
        outputs=RUN,
    )
cases.refused(
    "resume: named checkpoint with cut weights",
    resume(resume_from_checkpoint="run/checkpoint-4"),
    "checkpoint-4",
    files=DATA,
    needs=("run",),
    tamper=every("run/checkpoint-4/**/*.safetensors", halve),
)
cases.heard(
    "resume: other data",
    resume(),
    "data|record|train.jsonl",
    "chang|differ|other|not the same",
    files={"train.jsonl": rows(*RECORDS[:4])},
    needs=("run",),
    tamper=unfinished,
    outputs=RUN,
)
cases.heard(
    "resume: other learning rate",
    resume(learning_rate=1e-2),
    "learning[_-]rate",
    files=DATA,
    needs=("run",),
    tamper=unfinished,
    outputs=RUN,
)
cases.heard(
    "resume: other batch size",
    resume(per_device_train_batch_size=3),
    "batch[_-]size",
    files=DATA,
    needs=("run",),
    tamper=unfinished,
    outputs=RUN,
)
cases.heard("resume: other seed", resume(seed=7), "seed", files=DATA, needs=("run",), tamper=unfinished, outputs=RUN)
cases.heard(
    "resume: fewer steps than done", resume(max_steps=2), "max[_-]steps|step", files=DATA, needs=("run",), outputs=RUN
)
cases.refused("resume and --overwrite", resume(overwrite=True), "overwrite", "resume", files=DATA, needs=("run",))

# --- train: odd but right

cases.works("a BOM", train(), exists("out/encoder"), files={"train.jsonl": "\ufeff" + GOOD})
cases.works("CRLF", train(), exists("out/encoder"), files={"train.jsonl": GOOD.replace("\n", "\r\n")})
cases.works(
    "no final line break and blank lines",
    train(),
    exists("out/encoder"),
    files={"train.jsonl": GOOD.replace("\n", "\n\n").rstrip()},
)
cases.works(
    "U+2028 and U+0085 inside of texts",
    train(),
    exists("out/encoder"),
    files={"train.jsonl": rows(*(record(n, query=f"问\u2028题\x85{n}") for n in range(6)))},
)
cases.works(
    "gzip in two members, blanks and Chinese in paths",
    train(train_data="我的 数据/训练 集.jsonl.gz", output_dir="out 模型"),
    exists("out 模型/encoder"),
    files={"我的 数据/训练 集.jsonl.gz": gzip.compress(GOOD.encode()) + gzip.compress(GOOD.encode())},
)
cases.works(
    "a name that looks like a glob",
    train(train_data="data[1].jsonl"),
    exists("out/encoder"),
    files={"data[1].jsonl": GOOD},
)
cases.works(
    "a linked file, an absolute path",
    train(train_data="{T}/link.jsonl"),
    exists("out/encoder"),
    files=DATA,
    make=lambda work: (work / "link.jsonl").symlink_to("train.jsonl"),
)
cases.works(
    "flags with dashes, a value after =",
    [
        "train",
        "--query-encoder=nano-zh-static",
        "--train-data=train.jsonl",
        "--output-dir=out",
        "--version=none",
        "--max-steps=1",
        "--report-to=none",
    ],
    exists("out/encoder"),
    files=DATA,
)
cases.works(
    "a text of two million characters",
    train(),
    exists("out/encoder"),
    files={"train.jsonl": rows(*(record(n, pos=["长" * 2_000_000] if n == 1 else [f"文{n}"]) for n in range(4)))},
)
cases.works("one record", train(), exists("out/encoder"), files={"train.jsonl": rows(record(0))})
cases.works(
    "pairs and labels in two files",
    train(train_data=["p.jsonl", "l.jsonl"], inbatch_same_dataset="epoch"),
    exists("out/encoder"),
    files={"p.jsonl": PAIRS, "l.jsonl": LABELLED},
)
cases.works(
    "emoji, tabs, HTML and right-to-left texts",
    train(),
    exists("out/encoder"),
    files={"train.jsonl": rows(record(query="👩‍👩‍👧‍👦\t<b>", pos=["مرحبا \u202e倒"]), record(1))},
)
cases.works(
    "FlagEmbedding's spellings",
    FLAG_EMBEDDING.split(),
    exists("out/encoder"),
    files=DATA,
)
cases.works(
    "limits at their border",
    train(
        validation_share=0,
        shuffle_ratio=1,
        task_temperature=0,
        train_group_size=1,
        warmup_steps=0,
        weight_decay=0,
        seed=0,
    ),
    exists("out/encoder"),
    files=DATA,
)

# --- pretrain

TEXT = {"corpus.jsonl": CORPUS}
for name, value, *says in (
    ("mlm_probability", "0"),
    ("mlm_probability", "1.5"),
    ("decoder_mlm_probability", "-1"),
    ("max_seq_length", "1"),
    ("max_seq_length", "0"),
    ("tokens_per_device", "0"),
    ("corpus_share", "0"),
    ("corpus_share", "2"),
    ("validation_share", "1"),
    ("hidden_size", "15"),
    ("hidden_size", "0"),
    ("num_heads", "3"),
    ("num_layers", "-1"),
    ("dropout", "1.5"),
    ("max_positions", "1"),
    ("objective", "clm", "clm", "retromae"),
    ("text_documents", "pages", "pages", "paragraphs"),
    ("field", "body", "body"),
    ("user_dict", "nope.txt", r"nope\.txt"),
    ("deepspeed", "stage2.json", "[Dd]eep[Ss]peed"),
):
    cases.refused(
        f"--{name} {value}",
        pretrain(**{name: value}),
        flag(name) if name != "field" else "body",
        *says,
        files={**TEXT, "stage2.json": "{}"},
    )
cases.refused("no corpus", pretrain(corpus=None), "corpus", files=TEXT)
cases.refused("a missing corpus", pretrain(corpus="nope.txt"), r"nope\.txt", files=TEXT)
cases.refused("a bad line", pretrain(), line("corpus.jsonl", 31), files={"corpus.jsonl": CORPUS + "{broken\n"})
cases.refused(
    "text is a number", pretrain(), line("corpus.jsonl", 31), "text", files={"corpus.jsonl": CORPUS + '{"text": 5}\n'}
)
cases.refused("only empty texts", pretrain(), r"corpus\.jsonl", files={"corpus.jsonl": '{"text": ""}\n' * 5})
cases.refused(
    "a text file in GB18030",
    pretrain(corpus="c.txt"),
    line(r"c.txt", 1),
    files={"c.txt": "你好，世界。\n".encode("gb18030") * 9},
)
cases.refused(
    "neither a base nor --from_scratch", pretrain(from_scratch=None), "from_scratch|query_encoder", files=TEXT
)
cases.refused("output is a stranger's folder", pretrain(), r"\bout\b", files={**TEXT, "out/a.txt": "x"})
cases.refused(
    "a base of the hub, without a network",
    pretrain(from_scratch=None, query_encoder="BAAI/nope"),
    "BAAI/nope",
    files=TEXT,
)
cases.refused(
    "a static base without layers",
    [
        "pretrain",
        "--query_encoder",
        "nano-zh-static",
        "--corpus",
        "corpus.jsonl",
        "--output_dir",
        "out",
        "--max_steps",
        "2",
        "--objective",
        "retromae",
        "--decoder_mlm_probability",
        "2",
    ],
    "decoder[_-]mlm",
    files=TEXT,
)
cases.says(
    "texts without a text are counted",
    pretrain(),
    r"\b3\b.*(without text|empty|no text)|(without text|empty|no text).*\b3\b",
    files={"corpus.jsonl": CORPUS + '{"text": ""}\n' * 3},
)
cases.works(
    "a Windows text file",
    pretrain(corpus="我的 文章.txt"),
    exists("out/encoder"),
    files={"我的 文章.txt": "\ufeff" + ("春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。" * 4 + "\r\n") * 30},
)
cases.works(
    "gzip and a link",
    pretrain(corpus=["c.jsonl.gz", "l.jsonl"], validation_share=0),
    exists("out/encoder"),
    files={**TEXT, "c.jsonl.gz": gzip.compress(CORPUS.encode())},
    make=lambda work: (work / "l.jsonl").symlink_to("corpus.jsonl"),
)
cases.heard(
    "a dictionary with odd lines",
    pretrain(user_dict="w.txt"),
    line("w.txt", 2),
    files={**TEXT, "w.txt": "豆浆 10 n\n石板路 many n\n"},
)

# --- vocabulary


def vocabulary(*words: str, corpus: str = "corpus.jsonl", out: str = "out") -> list[str]:
    """A small vocabulary."""
    defaults = [] if "--min_count" in words else ["--min_count", "1"]
    return ["vocabulary", corpus, "--output_dir", out, *defaults, *words]


for name, value in (("words", "-1"), ("latin", "-5"), ("min_count", "-2"), ("documents", "0"), ("words", "many")):
    cases.refused(f"--{name} {value}", vocabulary(f"--{name}", value), flag(name), files=TEXT)
cases.refused("a missing corpus", vocabulary(corpus="nope.jsonl"), r"nope\.jsonl", files=TEXT)
cases.refused("an empty corpus", vocabulary(corpus="e.jsonl"), r"e\.jsonl", files={"e.jsonl": ""})
cases.refused(
    "no text field", vocabulary(corpus="e.jsonl"), line("e.jsonl", 1), "text", files={"e.jsonl": '{"body": "你好"}\n'}
)
cases.refused(
    "text is a list",
    vocabulary(corpus="e.jsonl"),
    line("e.jsonl", 2),
    "text",
    files={"e.jsonl": '{"text": "你好"}\n{"text": ["a"]}\n'},
)
cases.refused(
    "broken UTF-8", vocabulary(corpus="e.txt"), line("e.txt", 2), files={"e.txt": "你好\n".encode() + b"\xff\xfe\n"}
)
cases.refused("a PDF", vocabulary(corpus="e.pdf"), r"e\.pdf", files={"e.pdf": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"})
cases.refused(
    "a stranger's folder with --overwrite", vocabulary("--overwrite"), r"\bout\b", files={**TEXT, "out/thesis.txt": "x"}
)
cases.refused(
    "an existing tokenizer without --overwrite",
    vocabulary(),
    r"\bout\b",
    "overwrite",
    files=TEXT,
    first=(tuple(vocabulary()),),
)
cases.refused("output is the corpus", vocabulary(out="corpus.jsonl"), r"corpus\.jsonl", files=TEXT)
cases.works(
    "an existing tokenizer with --overwrite",
    vocabulary("--overwrite"),
    exists("out"),
    files=TEXT,
    first=(tuple(vocabulary()),),
)
cases.works("no words at all", vocabulary("--words", "0", "--latin", "0"), exists("out"), files=TEXT)
cases.works(
    "a glob of gz files",
    vocabulary(corpus="*.jsonl.gz"),
    exists("out"),
    files={"a b.jsonl.gz": gzip.compress(CORPUS.encode())},
)
cases.heard("fewer words than asked for", vocabulary("--words", "1000000"), r"\d+ .*words|words.*\d+", files=TEXT)

# --- new-base


def new_base(
    *words: str, source: str = "vocabulary", out: str = "out", corpus: str | None = "corpus.jsonl"
) -> list[str]:
    """A small base."""
    given = ["--corpus", corpus] if corpus else []
    size = [] if "--hidden_size" in words else ["--hidden_size", "40"]
    return ["new-base", source, "--output_dir", out, *given, *size, *words]


for name, value in (
    ("hidden_size", "0"),
    ("hidden_size", "-8"),
    ("num_layers", "-1"),
    ("passages", "0"),
    ("power", "nan"),
    ("max_positions", "0"),
    ("seed", "x"),
):
    cases.refused(f"--{name} {value}", new_base(f"--{name}", value), flag(name), files=TEXT, needs=("vocabulary",))
cases.refused(
    "heads that do not divide",
    new_base("--num_layers", "1", "--num_heads", "3"),
    "num_heads|hidden_size|heads",
    files=TEXT,
    needs=("vocabulary",),
)
cases.refused("no corpus", new_base(corpus=None), "corpus", files=TEXT, needs=("vocabulary",))
cases.refused("a missing source", new_base(source="nope"), "nope", files=TEXT)
cases.refused("a source that is no tokenizer", new_base(source="d"), r"\bd\b", files={**TEXT, "d/a.txt": "x"})
cases.refused(
    "a broken tokenizer",
    new_base(),
    "vocabulary",
    files=TEXT,
    needs=("vocabulary",),
    tamper=every("vocabulary/tokenizer.json", garble),
)
cases.refused(
    "output is the source", new_base("--overwrite", out="vocabulary"), "vocabulary", files=TEXT, needs=("vocabulary",)
)
cases.refused(
    "output is a stranger's folder",
    new_base("--overwrite"),
    r"\bout\b",
    files={**TEXT, "out/a.txt": "x"},
    needs=("vocabulary",),
)
cases.heard(
    "fewer layers than the base has",
    new_base("--num_layers", "0", source="run", corpus=None),
    "layer|num_layers",
    files=TEXT,
    needs=("run",),
)
cases.heard(
    "a hidden size that the base does not have",
    new_base("--hidden_size", "64", "--num_layers", "1", source="run", corpus=None),
    flag("hidden_size"),
    files=TEXT,
    needs=("run",),
)
cases.works("a base from a vocabulary", new_base(), exists("out"), files=TEXT, needs=("vocabulary",))
cases.works(
    "a linked vocabulary, a trailing slash",
    new_base(source="link/"),
    exists("out"),
    files=TEXT,
    needs=("vocabulary",),
    tamper=lambda work: (work / "link").symlink_to("vocabulary"),
)


# --- shrink


def shrunk(*given: str, source: str = "nano-zh-static", out: str = "out") -> list[str]:
    """Return a `shrink` command."""
    return ["shrink", source, "--output_dir", out, *given]


cases.refused("shrink: neither layers nor pieces", shrunk(), "--layers, --pieces")
cases.refused("shrink: a layer that is not there", shrunk("--layers", "3"), "layers")
cases.refused("shrink: a negative layer", shrunk("--layers", "-1"), "--layers")
cases.refused("shrink: pieces without a corpus", shrunk("--pieces", "9000"), "--corpus", files=TEXT)
cases.refused(
    "shrink: a corpus without pieces", shrunk("--layers", "0", "--corpus", "corpus.jsonl"), "--pieces", files=TEXT
)
cases.refused(
    "shrink: another tokenizer", shrunk("--pieces", "9000", "--corpus", "corpus.jsonl"), "WordPiece", files=TEXT
)
cases.refused("shrink: a missing source", shrunk("--layers", "0", source="nope"), "nope")
cases.refused("shrink: output is the source", shrunk("--layers", "0", source="b", out="b"), "b", files={"b/a.txt": "x"})
