"""Hard negatives compared: random, BM25, dense and filtered dense; one base, the same steps, seeds and flags.

    ZH_DATA=... python -m benchmarks.mining --base DIR --data stard medical --seeds 0 1 2 --folder WORK --output FILE

A miner is the base after `--steps` with random negatives, of the set itself or, with --miner all, of all training sets.
It mines, and every way is trained from the base anew. nDCG@10 over the whole test corpus as `zh-embedder evaluate`
measures it, mean of the seeds; the interval is of the difference to random negatives: 95 %, paired bootstrap over
queries of their means over seeds. The folder keeps what is done: a run that was stopped is resumed.
"""

import argparse
import json
import os
import random
import re
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.material import data_folder
from data_tools.shared.record_files import read_records, write_records
from zh_embedder.evaluation.intervals import paired
from zh_embedder.text.words import letters

RANDOM, GIVEN = "random", "given"
ALL = "miner-all"
ARTICLE = re.compile(r"^\s*(第[一二三四五六七八九十百千零]+条)[\s\u3000]*(.+)$", re.MULTILINE)
ARTICLES = 40_000
WAYS = {  # what mine_negatives is told; None: the negatives that the records come with
    RANDOM: ["--method", "random"],
    GIVEN: None,
    "BM25": ["--method", "bm25"],
    "dense": [],
    "dense + filters": ["--percent", "0.95", "--max_overlap", "0.6", "--fill"],
    "dense 0-50": ["--range", "0", "50"],
    "dense 0-50 + filters": ["--range", "0", "50", "--percent", "0.95", "--max_overlap", "0.6", "--fill"],
    "dense top 15": ["--range", "0", "200", "--take", "top"],
    "dense 50-500": ["--range", "50", "500"],
    "fused": ["--method", "fused"],
}
USUAL = [RANDOM, GIVEN, "BM25", "dense", "dense + filters"]


def forked(work, log: Path) -> None:
    """Run in a process of its own that has imported everything already; what it says goes into the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if not child:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        try:
            code = work() or 0
        except BaseException as error:
            import traceback

            traceback.print_exc()
            code = error.code if isinstance(error, SystemExit) else 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(f"{log}:\n{log.read_text(errors='replace')[-3000:]}")


def train(files: list[Path], output: Path, args, seed: int, base: str) -> None:
    """Train as `run_dense.py` does, unless it is done."""
    if (output / "encoder" / "config.json").is_file():
        return
    flags = ["--output_dir", output, "--train_data", *files, "--query_encoder", base, "--version", "none"]
    flags += ["--max_steps", args.steps, "--per_device_train_batch_size", args.batch]
    flags += ["--train_group_size", args.group, "--learning_rate", args.lr, "--cos_temperature", args.temperature]
    flags += ["--query_max_length", 128, "--key_max_length", 256, "--inbatch_same_dataset", "epoch", "--seed", seed]
    flags += ["--save_strategy", "no", "--report_to", "none", "--overwrite", "--logging_steps", 50]
    flags += args.flags

    def work():
        from zh_embedder.commands.train import main

        return main([str(flag) for flag in flags])

    forked(work, output.with_suffix(".log"))


def write_articles(data: Path, test: Path, target: Path) -> Path:
    """Write articles of laws in corpus_general, drawn, as stard writes them; none that the test corpus has."""
    if not target.is_file():
        (corpus,) = test.glob("corpus.jsonl*")
        tested = {body(record["text"]) for _, record in read_records(corpus, show_progress=False)}
        laws = read_records(data / "corpus_general" / "laws.jsonl.zst", show_progress=False)
        found = [f"{law['title']}{name}：{text}" for _, law in laws for name, text in ARTICLE.findall(law["text"])]
        drawn = random.Random(0).sample(found, ARTICLES)
        write_records(target, ({"text": text} for text in drawn if body(text) not in tested))
    return target


def body(article: str) -> str:
    """Return what an article says, without the law's name, as texts are compared."""
    return letters(article.partition("：")[2] or article)


def write_others(source: Path, target: Path) -> Path:
    """Write the keys of records that are positives of no query: what is mined from them cannot be an answer."""
    if not target.is_file():
        records = [record for _, record in read_records(source, show_progress=False)]
        right = {text for record in records for text in record["pos"]}
        others = dict.fromkeys(text for record in records for text in record["neg"] if text not in right)
        write_records(target, ({"text": text} for text in others))
    return target


def mined(source: Path, way: str, miner: Path, folder: Path, corpus: Path | None = None) -> Path:
    """Mine negatives; returns the file."""
    output = (
        folder
        / f"{way.replace(' ', '_')}{f'-{corpus.stem}' if corpus else ''}{'-all' if miner.name == ALL else ''}.jsonl"
    )
    if WAYS[way] is None:
        return source
    if not output.is_file():
        flags = [str(source), "--output", str(output), "--overwrite", *WAYS[way]]
        flags += ["--corpus", str(corpus)] if corpus else []
        if "--method" not in WAYS[way] or "fused" in WAYS[way]:
            flags += ["--model", str(miner)]

        def work():
            from data_tools.mine_negatives import main

            return main(flags)

        forked(work, output.with_suffix(".log"))
    return output


def measured(model: Path | str, data: Path, target: Path) -> dict[str, float]:
    """nDCG@10 of every test query; computed where the file is not there yet."""
    if not target.is_file():

        def work():
            from zh_embedder.evaluation.measure import measure_model
            from zh_embedder.evaluation.model import Model
            from zh_embedder.evaluation.read_set import read_set

            found = measure_model(Model.load(str(model)), read_set(data), metrics=["ndcg@10"])[None]
            target.write_text(json.dumps(found.items["ndcg@10"]))

        forked(work, target.with_suffix(".eval.log"))
    return json.loads(target.read_text())


def compare(name: str, args, data: Path, folder: Path) -> list[list[str]]:
    """Train and measure all ways on one set; returns the rows of its table."""
    (source,) = data.glob(f"*/{name}/train.jsonl*")
    test, own = source.parent / "test", folder / name
    own.mkdir(parents=True, exist_ok=True)
    tag = f"b{args.batch}-g{args.group}-s{args.steps}-lr{args.lr}-t{args.temperature}"
    tag += ("-laws" if args.laws else "") + ("-others" if args.others else "") + ("-all" if args.miner == "all" else "")
    tag += "".join(args.flags).replace("--", "-")
    corpus = write_articles(data, test, folder / "laws.jsonl") if args.laws else None
    corpus = write_others(source, own / "others.jsonl") if args.others else corpus
    if args.miner == "all":
        sources = sorted(data.glob("*/*/train.jsonl*"))
        miner = folder / ALL
    else:
        sources, miner = [mined(source, RANDOM, Path(), own)], own / "miner"
    train(sources, miner, argparse.Namespace(**{**vars(args), "flags": []}), 0, args.base)
    scores: dict[str, list[dict[str, float]]] = {"base": [measured(args.base, test, own / "base.json")]}
    scores["miner"] = [measured(miner, test, own / f"{miner.name}.json")]
    for seed in args.seeds:
        for way in args.ways:
            output = own / tag / f"{way.replace(' ', '_')}-{seed}"
            train([mined(source, way, miner, own, corpus)], output, args, seed, args.base)
            found = measured(output, test, output.with_suffix(".json"))
            scores.setdefault(way, []).append(found)
            print(
                f"{time.strftime('%H:%M:%S')} {name} {tag} {way} {seed}: {np.mean(list(found.values())):.4f}",
                flush=True,
            )
    return [row(name, way, found, scores[RANDOM]) for way, found in scores.items()]


def row(name: str, way: str, found: list[dict[str, float]], reference: list[dict[str, float]]) -> list[str]:
    """Lay out one way: mean over seeds, each seed, the difference to random negatives."""
    queries = list(reference[0])
    own, usual = (np.mean([[one[query] for query in queries] for one in runs], axis=0) for runs in (found, reference))
    each = " ".join(f"{np.mean(list(one.values())):.4f}" for one in found) if len(found) > 1 else ""
    if way in (RANDOM, "base", "miner"):
        return [name, way, f"{own.mean():.4f}", each, ""]
    change = paired(usual, own)
    word = "" if change.sure else " ="
    return [name, way, f"{own.mean():.4f}", each, f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]{word}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="what every way starts from")
    parser.add_argument("--data", nargs="+", default=["stard", "medical"], help="training sets below ZH_DATA")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=USUAL)
    parser.add_argument("--miner", choices=("own", "all"), default="own", help="what the miner learns from")
    parser.add_argument("--laws", action="store_true", help="mine from 40,000 articles of laws, not from the records")
    parser.add_argument("--others", action="store_true", help="mine from the keys that are nobody's positive")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="further flags of run_dense.py")
    parser.add_argument("--folder", type=Path, required=True, help="keeps negatives, runs and scores")
    parser.add_argument("--output", type=Path, help="write the table here too")
    args = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("ZH_DATA: names no folder with the data sets")
    import zh_embedder.training.dense_trainer  # noqa: F401  what takes seconds, once for all that is forked

    args.ways = [RANDOM, *(way for way in args.ways if way != RANDOM)]
    rows = [row for name in args.data for row in compare(name, args, Path(data), args.folder.resolve())]
    head = ["set", "negatives", "nDCG@10", "each seed", "against random"]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))
    print(table)
    if args.output:
        args.output.write_text(table + "\n", "utf-8")


if __name__ == "__main__":
    main()
