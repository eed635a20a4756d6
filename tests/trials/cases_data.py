"""Trials of convert, doctor, split, pairs, mine, score and generate."""

import gzip
import io
import json
import os
import zipfile

from tests.trials.case import Cases
from tests.trials.material import (
    CORPUS,
    DEEP,
    GOOD,
    LABELLED,
    PAIRS,
    PARAGRAPH,
    QUESTIONS,
    RECORDS,
    SET,
    TEXTS,
    TRUNCATED_GZIP,
    convert,
    counts,
    exists,
    flag,
    generate,
    holds,
    lacks,
    line,
    mine,
    png,
    record,
    rows,
    score,
    split,
)

cases = Cases()
DATA = {"train.jsonl": GOOD}
ESCAPE = "\x1b]0;owned\x07\x1b[31m"

# --- convert


def squad(**paragraph: object) -> str:
    """A SQuAD file of one article."""
    context = "故宫位于北京市中心。它建于明朝永乐年间。"
    qas = [{"id": "q1", "question": "故宫在哪里？", "answers": [{"text": "北京市中心", "answer_start": 4}]}]
    made = {"context": context, "qas": qas, **paragraph}
    return json.dumps({"version": "1", "data": [{"title": "故宫", "paragraphs": [made]}]}, ensure_ascii=False)


def zipped(**members: str) -> bytes:
    """A zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


CSV = "提问,标题,回答,编号\n怎么退货,售后,签收后七天内可以退货,1\n多久送到,物流,两到三天送达,2\n"
COLUMNS = ("--from", "columns", "--columns", "query=提问", "pos=回答", "--task", "qa")

cases.refused("no input", ["convert", "--output", "out.jsonl"], "INPUT|input|file")
cases.refused("no output", ["convert", "s.json"], flag("output"), files={"s.json": squad()})
cases.refused("a missing file", convert("nope.json", "--from", "squad"), r"nope\.json")
cases.refused("an unknown format", convert("s.json", "--from", "sqad"), "sqad", "squad", files={"s.json": squad()})
cases.refused("a format that cannot be guessed", convert("s.json"), "--from", files={"s.json": '{"a": 1}'})
cases.refused(
    "an output with a strange ending",
    convert("s.json", output="out.xlsx"),
    r"out\.xlsx|jsonl",
    files={"s.json": squad()},
)
cases.refused(
    "output is the input",
    convert("train.jsonl", "--from", "flagembedding", output="train.jsonl"),
    r"train\.jsonl",
    files=DATA,
)
cases.refused(
    "output is a link to the input",
    convert("train.jsonl", "--from", "flagembedding", output="l.jsonl"),
    r"l\.jsonl|train\.jsonl",
    files=DATA,
    make=lambda work: (work / "l.jsonl").symlink_to("train.jsonl"),
)
cases.refused(
    "output is a folder",
    convert("s.json", "--from", "squad", output="out.jsonl"),
    r"out\.jsonl",
    files={"s.json": squad(), "out.jsonl/a": "x"},
)
cases.refused(
    "output below a missing folder of a file",
    convert("s.json", "--from", "squad", output="s.json/out.jsonl"),
    r"s\.json",
    files={"s.json": squad()},
)
cases.refused(
    "output in a read-only folder",
    convert("s.json", "--from", "squad", output="ro/out.jsonl"),
    "ro",
    "ermission|writ",
    files={"s.json": squad()},
    make=lambda work: (work / "ro").mkdir(0o555),
    permissions=True,
)
for name, value in (
    ("limit", "0"),
    ("limit", "-3"),
    ("min_chars", "-1"),
    ("min_relevance", "high"),
    ("threshold", "nan"),
    ("turns", "-1"),
    ("examples", "0"),
    ("wrong_examples", "-1"),
    ("normalize", "NFX"),
    ("facts", "some"),
    ("encoding", "klingon"),
    ("as", "poems"),
    ("template", "no placeholders"),
):
    kind = (
        "kdconv"
        if name in ("turns", "facts")
        else "labelled"
        if name in ("examples", "wrong_examples", "template")
        else "squad"
    )
    as_icl = ("--as", "icl") if kind == "labelled" else ("--as", "convsearch") if kind == "kdconv" else ()
    cases.refused(
        f"--{name} {value}",
        convert("s.json", "--from", kind, *as_icl, f"--{name}", value),
        flag(name),
        files={"s.json": squad() if kind == "squad" else "[]" if kind == "kdconv" else LABELLED},
    )
cases.heard(
    "an option that the format does not use",
    convert("s.json", "--from", "squad", "--turns", "9"),
    flag("turns"),
    files={"s.json": squad()},
)
cases.refused(
    "both --header and --no_header",
    convert("a.csv", *COLUMNS, "--header", "--no_header"),
    "header",
    files={"a.csv": CSV},
)
cases.refused("squad: cut", convert("s.json", "--from", "squad"), r"s\.json", files={"s.json": squad()[:-20]})
cases.refused("squad: a list", convert("s.json", "--from", "squad"), r"s\.json", "data", files={"s.json": '["a", 1]'})
cases.refused(
    "squad: context is a number",
    convert("s.json", "--from", "squad"),
    r"s\.json",
    "context",
    files={"s.json": squad(context=5)},
)
cases.refused(
    "squad: qas is null", convert("s.json", "--from", "squad"), r"s\.json", "qas", files={"s.json": squad(qas=None)}
)
cases.refused(
    "squad: a question is missing",
    convert("s.json", "--from", "squad"),
    r"s\.json",
    "question",
    files={"s.json": squad(qas=[{"id": "q", "answers": []}])},
)
cases.refused("squad: deeply nested", convert("s.json", "--from", "squad"), r"s\.json", files={"s.json": DEEP})
cases.heard(
    "squad: nothing in it",
    convert("s.json", "--from", "squad"),
    r"\b0\b|no (record|unit|question)|empty",
    files={"s.json": '{"data": []}'},
)
cases.heard(
    "squad: duplicate ids",
    convert("s.json", "--from", "squad"),
    "q1|duplicate|twice|same id|repeated",
    files={"s.json": squad(qas=[{"id": "q1", "question": q, "answers": []} for q in ("问一", "问二")])},
)
cases.refused(
    "columns: a column that is not there",
    convert("a.csv", "--from", "columns", "--columns", "query=问题", "pos=回答"),
    "问题",
    "提问",
    files={"a.csv": CSV},
)
cases.refused(
    "columns: an unknown field",
    convert("a.csv", "--from", "columns", "--columns", "qeury=提问", "pos=回答"),
    "qeury",
    "query",
    files={"a.csv": CSV},
)
cases.refused(
    "columns: no equals sign",
    convert("a.csv", "--from", "columns", "--columns", "query"),
    "columns",
    files={"a.csv": CSV},
)
cases.refused("columns: no --columns", convert("a.csv", "--from", "columns"), "columns", files={"a.csv": CSV})
cases.refused(
    "columns: no pos", convert("a.csv", "--from", "columns", "--columns", "query=提问"), "pos", files={"a.csv": CSV}
)
cases.heard(
    "columns: the same field twice",
    convert("a.csv", "--from", "columns", "--columns", "query=提问", "query=标题", "pos=回答"),
    "query",
    "twice|again|repeat|more than once|duplicate",
    files={"a.csv": CSV},
)
cases.refused(
    "columns: number beyond the table",
    convert("a.csv", "--from", "columns", "--no_header", "--columns", "query=1", "pos=99"),
    "99",
    files={"a.csv": CSV},
)
cases.refused(
    "csv: a row with too many cells",
    convert("a.csv", *COLUMNS),
    line("a.csv", 4),
    files={"a.csv": CSV + "a,b,c,d,e,f,g\n"},
)
cases.refused(
    "csv: a row with too few cells", convert("a.csv", *COLUMNS), line("a.csv", 4), files={"a.csv": CSV + "只有一格\n"}
)
cases.refused(
    "csv: a quote that is never closed",
    convert("a.csv", *COLUMNS),
    r"a\.csv",
    files={"a.csv": CSV + '"没有结束,a,b,4\n甲,乙,丙,5\n'},
)
cases.refused("csv: NUL bytes", convert("a.csv", *COLUMNS), r"a\.csv", files={"a.csv": CSV + "a\0b,c,d,4\n"})
cases.refused(
    "csv: two columns of one name",
    convert("a.csv", *COLUMNS),
    r"a\.csv",
    "提问",
    files={"a.csv": "提问,提问,回答\na,b,c\n"},
)
cases.refused("csv: header only", convert("a.csv", *COLUMNS), r"a\.csv", files={"a.csv": "提问,标题,回答,编号\n"})
cases.refused(
    "csv: an Excel file", convert("a.csv", *COLUMNS), r"a\.csv", files={"a.csv": zipped(xl__workbook="x", content="y")}
)
cases.says(
    "csv: empty cells are counted",
    convert("a.csv", *COLUMNS),
    r"\b1\b.*(empty|drop)|(empty|drop).*\b1\b",
    files={"a.csv": CSV + ",标题,回答,3\n"},
)
cases.works(
    "csv: GB18030, reported",
    convert("a.csv", *COLUMNS),
    holds("out.jsonl", "怎么退货"),
    files={"a.csv": CSV.encode("gb18030")},
)
cases.says("csv: GB18030 is said", convert("a.csv", *COLUMNS), "(?i)GB18030", files={"a.csv": CSV.encode("gb18030")})
cases.works(
    "csv: UTF-16 with BOM",
    convert("a.csv", *COLUMNS),
    holds("out.jsonl", "怎么退货"),
    files={"a.csv": CSV.encode("utf-16")},
)
cases.works(
    "csv: BOM, CRLF, quoted line breaks",
    convert("a.csv", *COLUMNS),
    counts("out.jsonl", 3),
    files={"a.csv": "\ufeff" + CSV.replace("\n", "\r\n") + '"问\r\n题",标,"答,案",3\r\n'},
)
cases.works(
    "csv: a semicolon-free tsv in a zip",
    convert("a.tsv.zip", *COLUMNS),
    counts("out.jsonl", 2),
    files={"a.tsv.zip": zipped(**{"a.tsv": CSV.replace(",", "\t")})},
)
cases.works(
    "csv: a cell of 300,000 characters",
    convert("a.csv", *COLUMNS),
    holds("out.jsonl", "长" * 1000),
    files={"a.csv": CSV + "问,标," + "长" * 300_000 + ",3\n"},
)
cases.works(
    "csv: a formula and HTML stay text",
    convert("a.csv", *COLUMNS),
    holds("out.jsonl", "=HYPERLINK"),
    files={"a.csv": CSV + "=HYPERLINK(1),<script>,<b>答</b>,3\n"},
)
cases.refused(
    "zip: two files", convert("a.zip", *COLUMNS), r"a\.zip", files={"a.zip": zipped(**{"a.csv": CSV, "b.csv": CSV})}
)
cases.refused("zip: empty", convert("a.zip", *COLUMNS), r"a\.zip", files={"a.zip": zipped()})
cases.refused(
    "zip: cut", convert("a.csv.zip", *COLUMNS), r"a\.csv\.zip", files={"a.csv.zip": zipped(**{"a.csv": CSV})[:-30]}
)
cases.heard(
    "zip: a member outside of the folder",
    convert("a.zip", *COLUMNS),
    "zip|evil",
    files={"a.zip": zipped(**{"../evil.csv": CSV})},
)
cases.refused(
    "gzip: cut", convert("t.jsonl.gz", "--from", "flagembedding"), r"t\.jsonl\.gz", files={"t.jsonl.gz": TRUNCATED_GZIP}
)
cases.refused(
    "flagembedding: a bad line",
    convert("t.jsonl", "--from", "flagembedding"),
    line("t.jsonl", 7),
    files={"t.jsonl": GOOD + '{"query": "a"\n'},
)
cases.refused(
    "flagembedding: pos is a text",
    convert("t.jsonl", "--from", "flagembedding"),
    line("t.jsonl", 2),
    "pos",
    files={"t.jsonl": rows(record(), record(pos="文"))},
)
cases.says(
    "flagembedding: unknown fields are named",
    convert("t.jsonl", "--from", "flagembedding"),
    "colour",
    files={"t.jsonl": rows(record(colour="red"), record(1))},
)
cases.refused(
    "pairs: three columns of text",
    convert("t.tsv", "--from", "pairs"),
    r"t\.tsv",
    "score|label",
    files={"t.tsv": "句一\t句二\t很像\n甲\t乙\t不像\n"},
)
cases.refused(
    "pairs: one column", convert("t.txt", "--from", "pairs"), r"t\.txt", files={"t.txt": "只有一列\n还是一列\n"}
)
cases.refused(
    "nli: unknown label",
    convert("t.jsonl", "--from", "nli"),
    r"t\.jsonl",
    "perhaps",
    files={
        "t.jsonl": rows(
            {"sentence1": "a", "sentence2": "b", "label": "entailment"},
            {"sentence1": "a", "sentence2": "c", "label": "perhaps"},
        )
    },
)
cases.refused(
    "beir: no corpus",
    convert("set", "--from", "beir"),
    "corpus",
    files={name: text for name, text in SET.items() if "corpus" not in name},
)
cases.heard(
    "beir: judgements of unknown keys",
    convert("set", "--from", "beir"),
    "d99|unknown|not in",
    files={**SET, "set/qrels.tsv": SET["set/qrels.tsv"] + "q0\td99\t1\n"},
)
cases.refused(
    "beir: a relevance that is no number",
    convert("set", "--from", "beir"),
    line("qrels.tsv", 8),
    files={**SET, "set/qrels.tsv": SET["set/qrels.tsv"] + "q0\td1\tyes\n"},
)
cases.refused(
    "beir: duplicate ids in the corpus",
    convert("set", "--from", "beir"),
    r"corpus\.jsonl",
    "d0",
    files={**SET, "set/corpus.jsonl": TEXTS + rows({"id": "d0", "text": "另一段"})},
)
cases.refused(
    "msmarco: no such split",
    convert("set", "--from", "msmarco", "--split", "test"),
    "test",
    files={"set/collection.tsv": "1\t文\n", "set/queries.train.tsv": "1\t问\n", "set/qrels.train.tsv": "1\t0\t1\t1\n"},
)
cases.refused(
    "hf: without a network",
    convert("hf:nobody/nothing", "--from", "columns", "--columns", "query=a", "pos=b"),
    "nobody/nothing",
)
cases.refused("hf: an empty name", convert("hf:", "--from", "columns", "--columns", "query=a", "pos=b"), "hf:")
cases.refused(
    "a FIFO",
    convert("f.jsonl", "--from", "flagembedding"),
    r"f\.jsonl",
    make=lambda work: os.mkfifo(work / "f.jsonl"),
    timeout=30,
)
cases.refused(
    "terminal escapes in an id",
    convert("s.json", "--from", "squad"),
    r"s\.json",
    absent=("\x1b", "\x07"),
    files={"s.json": squad(qas=[{"id": ESCAPE, "question": 5}])},
)
cases.refused(
    "an attack through the template",
    convert("t.jsonl", "--from", "labelled", "--as", "icl", "--template", "{text.__class__.__mro__}{label}"),
    flag("template"),
    files={"t.jsonl": LABELLED},
)
cases.heard(
    "icl: one label only",
    convert("t.jsonl", "--from", "labelled", "--as", "icl"),
    "label|drop|other",
    files={"t.jsonl": rows(*({"text": c * 4, "label": "甲"} for c in "天地玄黄"))},
)
cases.works(
    "squad in Chinese folders",
    convert("数 据/阅读.json", "--from", "squad", "--task", "qa"),
    counts("out.jsonl", 1),
    files={"数 据/阅读.json": squad()},
)
cases.works(
    "an existing output is said or replaced",
    convert("s.json", "--from", "squad", output="out.jsonl.gz"),
    counts("out.jsonl.gz", 1),
    files={"s.json": squad()},
)
cases.heard(
    "an existing output of a stranger",
    convert("s.json", "--from", "squad"),
    r"out\.jsonl",
    "exist|replac|overwrit",
    files={"s.json": squad(), "out.jsonl": "a stranger's\n"},
)

# --- doctor

FINDS = {"codes": (1,)}
cases.works("clean records", ["doctor", "{EX}/demo/train/qa.jsonl"], codes=(0, 1))
for name, value in (
    ("near", "2"),
    ("near", "nan"),
    ("leak_near", "-1"),
    ("show", "-1"),
    ("ranks", "0"),
    ("query_max_length", "0"),
    ("train_group_size", "0"),
    ("per_device_train_batch_size", "x"),
    ("teacher_temperature", "0"),
    ("version", "nope"),
    ("eval", "nope"),
    ("query_encoder", "./nope"),
):
    cases.refused(f"--{name} {value}", ["doctor", "train.jsonl", f"--{name}", value], f"{flag(name)}|nope", files=DATA)
cases.refused("a missing file", ["doctor", "nope.jsonl"], r"nope\.jsonl")
cases.refused(
    "--fix into a stranger's folder",
    ["doctor", "train.jsonl", "--fix", "out"],
    r"\bout\b",
    files={**DATA, "out/records/train.jsonl": "a stranger's\n"},
)
cases.refused(
    "--fix over the input",
    ["doctor", "records/train.jsonl", "--fix", "."],
    r"fix|records",
    files={"records/train.jsonl": GOOD},
)
cases.refused("--json over the input", ["doctor", "train.jsonl", "--json", "train.jsonl"], r"train\.jsonl", files=DATA)
cases.refused(
    "--json into a missing folder's file",
    ["doctor", "train.jsonl", "--json", "train.jsonl/x.json"],
    r"json|train\.jsonl",
    files=DATA,
)
cases.refused("--fix is a file", ["doctor", "train.jsonl", "--fix", "train.jsonl"], r"fix|train\.jsonl", files=DATA)
for name, content, *says in (
    ("a broken line", GOOD + "{broken\n", line("train.jsonl", 7), "schema"),
    ("GB18030", GOOD.encode("gb18030"), "encoding"),
    ("UTF-16", GOOD.encode("utf-16"), "encoding"),
    ("a picture", png(), r"train\.jsonl"),
    ("empty texts", rows(record(pos=["", "好"]), record(1)), "empty_text", line("train.jsonl", 1)),
    ("wrong number of scores", rows(record(teacher_scores=[1])), "teacher_length"),
    ("mojibake", rows(record(query="怎么退货".encode().decode("latin-1"))), "mojibake"),
    ("negative is positive", rows(record(neg=record()["pos"])), "negative_is_positive"),
    ("deeply nested JSON", GOOD + DEEP, line("train.jsonl", 7), "schema"),
    ("a lone surrogate", rows(*RECORDS, '{"query": "\\ud800", "pos": ["a"]}'), line("train.jsonl", 7)),
    ("a line of 5 MB that is no JSON", GOOD + "x" * 5_000_000 + "\n", line("train.jsonl", 7), "schema"),
):
    cases.says(f"finds {name}", ["doctor", "train.jsonl"], *says, files={"train.jsonl": content}, **FINDS)
cases.heard(
    "an empty file", ["doctor", "train.jsonl"], r"train\.jsonl", "empty|no record|0 record", files={"train.jsonl": ""}
)
cases.heard(
    "truncated gzip",
    ["doctor", "t.jsonl.gz"],
    r"t\.jsonl\.gz",
    "trunc|end|cut|gzip|corrupt|damaged",
    files={"t.jsonl.gz": TRUNCATED_GZIP},
)
cases.says(
    "duplicate records", ["doctor", "train.jsonl"], "duplicate_record", files={"train.jsonl": GOOD + GOOD}, codes=(0, 1)
)
cases.says(
    "control characters, shown harmlessly",
    ["doctor", "train.jsonl"],
    "control",
    files={"train.jsonl": rows(record(query=f"问{ESCAPE}题"), record(1))},
    codes=(0, 1),
    absent=("\x1b", "\x07"),
)
cases.says("a leak", ["doctor", "train.jsonl", "--eval", "set"], "leak_query", files={**DATA, **SET}, **FINDS)
cases.says(
    "--fix writes the cleaned copy and the ledger",
    ["doctor", "d", "--fix", "out"],
    "schema",
    files={"d/子/a.jsonl": GOOD + "{broken\n"},
    check=exists("out/records", "out/ledger.jsonl"),
    **FINDS,
)
cases.refused(
    "--fix inside of the input folder", ["doctor", "d", "--fix", "d/out"], r"\bd\b", files={"d/a.jsonl": GOOD}
)
cases.works(
    "a linked file in a folder with blanks",
    ["doctor", "my data"],
    codes=(0, 1),
    make=lambda work: (
        (work / "my data").mkdir(),
        (work / "a.jsonl").write_text(GOOD, encoding="utf-8"),
        (work / "my data" / "l.jsonl").symlink_to("../a.jsonl"),
    ),
)

# --- split

for name, more, *says in (
    ("ratios above 1", {"ratios": [0.9, 0.5]}, "ratios", "1"),
    ("a negative ratio", {"ratios": [1.5, -0.5]}, "ratios"),
    ("ratios of nan", {"ratios": ["nan", 0.5]}, "ratios"),
    ("one part", {"ratios": [1.0]}, "ratios|parts"),
    ("a ratio of 0", {"ratios": [1, 0]}, "ratios"),
    ("a ratio in words", {"ratios": ["half", "half"]}, "half"),
    ("counts without rest", {"ratios": None, "counts": [3, 3]}, "rest"),
    ("two rests", {"ratios": None, "counts": ["rest", "rest"]}, "rest"),
    ("more than there are", {"ratios": None, "counts": ["rest", 100]}, "counts|100"),
    ("a negative count", {"ratios": None, "counts": ["rest", -1]}, "counts"),
    ("neither ratios nor counts", {"ratios": None}, "ratios", "counts"),
    ("both ratios and counts", {"counts": ["rest", 2]}, "counts", "ratios"),
    ("fewer names than parts", {"names": ["train"]}, "names"),
    ("the same name twice", {"names": ["a", "a"]}, "names"),
    ("a name that leaves the folder", {"names": ["train", "../evil"]}, "names"),
    ("an absolute name", {"names": ["train", "{T}/evil"]}, "names"),
    ("an empty name", {"names": ["train", ""]}, "names"),
    ("a name with a line break", {"names": ["train", "a\nb"]}, "names"),
    ("near above 1", {"near": 1.5}, "near"),
    ("near is 0", {"near": 0}, "near"),
    ("a missing corpus", {"eval": True, "corpus": "nope.jsonl"}, r"nope\.jsonl"),
    ("a corpus without --eval", {"corpus": "train.jsonl"}, "eval"),
    ("output is a file", {"output_dir": "train.jsonl"}, r"train\.jsonl"),
    ("a seed in words", {"seed": "lucky"}, "seed"),
):
    cases.refused(name, split(**more), *says, files=DATA)
cases.refused(
    "output is the input's folder",
    split("d/train.jsonl", output_dir="d"),
    r"\bd\b|train\.jsonl",
    files={"d/train.jsonl": GOOD},
)
cases.refused("output is a stranger's folder", split(), r"\bout\b", files={**DATA, "out/train.jsonl": "a stranger's\n"})
cases.refused("a bad line", split(), line("train.jsonl", 7), files={"train.jsonl": GOOD + "[]\n"})
cases.refused("an empty file", split(), r"train\.jsonl", files={"train.jsonl": ""})
cases.refused("two files of one name", split("a/x.jsonl", "a/x.jsonl"), r"x\.jsonl", files={"a/x.jsonl": GOOD})
cases.works(
    "two files of one name in two folders",
    split("a/x.jsonl", "b/x.jsonl"),
    lambda work, _: (
        None
        if sum(path.read_bytes().count(b"\n") for path in (work / "out").rglob("*.jsonl")) == 12
        else "records were lost"
    ),
    files={
        "a/x.jsonl": GOOD,
        "b/x.jsonl": rows(*(record(n, query=f"别的问题{n}", pos=[f"别的回答{n}"]) for n in range(6))),
    },
)
cases.heard("one record for two parts", split(), "empty|0|part", files={"train.jsonl": rows(record())})
cases.heard(
    "all in one group", split(), "empty|group|0", files={"train.jsonl": rows(*(record(n, group="g") for n in range(6)))}
)
cases.refused(
    "group is a number in one record",
    split(),
    line("train.jsonl", 2),
    "group",
    files={"train.jsonl": rows(record(group="a"), record(1, group=["x"]))},
)
cases.refused(
    "terminal escapes in a name of a part", split(names=["train", ESCAPE]), "names", absent=("\x1b",), files=DATA
)
cases.refused(
    "output is a link to the input's folder",
    split("d/train.jsonl", output_dir="l"),
    r"\bl\b|\bd\b",
    files={"d/train.jsonl": GOOD},
    make=lambda work: (work / "l").symlink_to("d"),
)
cases.works(
    "three parts of the demo, with sets",
    split("{EX}/demo/train/qa.jsonl", ratios=[0.8, 0.1, 0.1], near=0.8, eval=True),
    exists("out/train.jsonl", "out/dev.jsonl", "out/test.jsonl", "out/split.json"),
)
cases.works(
    "Windows' file with BOM and gz in a Chinese folder",
    split("数据/训练.jsonl.gz", output_dir="out 分割"),
    exists("out 分割/train.jsonl.gz"),
    files={"数据/训练.jsonl.gz": gzip.compress(("\ufeff" + GOOD.replace("\n", "\r\n")).encode())},
)
cases.works(
    "names of one's own",
    split(names=["训练", "validation set"]),
    exists("out/训练.jsonl", "out/validation set.jsonl"),
    files=DATA,
)
cases.works(
    "ratios with rounding",
    split(ratios=[0.7, 0.2, 0.1], output_dir="out/a/b"),
    exists("out/a/b/train.jsonl"),
    files=DATA,
)

# --- pairs


def pairs(*inputs: str, **changes: object) -> list[str]:
    """From corpus.jsonl."""
    words = ["pairs", *(inputs or ("corpus.jsonl",))]
    for name, value in {"output_dir": "out", **changes}.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


TEXT = {"corpus.jsonl": CORPUS}
for name, value in (
    ("remove", "1.5"),
    ("words", "-0.1"),
    ("words", "nan"),
    ("next", "2"),
    ("shared", "0"),
    ("max_pairs", "0"),
    ("max_pairs", "-5"),
    ("without", "nope"),
):
    cases.refused(f"--{name} {value}", pairs(**{name: value}), flag(name), files=TEXT)
cases.refused("words and next above 1 together", pairs(words=0.7, next=0.7), "words", "next", files=TEXT)
cases.refused("a missing corpus", pairs("nope.jsonl"), r"nope\.jsonl")
cases.refused(
    "two corpora of one name",
    pairs("a/c.jsonl", "b/c.jsonl"),
    r"c\.jsonl",
    files={"a/c.jsonl": CORPUS, "b/c.jsonl": CORPUS},
)
cases.refused(
    "c.jsonl and c.txt write one file",
    pairs("c.jsonl", "c.txt"),
    r"c\.(jsonl|txt)",
    files={"c.jsonl": CORPUS, "c.txt": PARAGRAPH * 9},
)
cases.refused(
    "output is the corpus' folder", pairs("d/corpus.jsonl", output_dir="d"), r"\bd\b", files={"d/corpus.jsonl": CORPUS}
)
cases.refused(
    "output is the corpus' folder, with --overwrite",
    pairs("d/corpus.jsonl", output_dir="d", overwrite=True),
    r"\bd\b",
    files={"d/corpus.jsonl": CORPUS},
)
cases.refused(
    "an existing file", pairs(), r"corpus\.jsonl", "overwrite", files={**TEXT, "out/corpus.jsonl": "a stranger's\n"}
)
cases.refused("a bad line", pairs(), line("corpus.jsonl", 31), files={"corpus.jsonl": CORPUS + "nonsense\n"})
cases.refused(
    "a title that is a number",
    pairs(),
    line("corpus.jsonl", 31),
    "title",
    files={"corpus.jsonl": CORPUS + '{"text": "好", "title": 4}\n'},
)
cases.heard("texts that are too short", pairs(), r"\b0\b|no pair|short", files={"corpus.jsonl": '{"text": "短"}\n' * 3})
cases.works("pairs of a corpus", pairs(), exists("out/corpus.jsonl"), files=TEXT)
cases.says(
    "texts of an evaluation set stay out, counted",
    pairs(without="set"),
    r"left out|without|shared?\b",
    files={**SET, "set/corpus.jsonl": rows(*({"id": f"d{n}", "text": PARAGRAPH} for n in range(6))), **TEXT},
)
cases.works(
    "a Windows text file and a Chinese name",
    pairs("语料 一.txt"),
    exists("out/语料 一.jsonl"),
    files={"语料 一.txt": "\ufeff" + (PARAGRAPH * 4 + "\r\n") * 10},
)

# --- mine

for name, more, *says in (
    ("an unknown method", {"method": "magic"}, "magic", "bm25"),
    ("ranks reversed", {"range": [10, 2]}, "range"),
    ("negative ranks", {"range": [-5, 5]}, "range"),
    ("an empty range", {"range": [3, 3]}, "range"),
    ("one rank", {"range": [3]}, "range"),
    ("hn_mine's range in another form", {"range": None, "range_for_sampling": "10to210"}, "range_for_sampling"),
    ("both ranges", {"range_for_sampling": "0-5"}, "range"),
    ("no negatives", {"negatives": 0}, "negatives"),
    ("percent in percent", {"percent": 95, "model": "nano-zh-static"}, "percent"),
    ("a negative percent", {"percent": -0.5, "model": "nano-zh-static"}, "percent"),
    ("percent without a model", {"percent": 0.9}, "model"),
    ("margin nan", {"margin": "nan", "model": "nano-zh-static"}, "margin"),
    ("overlap above 1", {"max_overlap": 2}, "max_overlap"),
    ("an unknown positive", {"positive": "median"}, "median"),
    ("an unknown segmentation", {"words": "spaces"}, "spaces"),
    ("k1 below 0", {"k1": -1}, "k1"),
    ("b above 1", {"b": 3}, r"\bb\b"),
    ("dense without a model", {"method": "dense"}, "model"),
    ("a missing model", {"method": "dense", "model": "./nope"}, "nope"),
    ("a missing corpus", {"corpus": "nope.txt"}, r"nope\.txt"),
    ("a dictionary that is missing", {"user_dict": "nope.txt"}, r"nope\.txt"),
    ("a cross-encoder that is missing", {"cross_encoder": "./nope"}, "nope"),
    ("an embedder as cross-encoder", {"cross_encoder": "nano-zh-static"}, "nano-zh-static"),
    ("a block of 0", {"block": 0}, "block"),
    ("a negative audit", {"audit": -1}, "audit"),
    ("a shard of 0", {"shard_size": 0, "method": "dense", "model": "nano-zh-static"}, "shard_size"),
    ("no output", {"output": None}, "output"),
    ("both output and save_name", {"save_name": "bm25"}, "save_name"),
    ("output is the input", {"output": "train.jsonl"}, r"train\.jsonl"),
    ("output is the corpus", {"corpus": "corpus.jsonl", "output": "corpus.jsonl"}, r"corpus\.jsonl"),
    ("output is a folder", {"output": "."}, "output|folder"),
    ("a working folder that is a file", {"work_dir": "train.jsonl"}, "work_dir|train.jsonl"),
    ("a save_name that leaves the folder", {"output": None, "save_name": "../../evil"}, "save_name"),
    (
        "a faiss index that does not exist",
        {"method": "dense", "model": "nano-zh-static", "faiss_index_factory": "Foo7"},
        "faiss_index_factory|Foo7",
    ),
):
    cases.refused(
        name,
        mine(**{key: value for key, value in more.items()}),
        *(flag(text) for text in says),
        files={**DATA, "corpus.jsonl": TEXTS},
    )
cases.refused("no files", ["mine", "--output", "out.jsonl", "--method", "bm25"], "FILES|input_file|file")
cases.refused(
    "a record without pos",
    mine(),
    line("train.jsonl", 2),
    "pos",
    files={"train.jsonl": rows(record(), record(1, pos=...))},
)
cases.refused("scored pairs", mine(), r"train\.jsonl", "query|pos", files={"train.jsonl": PAIRS})
cases.refused("an empty corpus", mine(corpus="c.jsonl"), r"c\.jsonl", files={**DATA, "c.jsonl": ""})
cases.refused(
    "a corpus with a bad line",
    mine(corpus="c.jsonl"),
    line("c.jsonl", 7),
    files={**DATA, "c.jsonl": TEXTS + '{"text": 3}\n'},
)
cases.heard("one record: no key to mine", mine(), "negativ|no key|0", files={"train.jsonl": rows(record(neg=...))})
cases.heard(
    "a stranger's output", mine(), r"out\.jsonl", "exist|replac|overwrit", files={**DATA, "out.jsonl": "a stranger's\n"}
)
cases.says("fewer candidates than asked for", mine(negatives=50), "few|fewer|none|too", files=DATA)
cases.says(
    "teacher scores are removed",
    mine(),
    "teacher_scores",
    files={"train.jsonl": rows(*(record(n, teacher_scores=[1, 0]) for n in range(6)))},
)
cases.works(
    "HTML in texts is escaped in the audit",
    mine(),
    lacks("out.jsonl.audit.html", "<script>alert(7)"),
    files={
        "train.jsonl": rows(
            *(
                record(n, query=f"<script>alert(7)</script>问{n}", pos=[f"<script>alert(7)</script>答{n}"])
                for n in range(6)
            )
        )
    },
)
cases.works(
    "dense with nano-zh-static, a gz output",
    mine(method="dense", model="nano-zh-static", output="out.jsonl.gz"),
    counts("out.jsonl.gz", 6),
    files=DATA,
)
cases.works(
    "hn_mine's spelling",
    [
        *["mine", "--input_file", "train.jsonl", "--output_file", "out.jsonl", "--candidate_pool"],
        *["段落.txt", "--range_for_sampling", "0-5", "--negative_number", "1", "--retrieval_method", "random"],
    ],
    counts("out.jsonl", 6),
    files={**DATA, "段落.txt": "\ufeff" + "".join(key + "\r\n" for _, key in QUESTIONS)},
)

# --- score

for name, more, *says in (
    ("an unknown method", {"method": "oracle"}, "oracle", "cross_encoder"),
    ("an unknown reduction", {"method": "language_model", "reduction": "max"}, "max", "mean"),
    ("a missing model", {"model": "./nope"}, "nope"),
    ("no model", {"model": None}, "model"),
    ("an embedder as cross-encoder", {"method": "cross_encoder"}, "nano-zh-static"),
    ("an embedder as language model", {"method": "language_model"}, "nano-zh-static"),
    ("chunk 0", {"chunk": 0}, "chunk"),
    ("max_length 0", {"max_length": 0}, "max_length"),
    ("tokens_per_batch 0", {"tokens_per_batch": 0}, "tokens_per_batch"),
    ("entropy above 1", {"teacher_entropy": 2}, "teacher_entropy"),
    ("an unknown precision", {"dtype": "int4"}, "int4"),
    ("prompts that are missing", {"method": "language_model", "prompts": "nope.yaml"}, r"nope\.yaml"),
    ("output is the input", {"output": "train.jsonl"}, r"train\.jsonl"),
    ("the cache is the input", {"cache": "train.jsonl"}, r"train\.jsonl"),
    ("the cache is the output", {"cache": "out.jsonl"}, "cache|out.jsonl"),
    ("output is a folder", {"output": "."}, "output|folder"),
):
    cases.refused(name, score(**more), *(flag(text) for text in says), files=DATA)
cases.refused(
    "a cache that is no database",
    score(cache="c.sqlite"),
    r"c\.sqlite",
    files={**DATA, "c.sqlite": "not a database, but someone's notes" * 99},
)
cases.refused(
    "a record without keys",
    score(),
    line("train.jsonl", 2),
    files={"train.jsonl": rows(record(), {"query": "a", "task": "qa"})},
)
cases.refused("a bad line at the end", score(), line("train.jsonl", 7), files={"train.jsonl": GOOD + '{"query"'})
cases.heard(
    "existing scores",
    score(),
    "teacher_scores|replac",
    files={"train.jsonl": rows(*(record(n, teacher_scores=[9, 8]) for n in range(6)))},
)
cases.heard(
    "a stranger's output",
    score(),
    r"out\.jsonl",
    "exist|replac|overwrit",
    files={**DATA, "out.jsonl": "a stranger's\n"},
)
cases.works(
    "records with history",
    score(),
    holds("out.jsonl", "teacher_scores"),
    files={"train.jsonl": rows(*({"query": q, "history": [k, "别的话"], "task": "chat"} for q, k in QUESTIONS))},
)
cases.works(
    "a linked input, an output in Chinese",
    score("l.jsonl", output="out 分数.jsonl"),
    counts("out 分数.jsonl", 6),
    files=DATA,
    make=lambda work: (work / "l.jsonl").symlink_to("train.jsonl"),
)

# --- generate

DOCUMENT = {"doc.txt": (PARAGRAPH + "\n\n") * 12}
for name, more, *says in (
    ("no model", {"model": None}, "model"),
    ("no endpoint", {"base_url": None}, "base_url|OPENAI_BASE_URL"),
    ("an endpoint where nobody listens", {}, r"127\.0\.0\.1:9"),
    ("an address that is none", {"base_url": "not an address"}, "base_url|not an address"),
    ("an address of another kind", {"base_url": "ftp://example.org/v1"}, "base_url|ftp"),
    ("a file as address", {"base_url": "file:///etc/passwd"}, "base_url|file:"),
    ("extra_body is no JSON", {"extra_body": "{enable: false}"}, "extra_body"),
    ("extra_body is a list", {"extra_body": "[1]"}, "extra_body"),
    ("a price without a budget", {"max_cost": 5}, "prices"),
    ("negative prices", {"max_cost": 5, "prices": [-1, 1]}, "prices"),
    ("a budget of 0", {"max_total_tokens": 0}, "max_total_tokens"),
    ("no queries", {"queries": 0}, "queries"),
    ("limit 0", {"limit": 0}, "limit"),
    ("temperature below 0", {"temperature": -1}, "temperature"),
    ("timeout 0", {"timeout": 0}, "timeout"),
    ("timeout nan", {"timeout": "nan"}, "timeout"),
    ("concurrency 0", {"concurrency": 0}, "concurrency"),
    ("retries below 0", {"retries": -1}, "retries"),
    ("max_tokens 0", {"max_tokens": 0}, "max_tokens"),
    ("passages of 0 characters", {"passage_chars": 0}, "passage_chars"),
    ("an overlap as long as a passage", {"passage_chars": 50, "overlap": 50}, "overlap"),
    ("near above 1", {"near": 1.1}, "near"),
    ("shortest above longest", {"min_query_chars": 50, "max_query_chars": 10}, "query_chars"),
    ("an unknown segmentation", {"words": "spaces"}, "words|spaces"),
    ("a retriever that is missing", {"retriever": "./nope"}, "nope"),
    ("no output", {"output": None}, "output"),
    ("output is the document", {"output": "doc.txt"}, r"doc\.txt"),
    ("output is the corpus", {"output_corpus": "out.jsonl"}, r"out\.jsonl|output_corpus"),
    ("the corpus is the document", {"output_corpus": "doc.txt"}, r"doc\.txt"),
    ("prompts that are missing", {"prompts": "nope.yaml"}, r"nope\.yaml"),
    ("prompts that are broken", {"prompts": "p.yaml"}, r"p\.yaml"),
    ("a task twice", {"tasks": ["qa", "qa"]}, "tasks|qa"),
):
    cases.refused(
        name,
        generate(**more),
        *(flag(text) if "." not in text else text for text in says),
        files={**DOCUMENT, "p.yaml": "qa: [unclosed\n"},
    )


def dry(*inputs: str, **changes: object) -> list[str]:
    """Look only."""
    nothing = {"output": None, "model": None, "base_url": None, "retries": None, "timeout": None, "give_up": None}
    return generate(*inputs, **{**nothing, "dry_run": True, "output_corpus": "out.jsonl", **changes})


cases.refused("a missing document", dry("nope.txt"), r"nope\.txt")
cases.refused("a text called docx", dry("a.docx"), r"a\.docx", files={"a.docx": "plain text"})
cases.refused("a zip called docx", dry("a.docx"), r"a\.docx", files={"a.docx": zipped(**{"word/other.xml": "<a/>"})})
cases.refused("a broken PDF", dry("a.pdf"), r"a\.pdf", files={"a.pdf": b"%PDF-1.7\nbroken"})
cases.refused("an unknown ending", dry("a.xyz"), r"a\.xyz", files={"a.xyz": "text"})
cases.refused("an empty document", dry("e.txt"), r"e\.txt", files={"e.txt": ""})
cases.refused("an empty folder", dry("d"), r"\bd\b", make=lambda work: (work / "d").mkdir())
cases.refused(
    "a bad line of JSON", dry("a.jsonl"), line("a.jsonl", 2), files={"a.jsonl": rows({"text": PARAGRAPH}, "{bad")}
)
cases.refused(
    "HTML without text", dry("a.html"), r"a\.html", files={"a.html": "<html><script>var a = 1</script></html>"}
)
cases.refused(
    "a DOCX that unpacks to 300 MB of one letter",
    dry("bomb.docx"),
    r"bomb\.docx",
    files={"bomb.docx": zipped(**{"word/document.xml": "<w>" + "A" * 300_000_000})},
) if os.environ.get("TRIALS_LARGE") else None
cases.says(
    "unreadable files are counted when skipped",
    dry("doc.txt", "a.pdf", skip_unreadable=True),
    r"a\.pdf",
    r"\b1\b",
    files={**DOCUMENT, "a.pdf": b"%PDF-1.7\nbroken"},
)
cases.works(
    "a document in GB18030",
    dry("文 档.txt"),
    holds("out.jsonl", "春天的早晨"),
    files={"文 档.txt": DOCUMENT["doc.txt"].encode("gb18030")},
)
cases.works(
    "scripts of a web page stay out",
    dry("a.html"),
    lacks("out.jsonl", "alert("),
    files={"a.html": f"<html><body><h1>题</h1><script>alert(1)</script><p>{PARAGRAPH * 3}</p></body></html>"},
)
cases.heard(
    "the same document twice", dry("doc.txt", "doc.txt"), "twice|again|same|once|duplicate|repeat", files=DOCUMENT
)
cases.heard(
    "a key on the command's environment is not shown",
    generate(),
    r"127\.0\.0\.1:9",
    files=DOCUMENT,
    env={"OPENAI_API_KEY": "sk-secret-123456"},
    absent=("sk-secret-123456",),
)
cases.refused(
    "an address with a password is not shown",
    generate(base_url="http://user:hunter2@127.0.0.1:9/v1"),
    r"127\.0\.0\.1",
    absent=("hunter2",),
    files=DOCUMENT,
)
cases.refused(
    "a dead endpoint in the environment",
    generate(base_url=None),
    r"127\.0\.0\.1:9",
    files=DOCUMENT,
    env={"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"},
)
cases.refused(
    "a ledger that is not ours",
    generate(),
    r"out\.jsonl\.ledger\.jsonl",
    files={**DOCUMENT, "out.jsonl.ledger.jsonl": "my diary\n"},
)
cases.refused(
    "terminal escapes in the name of a document",
    dry("a\x1b[31m.pdf"),
    r"\.pdf",
    absent=("\x1b",),
    files={"a\x1b[31m.pdf": b"%PDF-1.7\n"},
)

cases.heard(
    "another run's output, with other flags",
    mine(negatives=1),
    r"out\.jsonl",
    "exist|replac|overwrit|flags",
    files=DATA,
    first=(tuple(mine()),),
)
