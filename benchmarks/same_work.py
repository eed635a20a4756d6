"""Where a case of `same_figures` runs: a folder, a checkout's code, small inputs made of the demo's records."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import of_run

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@dataclass(frozen=True, slots=True)
class Work:
    """A work folder, and the checkout whose code runs in it."""

    code: Path
    folder: Path

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
        done = subprocess.run(
            self.command(*words), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode not in codes:
            shown = " ".join(map(str, words))[:300]
            raise RuntimeError(f"{shown}\nexit {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        return done.stdout

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
