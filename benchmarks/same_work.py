"""Working folder of a case of `same_figures`: a checkout's code, small inputs made of the demo's records."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import of_run

IMPORTS = "torch, transformers.trainer, datasets, accelerate, bm25s, jieba"
# Forks a process for each command, which has nothing of the checkout in it but what it imports itself.
FORKS = f"""
import json, os, runpy, sys
import {IMPORTS}
for line in sys.stdin:
    words, folder, printed, complaints = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        for number, path in enumerate((os.devnull, printed, complaints)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        code = 0
        try:
            if words[0] == "-c":
                exec(words[1], {{"__name__": "__main__"}})
            elif words[0] == "-m":
                sys.argv = words[1:]
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = words
                sys.path.insert(0, os.path.dirname(words[0]))
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
SERVERS: dict[Path, subprocess.Popen[str]] = {}


@dataclass(frozen=True, slots=True)
class Work:
    """A work folder, and the checkout whose code runs in it."""

    code: Path
    folder: Path
    forked: bool = False  # commands share their imports of other people's libraries

    @property
    def environment(self) -> dict[str, str]:
        """The checkout's code, one thread, a cache of its own, no hub, no GPU."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONHASHSEED", "TORCH_LOGS")}
        return kept | {
            **{"PYTHONPATH": str(self.code), "ZH_EMBEDDER_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"},
            **{"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        }

    def command(self, *words: object) -> list[str]:
        return [sys.executable, *map(str, words)]

    def python(self, *words: object, codes: tuple[int, ...] = (0,)) -> str:
        """Run Python with these words to its end; returns what it printed on stdout."""
        launched = words[:2] == TORCHRUN[:2]
        run = self.fork if self.forked and not launched else self.start
        code, printed, complaints = run(list(map(str, words)))
        if code not in codes:
            shown = " ".join(map(str, words))[:300]
            raise RuntimeError(f"{shown}\nexit {code}\n{printed[-1000:]}\n{complaints[-3000:]}")
        return printed

    def start(self, words: list[str]) -> tuple[int, str, str]:
        """Run Python as a user does."""
        done = subprocess.run(
            self.command(*words), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def fork(self, words: list[str]) -> tuple[int, str, str]:
        """Run Python in a fork of this case's process, which has imported what takes seconds."""
        server = SERVERS.get(self.folder)
        if server is None:
            server = subprocess.Popen(self.command("-c", FORKS), stdin=-1, stdout=-1, text=True, env=self.environment)
            SERVERS[self.folder] = server
        outputs = [self.folder / f".{name}" for name in ("stdout", "stderr")]
        server.stdin.write(json.dumps([words, str(self.folder), *map(str, outputs)]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return (code, *(path.read_text("utf-8", errors="replace") for path in outputs))

    def close(self) -> None:
        """End the process that commands were forked from."""
        if server := SERVERS.pop(self.folder, None):
            server.communicate()

    def train(self, out: str, *flags: object, ranks: int = 1) -> dict[str, Any]:
        """Run `run_dense.py`, under torchrun where there are ranks; returns the run's figures."""
        launcher = TORCHRUN if ranks > 1 else ()
        self.python(*launcher, self.code / "run_dense.py", "--output_dir", out, *flags)
        return of_run(self.folder / out)

    def base(self, **options: object) -> None:
        """Write a base with random weights to `base`."""
        self.python("-c", f"from zh_embedder.tiny import build; build('base', **{options})")

    def tool(self, name: str, *words: object, codes: tuple[int, ...] = (0,)) -> None:
        self.python("-m", f"data_tools.{name}", *words, codes=codes)

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text("utf-8").splitlines()]

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (self.folder / name).write_text(text, "utf-8")

    def write_mixed(self, count: int = 24) -> None:
        """Write records with teacher scores, a dataset that fills no step, scored pairs and labelled texts."""
        rows = self.lines("demo/train/qa.jsonl")
        for number, row in enumerate(rows):
            row["teacher_scores"] = [2.0, *[(number + i) % 3 / 2 for i in range(len(row["neg"]))]]
        self.write("qa.jsonl", rows[:count])
        self.write("chat.jsonl", self.lines("demo/train/chat.jsonl")[:5])
        texts = [row["query"] for row in rows]
        score = [{"text1": texts[i], "text2": texts[i + 16], "score": i % 5 / 4, "task": "sts"} for i in range(16)]
        self.write("pairs.jsonl", score)
        self.write("labels.jsonl", [{"text": texts[i], "label": str(i % 3), "task": "icl"} for i in range(11)])

    def write_corpus(self, count: int = 200) -> None:
        """Write the first documents of a corpus, whole ones."""
        import pyarrow as pa

        packed = self.folder / "data" / "corpus_general" / "tech_lctt.jsonl.zst"
        raw = pa.CompressedInputStream(pa.OSFile(str(packed)), "zstd").read(8_000_000).decode("utf-8", "ignore")
        self.write("corpus.jsonl", [json.loads(line) for line in raw.split("\n")[:count]])
