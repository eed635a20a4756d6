"""sentence-transformers at work: its own trainer, collator and loss; its own `encode`."""

from benchmarks.stopwatch import Job, Stopwatch, read_job, read_rows, time_encoding


def load(job: Job, options: dict):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job.base, device=job.device, **options)
    model.max_seq_length = job.max_length
    return model


def train(job: Job) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    records = read_rows(job)
    columns = {"anchor": [r["query"] for r in records], "positive": [r["pos"][0] for r in records]}
    columns |= {f"negative_{n + 1}": [r["neg"][n] for r in records] for n in range(job.group - 1)}
    flags = dict(job.flags)
    model = load(job, flags.pop("model", {}))
    args = SentenceTransformerTrainingArguments(
        output_dir=f"{job.out}/trainer",
        per_device_train_batch_size=job.batch,
        learning_rate=2e-5,
        max_steps=job.warmup + job.steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=job.on_cpu,
        **flags,
    )
    loss = MultipleNegativesRankingLoss(model, scale=1 / job.temperature, gather_across_devices=job.ranks > 1)
    SentenceTransformerTrainer(
        model=model, args=args, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[Stopwatch(job)]
    ).train()


def encode(job: Job) -> None:
    flags = dict(job.flags)
    model = load(job, flags.pop("model", {}))
    time_encoding(job, lambda texts: model.encode(texts, show_progress_bar=False, **flags))


if __name__ == "__main__":
    asked = read_job()
    {"train": train, "encode": encode}[asked.kind](asked)
