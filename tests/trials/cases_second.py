"""A second set: data against flags, one command's output in another, moved folders, what other programs export."""

import gzip
import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

from tests.trials.case import Cases
from tests.trials.material import (
    CORPUS,
    GOOD,
    LABELLED,
    PAIRS,
    QUESTIONS,
    RECORDS,
    SCORED,
    SET,
    TEXTS,
    convert,
    counts,
    do,
    encode,
    evaluate,
    every,
    exists,
    flag,
    generate,
    holds,
    line,
    mine,
    pretrain,
    record,
    rows,
    score,
    split,
    train,
)


class Second(Cases):
    """Cases whose names begin with `second: `."""

    def _add(self, expect: str, name: str, argv, says, more) -> None:
        super()._add(expect, name, argv, says, more)
        self.list[-1] = replace(self.list[-1], name=f"second: {self.list[-1].name}")


cases = Second()
DATA = {"train.jsonl": GOOD}
RUN = ("run",)
TAUGHT = ("run_with_instructions",)
FIRST = (tuple(train(save_steps=1)),)
EMOJI = "资料 🚂/数据①.jsonl"


def renamed(old: str, new: str):
    """Rename a path."""
    return lambda work: (work / old).rename(work / new)


def linked(path: str, target: str):
    """Make a link."""

    def run(work: Path) -> None:
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).symlink_to(target)

    return run


def written(path: str, text: str):
    """Write a file anew."""

    def run(work: Path) -> None:
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(text, encoding="utf-8")

    return run


def copied(old: str, new: str):
    """Copy a folder."""
    return lambda work: shutil.copytree(work / old, work / new)


def qrels(*judgements: str, head: str = "query-id\tcorpus-id\tscore") -> dict:
    """The set with other judgements."""
    return {**SET, "set/qrels.tsv": "\n".join([head, *judgements]) + "\n"}


def files_below(folder: str, pattern: str, least: int):
    """There are at least so many files."""

    def check(work: Path, _: str) -> str | None:
        found = len(list((work / folder).rglob(pattern)))
        return None if found >= least else f"{found} files {pattern} below {folder}, expected {least}"

    return check


# --- train: resuming what has changed -----------------------------------------------------------------------------

cases.works(
    "resume after the run's folder was renamed",
    train(max_steps=6, save_steps=2, resume_from_checkpoint=True),
    exists("out/encoder", "out/checkpoint-6"),
    files=DATA,
    needs=RUN,
    tamper=renamed("run", "out"),
)
cases.works(
    "resume through a link to a run that was moved",
    train(max_steps=6, save_steps=2, resume_from_checkpoint=True),
    exists("moved/checkpoint-6"),
    files=DATA,
    needs=RUN,
    tamper=do(renamed("run", "moved"), linked("out", "moved")),
    outputs=("out*", ".out*", "moved*", ".moved*"),
)
cases.heard(
    "resume, the same records under another file name",
    train(train_data="new.jsonl", max_steps=4, save_steps=1, resume_from_checkpoint=True),
    r"new\.jsonl|train[_-]data|plan",
    files=DATA,
    first=FIRST,
    tamper=renamed("train.jsonl", "new.jsonl"),
)
cases.refused(
    "resume, the same records in reverse order",
    train(max_steps=4, save_steps=1, resume_from_checkpoint=True),
    r"(?i)train[_-]data|train\.jsonl|plan|data",
    files=DATA,
    first=FIRST,
    tamper=written("train.jsonl", rows(*RECORDS[::-1])),
)
cases.refused(
    "resume from a checkpoint of a run on other records",
    train(resume_from_checkpoint="run/checkpoint-2", max_steps=4),
    r"(?i)checkpoint-2|plan|data",
    files={"train.jsonl": rows(*RECORDS[:2])},
    needs=RUN,
)
cases.heard(
    "resume with another pooling",
    train(max_steps=4, save_steps=1, resume_from_checkpoint=True, pooling_method="cls"),
    "(?i)pooling",
    files=DATA,
    first=FIRST,
)
cases.heard(
    "resume with another instruction version",
    train(max_steps=4, save_steps=1, resume_from_checkpoint=True, version="bge_zh"),
    "(?i)version|instruction",
    files=DATA,
    first=FIRST,
)
cases.refused(
    "resume from a checkpoint of a pretraining",
    train(resume_from_checkpoint="pre/checkpoint-2", max_steps=4),
    r"pre/checkpoint-2",
    files={**DATA, "corpus.jsonl": CORPUS},
    first=(tuple(pretrain(output_dir="pre", save_steps=2)),),
)
cases.heard(
    "resume where a checkpoint was given a later number",
    train(max_steps=6, save_steps=2, resume_from_checkpoint=True),
    r"checkpoint-9",
    files=DATA,
    needs=RUN,
    tamper=do(renamed("run", "out"), renamed("out/checkpoint-4", "out/checkpoint-9")),
)
cases.works(
    "resume with copies of checkpoints under other names beside",
    train(max_steps=6, save_steps=2, resume_from_checkpoint=True),
    exists("out/checkpoint-6", "out/checkpoint-4.bak", "out/checkpoint-4 (副本)"),
    files=DATA,
    needs=RUN,
    tamper=do(
        renamed("run", "out"),
        copied("out/checkpoint-4", "out/checkpoint-4.bak"),
        copied("out/checkpoint-2", "out/checkpoint-4 (副本)"),
    ),
)
cases.works(
    "resume from a named checkpoint with a dot and a slash",
    train(max_steps=3, save_steps=1, resume_from_checkpoint="./out/../out/checkpoint-1/"),
    exists("out/encoder"),
    files=DATA,
    first=FIRST,
)

# --- train: bases, and flags against data -------------------------------------------------------------------------

cases.works(
    "a base that is a checkpoint", train(query_encoder="run/checkpoint-2"), exists("out/encoder"), files=DATA, needs=RUN
)
cases.works(
    "a base that is an export in half precision",
    train(query_encoder="exported"),
    exists("out/encoder"),
    files=DATA,
    needs=RUN,
    first=(("export", "run", "exported", "--half"),),
)
cases.refused(
    "a base inside of the output", train(query_encoder="out/encoder", overwrite=True), "out", files=DATA, first=FIRST
)
cases.refused(
    "a key encoder of another size",
    train(key_encoder="small/encoder"),
    "(?i)key[_-]encoder|size|dimension|small",
    files={**DATA, "corpus.jsonl": CORPUS},
    first=(tuple(pretrain(output_dir="small")),),
)
cases.heard(
    "the tokenizer of another base",
    train(tokenizer_name="vocabulary"),
    "(?i)tokenizer",
    files=DATA,
    needs=("vocabulary",),
)
cases.heard("last token of a base without order", train(pooling_method="last_token"), "(?i)pooling", files=DATA)
cases.heard(
    "a temperature of cosines with inner products",
    train(dense_metric="ip", cos_temperature=0.02),
    flag("cos_temperature"),
    files=DATA,
)
cases.refused(
    "the base in two spellings",
    [*train(), "--model_name_or_path", "run"],
    r"model[_-]name[_-]or[_-]path|query[_-]encoder",
    files=DATA,
    needs=RUN,
)
cases.refused(
    "the temperature in two spellings",
    [*train(cos_temperature=0.02), "--temperature", "0.05"],
    "temperature",
    files=DATA,
)
cases.refused(
    "scores required, but both weights are 0",
    train(knowledge_distillation=True, contrastive_weight=0, distill_weight=0),
    "weight",
    files={"train.jsonl": SCORED},
)
cases.heard(
    "half of the records have teacher scores",
    train(),
    "(?i)teacher",
    files={"train.jsonl": rows(*(record(n, **({"teacher_scores": [2, 1]} if n % 2 else {})) for n in range(6)))},
)
cases.refused(
    "a teacher score of 1e999",
    train(),
    line("train.jsonl", 2),
    files={
        "train.jsonl": GOOD.splitlines()[0] + '\n{"query": "问", "pos": ["答"], "neg": ["错"], "task": "qa", '
        '"teacher_scores": [1e999, 0.5]}\n'
    },
)
cases.refused(
    "scores of positives and negatives changed round",
    train(),
    line("train.jsonl", 1),
    "scores",
    files={"train.jsonl": rows(record(0, neg=["甲", "乙"], pos_scores=[0.3, 0.2], neg_scores=[0.9]), record(1))},
)
cases.heard(
    "a share to hold out of records that are one group",
    train(validation_share=0.5),
    "(?i)validation[_-]share|group",
    files={"train.jsonl": rows(*(record(n, group="同一篇") for n in range(6)))},
)
cases.heard(
    "datasets that are all dropped as too small",
    train(train_data="folder", small_threshold=100, drop_threshold=100),
    flag("drop_threshold") + "|drop",
    files={"folder/a.jsonl": GOOD, "folder/b.jsonl": GOOD.replace("怎么", "如何")},
)
cases.heard(
    "an instruction for records without a task, all have one",
    train(query_instruction="为这个句子生成表示："),
    flag("query_instruction"),
    files=DATA,
)
cases.heard(
    "a default task that the version lacks",
    train(version="zh_llm_embedder", default_task="烹饪"),
    "烹饪",
    files=DATA,
)
cases.refused(
    "a prompt format of three places",
    train(prompt_format="{}：{}：{}"),
    flag("prompt_format"),
    files={"train.jsonl": rows(record(0, prompt="问"), record(1))},
)
cases.works(
    "prompts of braces, percents and an emoji",
    train(prompt_format="{}\n{}"),
    exists("out/encoder"),
    files={"train.jsonl": rows(record(0, prompt="{query} %s ${HOME} \\n 🙂"), record(1, prompt="{}{0}"), record(2))},
)
cases.refused(
    "the version lets the teacher pick, the records have no scores",
    train(version="v.yaml", use_train_config=True),
    "(?i)teacher",
    files={
        **DATA,
        "v.yaml": 'tasks:\n  qa:\n    query: "问："\n    key: ""\n    training: {select_positive: teacher}\n',
    },
)
cases.heard(
    "the version weighs a dataset that is not there",
    train(version="v.yaml", use_train_config=True, inbatch_same_dataset="epoch"),
    "cmrc2018",
    files={
        **DATA,
        "v.yaml": 'tasks:\n  qa:\n    query: "问："\n    key: ""\n    training: {dataset_weights: {cmrc2018: 0.5}}\n',
    },
)
cases.works(
    "a task with a slash and an emoji, of a version of one's own",
    train(version="v.yaml", validation_share=0.4),
    exists("out/encoder"),
    files={
        "train.jsonl": GOOD.replace('"qa"', '"法律/合同 ⚖"'),
        "v.yaml": 'tasks:\n  "法律/合同 ⚖":\n    query: "问："\n    key: ""\n',
    },
)
cases.heard(
    "a task that climbs, of a version of one's own",
    train(version="v.yaml", validation_share=0.4),
    r"\.\./",
    files={
        "train.jsonl": GOOD.replace('"qa"', '"../../上"'),
        "v.yaml": 'tasks:\n  "../../上":\n    query: "问："\n    key: ""\n',
    },
)
cases.works(
    "emoji, a blank and a circled digit in all paths",
    train(train_data=EMOJI, output_dir="out 🚂/第①次"),
    exists("out 🚂/第①次/encoder"),
    files={EMOJI: GOOD},
)
cases.refused("records are a set's queries", train(train_data="set/queries.jsonl"), line("queries.jsonl", 1), files=SET)

# --- evaluate: sets that nearly match -----------------------------------------------------------------------------

cases.refused("set: ids differ in case", evaluate(), "Q0|q0", files=qrels(*(f"Q{n}\tD{n}\t1" for n in range(6))))
cases.refused(
    "set: ids with zeros in front", evaluate(), "q000|q0", files=qrels(*(f"q00{n}\td00{n}\t1" for n in range(6)))
)
cases.refused(
    "set: queries and keys changed round in the judgements",
    evaluate(),
    "d0|q0",
    files=qrels(*(f"d{n}\tq{n}\t1" for n in range(6))),
)
cases.says(
    "set: half of the judged queries are not there",
    evaluate(),
    r"(?i)\b3\b.*(quer|judg)",
    files=qrels(*(f"q{n}\td{n % 6}\t1" for n in range(3, 9))),
)
cases.heard(
    "set: judgements of TREC",
    evaluate(),
    r"qrels\.tsv",
    files={
        **SET,
        "set/qrels.tsv": "".join(f"q{n} 0 d{n} 1\n" for n in range(6)),
    },
)
cases.heard(
    "set: a blank after the key's id",
    evaluate(),
    r"(?i)d0|judged keys",
    files=qrels("q0\td0 \t1", *(f"q{n}\td{n}\t1" for n in range(1, 6))),
)
cases.heard(
    "set: a relevance of a half",
    evaluate(),
    r"0\.5",
    files=qrels("q0\td0\t0.5", *(f"q{n}\td{n}\t1" for n in range(1, 6))),
)
cases.refused("set: nothing but -1", evaluate(), "(?i)relevan", files=qrels(*(f"q{n}\td{n}\t-1" for n in range(6))))
cases.refused(
    "set: queries and corpus under each other's name",
    evaluate(),
    "q0|d0",
    files={**SET, "set/queries.jsonl": SET["set/corpus.jsonl"], "set/corpus.jsonl": SET["set/queries.jsonl"]},
)
cases.heard(
    "set: a task on the command line against the set's own",
    evaluate(models=["run_with_instructions"], task="law"),
    r"(?i)--task|law",
    files=SET,
    needs=TAUGHT,
)
cases.heard(
    "set: a folder of two kinds",
    evaluate(),
    r"test\.jsonl|qrels|kind",
    files={**SET, "set/test.jsonl": PAIRS},
)
cases.refused(
    "set: graded pairs whose scores are texts",
    evaluate(data="p.jsonl"),
    line("p.jsonl", 1),
    files={
        "p.jsonl": rows(
            *({"text1": q, "text2": k, "score": f"0.{n}", "task": "sts"} for n, (q, k) in enumerate(QUESTIONS))
        )
    },
)
cases.heard(
    "labels 1 and '1' in one set",
    evaluate(data="c"),
    "(?i)label",
    files={
        "c/train.jsonl": rows(*({"text": k, "label": n % 2, "task": "icl"} for n, (_, k) in enumerate(QUESTIONS))),
        "c/test.jsonl": rows(*({"text": q, "label": str(n % 2), "task": "icl"} for n, (q, _) in enumerate(QUESTIONS))),
    },
)
cases.says(
    "set: queries that are documents themselves",
    evaluate(),
    r"(?i)own results|itself|themselves|is a document|are documents",
    files={
        **SET,
        "set/queries.jsonl": rows(*({"id": f"d{n}", "text": k, "task": "qa"} for n, (_, k) in enumerate(QUESTIONS))),
        "set/qrels.tsv": "query-id\tcorpus-id\tscore\n" + "".join(f"d{n}\td{(n + 1) % 6}\t1\n" for n in range(6)),
    },
)
cases.works(
    "an export of an export and its run",
    evaluate(models=["run", "second"], json="out.json"),
    exists("out.json"),
    files=SET,
    needs=RUN,
    first=(("export", "run", "once"), ("export", "once", "second")),
)
cases.works(
    "Windows' path as the name of the JSON",
    evaluate(json="out C:\\结果\\a.json"),
    exists("out C:\\结果\\a.json"),
    files=SET,
)
cases.refused(
    "a model that is a ring of links",
    evaluate(models=["a"]),
    r"\ba\b",
    files=SET,
    make=do(linked("a", "b"), linked("b", "a")),
)

# --- encode -------------------------------------------------------------------------------------------------------

TEXT = {"texts.jsonl": TEXTS}
cases.refused(
    "resume with a model trained anew in the same folder",
    encode(model="run"),
    "(?i)model|weights|fingerprint",
    files=TEXT,
    needs=RUN,
    first=(tuple(encode(model="run")),),
    tamper=do(lambda work: shutil.rmtree(work / "run" / "encoder"), copied("run/checkpoint-2/encoder", "run/encoder")),
)
cases.refused(
    "resume with another precision on disk",
    encode(vector_dtype="float16"),
    flag("vector_dtype") + "|float16",
    files=TEXT,
    first=(tuple(encode()),),
)
cases.refused(
    "resume with another task",
    encode(model="run_with_instructions", side="query", task="law"),
    "(?i)task|instruction|prompt",
    files=TEXT,
    needs=TAUGHT,
    first=(tuple(encode(model="run_with_instructions", side="query", task="qa")),),
)
cases.refused("with and without titles", encode(with_title=True, no_title=True), "title", files=TEXT)
cases.works(
    "a prompt of braces, a percent and a turn of direction",
    encode(prompt="{}%s\n\u202e$X："),
    exists("out"),
    files=TEXT,
)
cases.works(
    "resume where a shard in the middle is gone",
    encode(shard_size=2),
    files_below("out", "*.npy", 3),
    files=TEXT,
    first=(tuple(encode(shard_size=2)),),
    tamper=lambda work: sorted((work / "out").rglob("*.npy"))[1].unlink(),
)
cases.heard(
    "texts under two names of fields",
    encode(),
    line("texts.jsonl", 2) + "|contents",
    files={"texts.jsonl": rows({"text": "甲文"}, {"contents": "乙文"}, {"text": "丙文"})},
)
cases.heard(
    "a prompt longer than the length",
    encode(prompt="为这个句子生成表示：" * 40, max_length=8),
    "(?i)length|prompt",
    files=TEXT,
)
cases.refused(
    "output is a ring of links", encode(), r"\bout\b", files=TEXT, make=do(linked("out", "out2"), linked("out2", "out"))
)
cases.works(
    "an emoji in a name, mixed line ends, gzip",
    encode("文 🙂.txt.gz"),
    exists("out"),
    files={"文 🙂.txt.gz": gzip.compress("第一行\r\n第二行\n\n第三行".encode("utf-8-sig"))},
)

# --- export -------------------------------------------------------------------------------------------------------

EXPORTED = (("export", "run", "exported"),)
cases.works(
    "an export of an export, both in half precision",
    ["export", "exported", "out", "--half"],
    exists("out"),
    needs=RUN,
    first=(("export", "run", "exported", "--half"),),
)
cases.refused(
    "an export over itself", ["export", "exported", "exported", "--overwrite"], "exported", needs=RUN, first=EXPORTED
)
cases.works(
    "a checkpoint that was moved away from its run",
    ["export", "第二步 🚩", "out"],
    exists("out"),
    needs=RUN,
    tamper=renamed("run/checkpoint-2", "第二步 🚩"),
)
cases.refused(
    "the default task is a prompt of keys",
    ["export", "run_with_instructions", "out", "--default_task", "qa.key"],
    r"qa\.key",
    needs=TAUGHT,
)
cases.works(
    "a run whose encoder is a link",
    ["export", "run", "out"],
    exists("out"),
    needs=RUN,
    tamper=do(renamed("run/encoder", "elsewhere"), linked("run/encoder", "../elsewhere")),
)
cases.refused(
    "a folder of vectors",
    ["export", "vectors", "out"],
    "vectors",
    files=TEXT,
    first=(tuple(encode(output_dir="vectors")),),
)
cases.refused("a vocabulary", ["export", "vocabulary", "out"], "vocabulary", needs=("vocabulary",))
cases.refused(
    "a prompt that became a number",
    ["export", "run_with_instructions", "out"],
    r"(?i)prompt|config_sentence_transformers",
    needs=TAUGHT,
    tamper=every(
        "run_with_instructions/encoder/config_sentence_transformers.json",
        lambda path: path.write_text(
            json.dumps({**json.loads(path.read_text("utf-8")), "prompts": {"qa": 7}}), "utf-8"
        ),
    ),
)

# --- split, doctor, mine, score -----------------------------------------------------------------------------------

CHAIN = [record(n, pos=[f"第{n}段正文", f"第{n + 1}段正文"]) for n in range(6)]
cases.heard(
    "a chain of positives through two files",
    split("a.jsonl", "b.jsonl"),
    "(?i)group|together|empty|no record",
    files={"a.jsonl": rows(*CHAIN[::2]), "b.jsonl": rows(*CHAIN[1::2])},
)
cases.heard(
    "counts that the groups cannot give",
    split(ratios=None, counts=["rest", 3]),
    "(?i)group|asked|expected",
    files={"train.jsonl": rows(*(record(n, group="大" if n < 5 else "小") for n in range(6)))},
)
cases.refused(
    "a part of an earlier split as the input of the next, same folder",
    split("out/train.jsonl", overwrite=True),
    "out",
    files=DATA,
    first=(tuple(split()),),
)
cases.heard(
    "sets of pairs and labels",
    split("p.jsonl", "l.jsonl", eval=True),
    "(?i)eval|pair|label",
    files={"p.jsonl": PAIRS, "l.jsonl": LABELLED},
)
cases.heard(
    "sets of tasks that climb",
    split(eval=True),
    r"\.\.",
    files={"train.jsonl": rows(*(record(n, task="../上" if n % 2 else "qa") for n in range(6)))},
)
cases.works(
    "parts with emoji", split(names=["训练🚂", "测 试"]), exists("out/训练🚂.jsonl", "out/测 试.jsonl"), files=DATA
)
cases.works(
    "inputs that are called as the parts",
    split("train.jsonl", "dev.jsonl"),
    exists("out/train/train.jsonl", "out/train/dev.jsonl"),
    files={**DATA, "dev.jsonl": rows(*(record(n, query=f"另一问{n}", pos=[f"另一答{n}"]) for n in range(6)))},
)
cases.heard(
    "a cleaned copy with its ledger as records",
    ["doctor", "fixed"],
    r"ledger\.jsonl",
    files={"train.jsonl": GOOD + GOOD},
    needs=(),
    make=lambda work: (
        written("fixed/ledger.jsonl", rows({"file": "a", "line": 1, "kind": "control"}))(work)
        or written("fixed/records/train.jsonl", GOOD)(work)
    ),
)
cases.heard(
    "the records are the evaluation set", ["doctor", "train.jsonl", "--eval", "train.jsonl"], "(?i)leak", files=DATA
)
cases.heard(
    "a folder whose links make a ring",
    ["doctor", "folder"],
    r"a\.jsonl|records",
    files={"folder/a.jsonl": GOOD},
    make=do(linked("folder/x/up", "../../folder"), linked("folder/ring", "ring")),
)
cases.works(
    "two files of one name in two folders, cleaned",
    ["doctor", "甲/a.jsonl", "乙/a.jsonl", "--fix", "out"],
    files_below("out/records", "a.jsonl", 2),
    files={
        "甲/a.jsonl": GOOD,
        "乙/a.jsonl": rows(*(record(n, query=f"问题{n}号是什么", pos=[f"这是答案{n}号。"]) for n in range(6))),
    },
    codes=(0, 1),
)
cases.works(
    "a corpus that lacks all positives",
    mine(corpus="corpus.jsonl"),
    counts("out.jsonl", 6),
    files={**DATA, "corpus.jsonl": rows(*({"text": f"关于退货和发票的第{n}条说明"} for n in range(20)))},
)
cases.says(
    "a corpus of nothing but positives",
    mine(corpus="c.jsonl"),
    "(?i)none|no negatives|without negatives|too few|fewer",
    files={
        "train.jsonl": rows(*(record(0, query="怎么退货？", pos=[k for _, k in QUESTIONS]) for _ in range(2))),
        "c.jsonl": TEXTS,
    },
)
cases.works(
    "an earlier output mined once more, keeping its negatives",
    mine("mined.jsonl", keep_neg=True),
    counts("out.jsonl", 6),
    files=DATA,
    first=(tuple(mine(output="mined.jsonl")),),
)
cases.heard("answers to filter by that no record has", mine(filter_answers=True), "(?i)answers", files=DATA)
cases.refused(
    "an instruction and none",
    mine(method="dense", model="nano-zh-static", no_instruction=True, query_instruction_for_retrieval="问："),
    "instruction",
    files=DATA,
)
cases.heard("an instruction for BM25", mine(query_instruction_for_retrieval="问："), "(?i)instruction", files=DATA)
cases.heard(
    "the working folder of another corpus",
    mine(method="dense", model="nano-zh-static", corpus="c.jsonl", work_dir="outwork"),
    r"(?i)outwork|work[_-]dir|corpus|c\.jsonl",
    files={**DATA, "c.jsonl": CORPUS},
    first=(
        tuple(mine(output="out1.jsonl", method="dense", model="nano-zh-static", corpus="c.jsonl", work_dir="outwork")),
    ),
    tamper=written("c.jsonl", TEXTS),
)
cases.refused(
    "a model that is a vocabulary",
    mine(method="fused", model="vocabulary"),
    "vocabulary",
    files=DATA,
    needs=("vocabulary",),
)
cases.works(
    "a cache of another model",
    score(model="run", cache="out.cache"),
    counts("out.jsonl", 6),
    files=DATA,
    needs=RUN,
    first=(tuple(score(output="out0.jsonl", cache="out.cache")),),
)


def stranger(work: Path) -> None:
    """A database of somebody else."""
    with sqlite3.connect(work / "mine.db") as database:
        database.execute("create table scores (name text, points integer)")
    database.close()


cases.refused("a cache that is somebody's database", score(cache="mine.db"), r"mine\.db", files=DATA, make=stranger)
cases.heard(
    "prompts for an embedder", score(prompts="p.yaml"), "prompts", files={**DATA, "p.yaml": "qa: '{key} {query}'\n"}
)
cases.heard(
    "pairs among the records", score(), line("train.jsonl", 7) + "|pair|text1", files={"train.jsonl": GOOD + PAIRS}
)
cases.works(
    "an export as teacher",
    score(model="exported"),
    holds("out.jsonl", "teacher_scores"),
    files=DATA,
    needs=RUN,
    first=EXPORTED,
)

# --- convert: what other programs export --------------------------------------------------------------------------

QA = ("--from", "columns", "--columns", "query=问", "pos=答", "--task", "qa")
cases.refused("Excel's line sep=,", convert("a.csv", *QA), r"a\.csv|问", files={"a.csv": "sep=,\n问,答\n甲？,乙。\n"})
cases.heard(
    "a table with semicolons", convert("a.csv", *QA), r"(?i)问|semicolon|;", files={"a.csv": "问;答\n甲？;乙。\n"}
)
cases.refused(
    "an export of Label Studio",
    convert("a.json"),
    "(?i)--from|format",
    files={
        "a.json": json.dumps(
            [{"id": 1, "data": {"text": "甲"}, "annotations": [{"result": [{"value": {"choices": ["好"]}}]}]}],
            ensure_ascii=False,
        )
    },
)
cases.refused(
    "spans of doccano as labels",
    convert("a.jsonl", "--from", "labelled", "--task", "icl"),
    r"a\.jsonl.*1|label",
    files={"a.jsonl": rows({"id": 1, "text": "北京的天气", "label": [[0, 2, "地名"]]})},
)
cases.refused(
    "ShareGPT",
    convert("a.json"),
    "(?i)--from|format",
    files={
        "a.json": json.dumps(
            [{"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}], ensure_ascii=False
        )
    },
)
cases.works(
    "Alpaca through columns, most inputs empty",
    convert("a.jsonl", "--from", "columns", "--columns", "query=instruction+input", "pos=output", "--task", "qa"),
    counts("out.jsonl", 2),
    files={
        "a.jsonl": rows(
            {"instruction": "翻译这句话", "input": "", "output": "好的"},
            {"instruction": "续写", "input": "从前", "output": "有座山"},
        )
    },
)
cases.refused(
    "pandas' columns of columns",
    convert("a.json", *QA),
    r"a\.json|问",
    files={"a.json": json.dumps({"问": {"0": "甲", "1": "乙"}, "答": {"0": "丙", "1": "丁"}}, ensure_ascii=False)},
)
cases.works(
    "pandas' column of row numbers",
    convert("a.csv", *QA),
    counts("out.jsonl", 2),
    files={"a.csv": ",问,答\n0,甲？,乙。\n1,丙？,丁。\n"},
)
cases.works(
    "a time with its zone as text",
    convert("a.jsonl", *QA),
    holds("out.jsonl", "+08:00"),
    files={"a.jsonl": rows({"问": "几点开会", "答": "2026-03-01T09:00:00+08:00"})},
)
cases.says(
    "mongoexport's ids",
    convert("a.jsonl", "--from", "flagembedding", "--task", "qa"),
    "_id",
    files={"a.jsonl": rows(*({"_id": {"$oid": f"{n:024x}"}, **record(n)} for n in range(3)))},
)
cases.refused(
    "a name twice in an object, of two spellings by escape",
    convert("a.jsonl", "--from", "flagembedding"),
    line("a.jsonl", 1),
    files={"a.jsonl": '{"query": "甲", "\\u0071uery": "乙", "pos": ["丙"], "task": "qa"}\n'},
)
cases.refused(
    "UTF-8 with a part in GB18030",
    convert("a.csv", *QA),
    r"a\.csv",
    files={"a.csv": "问,答\n甲🙂？,乙。\n".encode() + "丙？,丁。\n".encode("gb18030")},
)
cases.works(
    "an emoji in a column's name, curly quotes in cells",
    convert("a.csv", "--from", "columns", "--columns", "query=问 🙂", "pos=答", "--task", "qa"),
    holds("out.jsonl", "“甲”"),
    files={"a.csv": "问 🙂,答\n“甲”？,乙。\n"},
)

# --- the others ---------------------------------------------------------------------------------------------------

cases.heard(
    "two tasks that differ in their normal form",
    ["versions", "v.yaml"],
    "(?i)caf",
    files={"v.yaml": 'tasks:\n  "caf\u00e9": {query: "甲", key: ""}\n  "cafe\u0301": {query: "乙", key: ""}\n'},
)
cases.heard(
    "a NUL in an instruction",
    ["versions", "v.yaml"],
    r"(?i)v\.yaml|\\x00|\\u0000|control",
    files={"v.yaml": 'tasks:\n  qa: {query: "问\\0：", key: ""}\n'},
)
cases.works(
    "merge keys of YAML",
    ["versions", "v.yaml"],
    files={"v.yaml": 'tasks:\n  qa: &a {query: "问：", key: ""}\n  law: {<<: *a, key: "法条："}\n'},
)
cases.refused(
    "layers for a run, into the run", ["new-base", "run", "--output_dir", "run", "--overwrite"], "run", needs=RUN
)
cases.heard(
    "a corpus in another script than the vocabulary",
    ["new-base", "vocabulary", "--output_dir", "out", "--corpus", "c.jsonl", "--hidden_size", "40"],
    r"(?i)unknown|unk|c\.jsonl|corpus",
    needs=("vocabulary",),
    files={"c.jsonl": rows({"text": "Ελληνικά κείμενα " * 9})},
)
cases.refused(
    "resume with another corpus",
    pretrain(max_steps=4, save_steps=1, resume_from_checkpoint=True),
    "(?i)corpus|plan|data",
    files={"corpus.jsonl": CORPUS},
    first=(tuple(pretrain(save_steps=1)),),
    tamper=written("corpus.jsonl", CORPUS.replace("春天", "冬天") * 2),
)
cases.refused(
    "resume in the folder of a training",
    pretrain(resume_from_checkpoint=True),
    r"\bout\b|checkpoint",
    files={**DATA, "corpus.jsonl": CORPUS},
    first=FIRST,
)
cases.refused(
    "two prompts for one type",
    ["mteb", "run_with_instructions", "--tasks", "T2Retrieval", "--prompts", "Retrieval=qa", "Retrieval=law"],
    "Retrieval",
    needs=TAUGHT,
)
cases.refused(
    "records and passages in one file",
    generate(output_corpus="out.jsonl"),
    r"out\.jsonl",
    files={"doc.txt": "正文。" * 60},
)
cases.refused("a task that the prompts lack", generate(tasks=["烹饪"]), "烹饪", files={"doc.txt": "正文。" * 60})
cases.refused(
    "records as a corpus",
    ["pairs", "train.jsonl", "--output_dir", "out"],
    line("train.jsonl", 1),
    files={"train.jsonl": rows(*({"question": q, "pos": [k]} for q, k in QUESTIONS))},
)
cases.heard(
    "a corpus of emoji alone",
    ["vocabulary", "c.jsonl", "--output_dir", "out"],
    r"(?i)c\.jsonl|corpus|min[_-]count|character",
    files={"c.jsonl": rows({"text": "🙂🚂🚩" * 30})},
)
