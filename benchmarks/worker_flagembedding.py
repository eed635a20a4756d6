"""FlagEmbedding at work: its own runner, dataset, collator, loss and trainer; its own FlagModel for encoding."""

import logging
import sys

from benchmarks.stopwatch import Job, Stopwatch, read_job, time_encoding


def train(job: Job) -> None:
    from FlagEmbedding.finetune.embedder.encoder_only.base import (
        EncoderOnlyEmbedderDataArguments,
        EncoderOnlyEmbedderModelArguments,
        EncoderOnlyEmbedderRunner,
        EncoderOnlyEmbedderTrainingArguments,
    )
    from transformers import HfArgumentParser

    words = {
        "model_name_or_path": job.base,
        "train_data": job.data,
        "cache_path": f"{job.out}/cache",
        "output_dir": f"{job.out}/trainer",
        "train_group_size": job.group,
        "query_max_len": job.max_length,
        "passage_max_len": job.max_length,
        "query_instruction_for_retrieval": "",
        "same_dataset_within_batch": True,
        "negatives_cross_device": job.ranks > 1,
        "temperature": job.temperature,
        "sentence_pooling_method": "cls",
        "normalize_embeddings": True,
        "per_device_train_batch_size": job.batch,
        "learning_rate": 2e-5,
        "max_steps": job.warmup + job.steps,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": job.on_cpu,
        **job.flags,
    }
    argv = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    parser = HfArgumentParser(
        (EncoderOnlyEmbedderModelArguments, EncoderOnlyEmbedderDataArguments, EncoderOnlyEmbedderTrainingArguments)
    )
    model, data, training = parser.parse_args_into_dataclasses(argv)
    runner = EncoderOnlyEmbedderRunner(model_args=model, data_args=data, training_args=training)
    runner.trainer.add_callback(Stopwatch(job))
    runner.trainer.train()


def encode(job: Job) -> None:
    from FlagEmbedding import FlagModel

    options = dict(job.flags)
    call = {name: options.pop(name) for name in ("batch_size",) if name in options}
    model = FlagModel(job.base, devices=job.device, **options)
    # It encodes the first batch twice, to see whether it fits: both count as work done, so that its rate is that of a
    # long list, where the probe is nothing.
    probed = call.get("batch_size", model.batch_size)
    time_encoding(job, lambda texts: model.encode(texts, max_length=job.max_length, **call), probed=probed)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    asked = read_job()
    {"train": train, "encode": encode}[asked.kind](asked)
    sys.exit(0)
