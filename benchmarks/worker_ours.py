"""zh_embedder at work: run_dense.py's own way from flags to trainer, and `Encoder.encode`."""

import sys
from pathlib import Path

from benchmarks.stopwatch import Job, Stopwatch, read_job, time_encoding


def train(job: Job) -> int:
    from zh_embedder.commands.train import main
    from zh_embedder.training import build

    version = Path(job.out) / f"version-{job.batch}.yaml"
    version.write_text('tasks:\n  bench:\n    query: ""\n    key: ""\n', "utf-8")
    words = {
        "query_encoder": job.base,
        "train_data": job.data,
        "dataset_cache_dir": f"{job.out}/cache",
        "output_dir": f"{job.out}/trainer",
        "version": version,
        "train_group_size": job.group,
        "query_max_length": job.max_length,
        "key_max_length": job.max_length,
        "inbatch_same_dataset": "epoch",
        "cos_temperature": job.temperature,
        "per_device_train_batch_size": job.batch,
        "learning_rate": 2e-5,
        "max_steps": job.warmup + job.steps,
        "save_strategy": "no",
        "report_to": "none",
        "max_unknown": 1,  # bases and texts are random
        "disable_tqdm": True,
        "use_cpu": job.on_cpu,
        **({"cpu_threads": job.threads} if job.threads else {}),
        **job.flags,
    }
    argv = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    plain = build.build

    def build_with_clock(*args):
        trainer = plain(*args)
        trainer.add_callback(Stopwatch(job))
        return trainer

    build.build = build_with_clock
    return main(argv)


def encode(job: Job) -> int:
    from zh_embedder.models.encoder import Encoder

    encoder = Encoder.from_pretrained(job.base, device=job.device)
    time_encoding(job, lambda texts: encoder.encode(texts, max_length=job.max_length, show_progress=False, **job.flags))
    return 0


if __name__ == "__main__":
    asked = read_job()
    sys.exit({"train": train, "encode": encode}[asked.kind](asked))
