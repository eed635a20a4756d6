"""Trials of the machine around the commands: pipes, locales, homes, signals, full disks, two runs at once."""

import json
import signal
from pathlib import Path

from tests.trials.case import Cases, Interrupt
from tests.trials.material import (
    CORPUS,
    GOOD,
    PARAGRAPH,
    QUESTIONS,
    SCORED,
    SET,
    TEXTS,
    convert,
    counts,
    encode,
    evaluate,
    exists,
    flag,
    generate,
    line,
    mine,
    options,
    pretrain,
    record,
    rows,
    split,
    train,
)

cases = Cases()
DATA = {"train.jsonl": GOOD}
NO_NOISE = ("BrokenPipe", "Exception ignored", "Error in sys.excepthook", "lost sys.stderr")
TRAIN = " ".join(train())


def many(number: int) -> str:
    """Many different records."""
    return "".join(
        json.dumps(
            {
                "query": f"第{n}个问题是什么",
                "pos": [f"{n}号回答：{n * 7919 % 10007}"],
                "neg": [f"{n}号错答"],
                "task": "qa",
            },
            ensure_ascii=False,
        )
        + "\n"
        for n in range(number)
    )


def big(name: str, number: int):
    """Write many records when the case is built, not when the module is imported."""

    def make(work: Path) -> None:
        (work / name).write_text(many(number), encoding="utf-8")

    return make


# --- the command itself

cases.refused("no command", [""], "command|COMMAND|usage", command="top")
cases.refused("an unknown command", ["trian"], "trian", "train", command="top")
cases.refused("a flag before the command", ["--output_dir", "out", "train"], "output_dir", command="top")
cases.works("help", ["--help"], command="top")
cases.refused("an argument file", ["@arguments.txt"], "@arguments", command="top", files={"arguments.txt": "metrics\n"})
cases.refused("a path as command", ["../metrics"], "metrics", command="top")
cases.refused("no command at all", ["x"], "command|COMMAND|usage", command="top", shell="$ZH")
cases.works("help in a terminal of one column", ["x"], command="top", shell="COLUMNS=1 $ZH train --help > /dev/null")
cases.works(
    "help with COLUMNS that is no number", ["x"], command="top", shell="COLUMNS=wide $ZH split --help > /dev/null"
)

# --- pipes and closed ends

for name, words in (
    ("help", "--help"),
    ("train --help", "train --help"),
    ("metrics", "metrics"),
    ("versions", "versions zh_llm_embedder"),
    ("doctor", "doctor train.jsonl --show 1000"),
):
    cases.works(
        f"{name} | head -1",
        ["x"],
        command="pipe",
        shell=f"$ZH {words} | head -1; exit ${{PIPESTATUS[0]}}",
        codes=(0, 1, 141),
        absent=NO_NOISE,
        files={"train.jsonl": rows(*(record(0, neg=record()["pos"]) for _ in range(300)))},
    )
cases.works(
    "a reader that is gone at once",
    ["x"],
    command="pipe",
    shell="$ZH losses | true; exit ${PIPESTATUS[0]}",
    codes=(0, 141),
    absent=NO_NOISE,
)
cases.works("closed stdout", ["x"], command="pipe", shell="$ZH metrics >&-", codes=(0, 2), absent=NO_NOISE)
cases.works(
    "closed stderr and a wrong flag",
    ["x"],
    command="pipe",
    shell="$ZH metrics --nope 2>&-",
    codes=(2,),
    absent=NO_NOISE,
)
cases.works(
    "closed stdin, stdout and stderr",
    ["x"],
    lambda work, _: exists("out/train.jsonl")(work, ""),
    command="pipe",
    shell=f"$ZH {' '.join(split())} <&- >&- 2>&-",
    files=DATA,
)
cases.refused(
    "stdout on a full device", ["x"], "[Nn]o space", command="pipe", shell="$ZH metrics > /dev/full", absent=NO_NOISE
)
cases.refused(
    "a full device as output",
    convert("train.jsonl", "--from", "flagembedding", output="/dev/full"),
    "/dev/full",
    command="pipe",
    files=DATA,
)
cases.works(
    "convert from /dev/stdin",
    ["x"],
    counts("out.jsonl", 6),
    command="pipe",
    shell="cat train.jsonl | $ZH convert /dev/stdin --from flagembedding --output out.jsonl",
    codes=(0, 2),
    files=DATA,
)
cases.heard(
    "split from /dev/stdin",
    ["x"],
    "stdin|pipe|out",
    command="pipe",
    shell=f"cat train.jsonl | $ZH {' '.join(split('/dev/stdin'))}",
    files=DATA,
)
cases.heard(
    "doctor from a substitution",
    ["x"],
    "fd/|pipe|record",
    command="pipe",
    shell="$ZH doctor <(cat train.jsonl)",
    files=DATA,
)
cases.works(
    "training with closed stdin", ["x"], exists("out/encoder"), command="pipe", shell=f"$ZH {TRAIN} <&-", files=DATA
)

# --- locales, encodings, names

C_LOCALE = "env -u LANG LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
cases.works(
    "versions in locale C", ["x"], command="locale", shell=f"{C_LOCALE} $ZH versions zh_llm_embedder", absent=NO_NOISE
)
cases.works(
    "help in ASCII", ["x"], command="locale", shell="PYTHONIOENCODING=ascii $ZH convert --help", absent=NO_NOISE
)
cases.says(
    "doctor in GBK with emoji",
    ["x"],
    "empty_text|negative",
    command="locale",
    shell="PYTHONIOENCODING=gbk $ZH doctor train.jsonl",
    codes=(1,),
    files={"train.jsonl": rows(record(query="👩‍🚀问", neg=record()["pos"]))},
)
cases.works(
    "convert in locale C",
    ["x"],
    counts("out.jsonl", 6),
    command="locale",
    shell=f"{C_LOCALE} $ZH convert 数据.jsonl --from flagembedding --output out.jsonl",
    files={"数据.jsonl": GOOD},
)
cases.refused(
    "a Chinese file that is missing, in locale C",
    ["x"],
    "jsonl",
    command="locale",
    shell=f"{C_LOCALE} $ZH doctor 没有.jsonl",
)
cases.refused("a name that is no UTF-8", ["x"], "jsonl", command="locale", shell="$ZH doctor $'\\xff\\xfe.jsonl'")
cases.refused("a field in an encoding that is unknown", ["x"], command="locale", shell="$ZH metrics $'\\xe4\\xbd'")
cases.works(
    "a name that begins with a dash",
    ["x"],
    command="locale",
    shell="$ZH doctor -- -train.jsonl",
    codes=(0, 1),
    files={"-train.jsonl": GOOD},
)
cases.refused(
    "an argument of 100,000 characters",
    ["x"],
    "version|long|xxx",
    command="locale",
    shell="$ZH versions $($PYTHON -c 'print(\"x\" * 100000)')",
)
cases.works(
    "python -O and warnings as errors",
    ["x"],
    command="locale",
    shell="$PYTHON -O -W error::SyntaxWarning -m zh_embedder.cli metrics ndcg@10",
)

# --- the other ways to start

for module in ("convert", "doctor", "split", "mine_negatives", "score_teacher", "generate_queries", "make_pairs"):
    needed = {
        "convert": "--from squad --output o",
        "split": "--output_dir out --ratios 0.5 0.5",
        "mine_negatives": "--output o.jsonl --method bm25",
        "score_teacher": "--output o.jsonl --model nano-zh-static --method embedder",
        "generate_queries": "--dry_run",
        "make_pairs": "--output_dir out",
    }
    cases.refused(
        f"data_tools.{module} on a missing file",
        ["x"],
        r"nope\.jsonl",
        command="module",
        shell=f"$TOOL.{module} nope.jsonl {needed.get(module, '')}",
    )
cases.refused(
    "zh_embedder.pretrain without flags",
    ["x"],
    "corpus|output_dir",
    command="module",
    shell="$PYTHON -m zh_embedder.pretrain",
)
cases.refused(
    "zh_embedder.vocabulary on a missing file",
    ["x"],
    r"nope\.txt",
    command="module",
    shell="$PYTHON -m zh_embedder.vocabulary nope.txt --output_dir out",
)
cases.refused(
    "run_dense.py without flags", ["x"], "train_data|eval_data|output_dir", command="module", shell="$RUN_DENSE"
)

# --- run_dense.py's evaluation


def dense(**changes: object) -> list[str]:
    """LLM-Embedder's evaluation command."""
    base: dict[str, object] = {
        "eval_data": "eval.jsonl",
        "corpus": "corpus.jsonl",
        "query_encoder": "nano-zh-static",
        "metrics": ["mrr", "ndcg"],
        "cutoffs": [1, 3],
        "hits": 3,
        "output_dir": "out",
    }
    return ["train", *options(base, changes)]


EVAL = {
    "eval.jsonl": rows(*({"query": q, "pos_index": [n], "task": "qa"} for n, (q, _) in enumerate(QUESTIONS))),
    "corpus.jsonl": TEXTS,
}
for name, more, *says in (
    ("cutoff 0", {"cutoffs": [0]}, "cutoff|@0"),
    ("a cutoff in words", {"cutoffs": ["ten"]}, "cutoffs|ten"),
    ("an unknown method", {"retrieval_method": "sparse"}, "sparse"),
    ("an unknown evaluation", {"eval_method": "guess"}, "guess"),
    ("results that were never saved", {"load_result": True}, "load_result|save_result|out"),
    ("vectors that were never saved", {"load_encode": True}, "load_encode|save_encode|out"),
    ("an index that was never saved", {"load_index": True}, "load_index|save_index|out"),
    ("no negatives to collate", {"metrics": "collate_neg", "max_neg_num": 0}, "max_neg_num"),
    ("a name that leaves the folder", {"metrics": "collate_neg", "save_name": "../../evil"}, "save_name"),
    (
        "vectors with a name that leaves the folder",
        {"save_encode": True, "embedding_name": "../evil"},
        "embedding_name",
    ),
    ("an index of a kind that does not exist", {"faiss_index_factory": "Foo"}, "faiss_index_factory|Foo"),
    ("no corpus, but positions", {"corpus": None}, "corpus"),
    ("a log below a file", {"log_path": "corpus.jsonl/log"}, "log_path|corpus.jsonl"),
    ("a log over the data", {"log_path": "eval.jsonl"}, "log_path|eval.jsonl"),
):
    cases.refused(name, dense(**more), *map(flag, says), command="run_dense", files=EVAL)
cases.refused(
    "a position that is a text",
    dense(),
    line("eval.jsonl", 1),
    "pos_index",
    command="run_dense",
    files={**EVAL, "eval.jsonl": rows({"query": "a", "pos_index": ["0"]})},
)
cases.refused(
    "a position beyond the corpus",
    dense(),
    line("eval.jsonl", 1),
    "99",
    command="run_dense",
    files={**EVAL, "eval.jsonl": rows({"query": "a", "pos_index": [99]})},
)
cases.heard(
    "neither training nor evaluation", ["train", "--output_dir", "out"], "train_data|eval_data", command="run_dense"
)
cases.heard(
    "a flag of training in an evaluation",
    dense(learning_rate=1e-3),
    flag("learning_rate"),
    command="run_dense",
    files=EVAL,
)
cases.works(
    "BM25", dense(retrieval_method="bm25", log_path="out.log"), exists("out.log"), command="run_dense", files=EVAL
)
cases.works(
    "save, then load",
    dense(load_encode=True, load_result=True),
    command="run_dense",
    files=EVAL,
    first=(tuple(dense(save_encode=True, save_result=True)),),
)
cases.refused(
    "vectors of another corpus",
    dense(load_encode=True),
    "corpus|keys|out",
    command="run_dense",
    files=EVAL,
    first=(tuple(dense(save_encode=True)),),
    tamper=lambda work: (work / "corpus.jsonl").write_text(TEXTS.replace("退货", "换货"), encoding="utf-8"),
)
cases.works(
    "collations in the output folder",
    dense(metrics=["ndcg", "collate_neg"], save_to_output=True, save_name="x"),
    exists("out"),
    command="run_dense",
    files=EVAL,
)

# --- homes, temporary folders, working folders, environment

cases.works(
    "HOME that does not exist",
    ["x"],
    exists("out/encoder"),
    command="environment",
    shell=f"HOME=/nonexistent/home $ZH {TRAIN}",
    files=DATA,
)
cases.heard(
    "HOME that may not be written",
    ["x"],
    command="environment",
    shell=f"mkdir -m 555 out-home; HOME=$PWD/out-home $ZH {TRAIN}",
    files=DATA,
    permissions=True,
    codes=(0,),
)
cases.works(
    "TMPDIR that does not exist",
    ["x"],
    exists("out.jsonl"),
    command="environment",
    shell=f"TMPDIR=/nonexistent/tmp $ZH {' '.join(mine())}",
    files=DATA,
)
cases.works(
    "the working folder is gone: metrics",
    ["x"],
    command="environment",
    shell="mkdir d; cd d; rmdir ../d; $ZH metrics ndcg@10",
)
cases.refused(
    "the working folder is gone: doctor",
    ["x"],
    "jsonl|folder|directory",
    command="environment",
    shell="mkdir d; cd d; rmdir ../d; $ZH doctor train.jsonl",
)
cases.refused(
    "the working folder is gone: split",
    ["x"],
    "jsonl|folder|directory|out",
    command="environment",
    shell=f"mkdir d; cd d; rmdir ../d; $ZH {' '.join(split('../train.jsonl'))}",
    files=DATA,
)
cases.heard(
    "WORLD_SIZE that is no number",
    train(),
    "WORLD_SIZE",
    command="environment",
    files=DATA,
    env={"WORLD_SIZE": "two"},
    real=True,
)
cases.heard(
    "RANK without its peers",
    train(),
    "RANK|WORLD_SIZE|MASTER",
    command="environment",
    files=DATA,
    env={"RANK": "3", "WORLD_SIZE": "2", "LOCAL_RANK": "3"},
    real=True,
)
cases.works(
    "OMP_NUM_THREADS that is no number",
    train(),
    exists("out/encoder"),
    command="environment",
    files=DATA,
    env={"OMP_NUM_THREADS": "many"},
    real=True,
)
cases.refused(
    "a dead hub",
    train(query_encoder="BAAI/no-such-model-x"),
    "BAAI/no-such-model-x",
    command="environment",
    files=DATA,
    env={"HF_HUB_OFFLINE": None, "HF_ENDPOINT": "http://127.0.0.1:9"},
    real=True,
)
cases.refused(
    "a proxy that is dead",
    ["x"],
    "BAAI/no-such-model-x",
    command="environment",
    shell="export HTTPS_PROXY=http://127.0.0.1:9 HTTP_PROXY=http://127.0.0.1:9; "
    f"env -u HF_HUB_OFFLINE $ZH {' '.join(encode(model='BAAI/no-such-model-x'))}",
    files={"texts.jsonl": TEXTS},
)
cases.refused(
    "nano-zh-static is a file here",
    train(),
    "nano-zh-static",
    command="environment",
    files={**DATA, "nano-zh-static": "notes\n"},
)
cases.refused(
    "HF_HOME is a file",
    train(query_encoder="BAAI/no-such-model-x"),
    "BAAI/no-such-model-x",
    command="environment",
    files={**DATA, "f": "x"},
    env={"HF_HOME": "{T}/f"},
    real=True,
)

# --- full disks, too many files, files that vanish

for name, words, files, limit in (
    ("convert", convert("train.jsonl", "--from", "flagembedding"), {}, 64),
    ("split", split(), {}, 64),
    ("doctor --fix", ["doctor", "train.jsonl", "--fix", "out"], {}, 64),
    ("mine", mine(method="random"), {}, 64),
    ("encode", encode("train.jsonl", field="query"), {}, 64),
    ("pairs", ["pairs", "corpus.jsonl", "--output_dir", "out"], {"corpus.jsonl": CORPUS * 20}, 16),
    ("train", train(), {}, 512),
    ("export", ["export", "nano-zh-static", "out"], {}, 512),
):
    # A training and an encoding may keep what they can resume from; the others leave nothing.
    add = cases.stopped if name in ("train", "encode") else cases.refused
    add(
        f"the disk is full: {name}",
        ["x"],
        "[Ff]ile too large|[Nn]o space|too large|[Dd]isk",
        command="disk",
        shell=f"ulimit -f {limit}; $ZH {' '.join(words)}",
        codes=(2,),
        files=files,
        make=big("train.jsonl", 2000),
    )
cases.works(
    "300 files and 60 handles",
    ["x"],
    command="disk",
    shell="ulimit -n 60; $ZH doctor d",
    codes=(0, 1),
    files={f"d/{n}.jsonl": GOOD for n in range(300)},
)
cases.works(
    "300 files to split with 60 handles",
    ["x"],
    lambda work, _: None if len(list((work / "out").rglob("*.jsonl"))) >= 300 else "files were lost",
    command="disk",
    shell=f"ulimit -n 60; $ZH {' '.join(split('d'))}",
    codes=(0,),
    files={
        f"d/{n}.jsonl": rows(
            record(n, query=f"问题{n}", pos=[f"甲{n}"], neg=[f"乙{n}"]),
            record(n, query=f"另问{n}", pos=[f"丙{n}"], neg=[f"丁{n}"]),
        )
        for n in range(300)
    },
)
for name, words in (("doctor", "doctor train.jsonl"), ("split", " ".join(split()))):
    cases.heard(
        f"the file is cut while it is read: {name}",
        ["x"],
        "train.jsonl|record",
        command="disk",
        shell=f"(sleep 0.8; : > train.jsonl) & $ZH {words}",
        make=big("train.jsonl", 30_000),
        outputs=("out*", ".out*", "train.jsonl"),
    )

# --- two at once

for name, words, files, result in (
    ("split", split(), DATA, "out/split.json"),
    ("mine", mine(), DATA, "out.jsonl"),
    ("encode", encode(shard_size=1), {"texts.jsonl": TEXTS}, "out"),
    ("train", train(), DATA, "out/encoder"),
    (
        "generate",
        generate(output_corpus="out2.jsonl", dry_run=True, output=None),
        {"doc.txt": PARAGRAPH * 20},
        "out2.jsonl",
    ),
):
    command_line = " ".join(words)
    cases.works(
        f"the same output: {name}",
        ["x"],
        exists(result),
        command="two",
        shell=f"$ZH {command_line} & one=$!; $ZH {command_line} & two=$!; wait $one; a=$?; wait $two; b=$?; "
        "echo codes $a $b; case $a$b in 00|02|20) exit 0;; *) exit 9;; esac",
        files=files,
    )

# --- signals

STEPS = 100_000
LONG = train(max_steps=STEPS, save_steps=20, save_total_limit=1)


def no_part(*names: str):
    """No half-written result lies under its final name."""

    def check(work: Path, _: str) -> str | None:
        found = [name for name in names if (work / name).exists()]
        return f"half-written: {found}" if found else None

    return check


for number, code in ((signal.SIGINT, (130,)), (signal.SIGTERM, (130, 143)), (signal.SIGHUP, (129, 130))):
    name = signal.Signals(number).name
    cases.stopped(
        f"{name}: train",
        LONG,
        command="signal",
        real=True,
        files=DATA,
        codes=code,
        interrupt=Interrupt(number, path="out/checkpoint-*", after=40),
        check=no_part("out/encoder"),
    )
    cases.stopped(
        f"{name}: split",
        split(near=0.8),
        command="signal",
        real=True,
        make=big("train.jsonl", 60_000),
        codes=code,
        interrupt=Interrupt(number, after=1.5),
        check=no_part("out/train.jsonl", "out/split.json"),
        outputs=(".out*", "out*"),
    )
for name, words, files, when, parts in (
    ("while it starts", train(max_steps=STEPS), DATA, Interrupt(after=0.7), ("out/encoder",)),
    ("convert", convert("train.jsonl", "--from", "flagembedding"), {}, Interrupt(after=0.8), ("out.jsonl",)),
    ("doctor", ["doctor", "train.jsonl", "--json", "out.json"], {}, Interrupt(after=1.0), ("out.json",)),
    ("mine", mine(), {}, Interrupt(after=3.0), ("out.jsonl",)),
    (
        "encode",
        encode("train.jsonl", field="query", shard_size=50, tokens_per_batch=64),
        {},
        Interrupt(path="out/*", after=15),
        (),
    ),
    (
        "generate, while it waits",
        generate(retries=9, give_up=99),
        {"doc.txt": PARAGRAPH * 30},
        Interrupt(after=3.0),
        ("out.jsonl",),
    ),
    (
        "pretrain",
        pretrain(max_steps=STEPS),
        {"corpus.jsonl": CORPUS},
        Interrupt(seen=r"\bloss\b|step|\d+/100000", after=20),
        ("out/encoder",),
    ),
    ("evaluate", evaluate(bm25=True, data="train.jsonl", json="out.json"), {}, Interrupt(after=8.0), ("out.json",)),
    (
        "vocabulary",
        ["vocabulary", "train.jsonl", "--output_dir", "out"],
        {"train.jsonl": CORPUS * 200},
        Interrupt(after=1.5),
        ("out/tokenizer.json",),
    ),
):
    makes = {} if "train.jsonl" in files else {"make": big("train.jsonl", 60_000)}
    cases.stopped(
        f"Ctrl-C: {name}",
        words,
        command="signal",
        real=True,
        files=files,
        interrupt=when,
        check=no_part(*parts),
        **makes,
    )
cases.works(
    "Ctrl-C, then resume",
    ["x"],
    exists("out/encoder"),
    command="signal",
    shell=f"set -m; $ZH {' '.join(train(max_steps=300, save_steps=5, save_total_limit=1))} & p=$!; "
    "for i in $(seq 300); do ls -d out/checkpoint-* > /dev/null 2>&1 && break; sleep 0.1; done; "
    "kill -INT $p; wait $p; a=$?; "
    f"$ZH {' '.join(train(max_steps=300, save_steps=5, save_total_limit=1, resume_from_checkpoint='True'))}; "
    "b=$?; echo codes $a $b; [ $a = 130 ] && [ $b = 0 ]",
    files=DATA,
)
cases.works(
    "killed, then resume: mine",
    ["x"],
    counts("out.jsonl", 20_000),
    command="signal",
    shell=f"mine() {{ $ZH {' '.join(mine(block=64, method='random'))}; }}; mine & p=$!; sleep 1.5; "
    "kill -KILL $(pgrep -P $p) $p; wait $p; mine",
    make=big("train.jsonl", 20_000),
)
cases.works(
    "teacher scores and evaluation together, as a whole",
    train(train_data="s.jsonl", eval_data="set", teacher_temperature="auto", bm25=True),
    exists("out/encoder", "out/report.html"),
    command="train",
    files={"s.jsonl": SCORED, **SET},
)
