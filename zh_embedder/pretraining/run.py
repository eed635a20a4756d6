"""Pretraining runs: a corpus and a base, or random weights, in; an encoder folder out.

What it writes is trained further by `run_dense.py --query_encoder` and loads in sentence-transformers.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_embedder.core.counts import counted
from zh_embedder.core.errors import reject
from zh_embedder.data.sources import below_root
from zh_embedder.training.launch import begin, check_output, find_resume, own_folder, train_and_save

if TYPE_CHECKING:
    from zh_embedder.models.encoder import Encoder
    from zh_embedder.pretraining.arguments import BaseArguments, PretrainArguments
    from zh_embedder.pretraining.corpus import Windows
    from zh_embedder.pretraining.model import MaskedLM
    from zh_embedder.pretraining.trainer import Pretrainer

logger = logging.getLogger(__name__)

LONGEST = 512  # tokens of a window, where no flag gives them


def pretrain(args: PretrainArguments) -> None:
    """Pretrain as the flags say.

    Raises:
        UserError: anything that the user can fix; nothing has been written then.
    """
    begin(args)
    corpus, base = args.corpus, args.base
    inputs = [below_root(spec, corpus.data_root) for spec in corpus.corpus or ()]
    inputs += [] if corpus.user_dict is None else [corpus.user_dict]
    with own_folder(args, inputs=inputs, models=[base.query_encoder, base.tokenizer_name]):
        pretrain_in_folder(args)


def pretrain_in_folder(args: PretrainArguments) -> None:
    """Pretrain, with the run's folder for this run alone."""
    from zh_embedder.text.words import segmenter

    if args.corpus.user_dict is not None:
        segmenter("jieba", args.corpus.user_dict)  # a wrong one is reported before anything is built
    resume = find_resume(args)
    check_output(args, resume)
    trainer = build(args)
    trained = train_and_save(args, trainer, resume, describe=lambda: describe(args, trainer, resume))
    trainer.say_result()
    if trained and trainer.args.should_save:
        logger.info("saved: %s", Path(trainer.args.output_dir) / "encoder")


def build(args: PretrainArguments) -> Pretrainer:
    """Build everything that trains."""
    from transformers import set_seed

    from zh_embedder.pretraining.batches import Surroundings, WindowRows, hold_out
    from zh_embedder.pretraining.masking import mask_rule
    from zh_embedder.pretraining.trainer import Pretrainer

    corpus = args.corpus
    set_seed(args.train.seed)
    encoder = make_encoder(args.base, seed=args.train.seed)
    length = window_length(encoder, corpus.max_seq_length)
    if corpus.tokens_per_device < length:
        raise reject("--tokens_per_device", corpus.tokens_per_device, f"at least {length}, --max_seq_length")
    model = make_model(args, encoder, length)
    around = Surroundings.of(encoder.tokenizer)
    files = read_corpus(args, encoder, length - len(around))
    words = model.words().num_embeddings
    rule = mask_rule(
        encoder.tokenizer, size=words, probability=corpus.mlm_probability, whole_words=corpus.whole_word_mask
    )
    hidden = corpus.decoder_mlm_probability if corpus.objective == "retromae" else None
    seed = args.train.order_seed
    rows = WindowRows(files, around, rule, seed=seed, decoder_probability=hidden)
    train, held_out = hold_out(rows, share=corpus.validation_share, most_tokens=corpus.validation_tokens, seed=seed)
    return Pretrainer(
        model,
        args.train,
        rows=train,
        held_out=held_out,
        tokens_per_rank=corpus.tokens_per_device,
        fingerprint={
            "corpus": {f"{number}:{file.path.name}": file.folder.name for number, file in enumerate(files)},
            "max_seq_length": length,
            "objective": [corpus.objective, hidden],
            "masks": [corpus.mlm_probability, corpus.whole_word_mask],
            "validation": [corpus.validation_share, corpus.validation_tokens],
        },
        settings=args.to_json(),
    )


def make_encoder(base: BaseArguments, *, seed: int) -> Encoder:
    """Load the base, or make an encoder with random weights."""
    from zh_embedder.bases.names import load_config, load_tokenizer
    from zh_embedder.models.encoder import load_encoder
    from zh_embedder.models.folders import encoder_folder
    from zh_embedder.models.spec import read_spec
    from zh_embedder.pretraining.random_encoder import (
        bert_config,
        character_tokenizer,
        random_encoder,
    )

    hub = base.hub()
    if not base.from_scratch:
        return load_encoder(str(base.query_encoder), pooling=base.pooling_method, packing=base.packing, **hub)
    name = None if base.query_encoder is None else encoder_folder(base.query_encoder, flag="--query_encoder")
    said = read_spec(Path(name)) if name is not None and Path(name).is_dir() else None
    pooling = base.pooling_method or (said.pooling if said else "mean")
    words, flag = base.tokenizer_name or name, "--tokenizer_name" if base.tokenizer_name else "--query_encoder"
    tokenizer = character_tokenizer() if words is None else load_tokenizer(words, flag=flag, **hub)
    if name is not None:
        config = load_config(name, flag="--query_encoder", **hub)
    else:
        config = bert_config(
            tokenizer,
            hidden=base.hidden_size,
            layers=base.num_layers,
            heads=base.num_heads,
            intermediate=base.intermediate_size,
            positions=base.max_positions,
            dropout=base.dropout,
        )
    return random_encoder(config, tokenizer, pooling=pooling, seed=seed, packing=base.packing)


def window_length(encoder: Encoder, asked: int | None) -> int:
    """Tokens of a window: as asked, within the positions of the base.

    Raises:
        UserError: more are asked for than there are.
    """
    from zh_embedder.models.spec import position_limit

    limit = position_limit(encoder.config)
    if asked is not None and limit is not None and asked > limit:
        raise reject("--max_seq_length", asked, f"at most {limit}, the positions of this base")
    return asked or min(LONGEST, limit or LONGEST)


def make_model(args: PretrainArguments, encoder: Encoder, length: int) -> MaskedLM:
    """Add the output layer, and the decoder where the objective has one; the log says where they come from."""
    from zh_embedder.models.folders import encoder_folder
    from zh_embedder.pretraining.heads import fill_head, make_head
    from zh_embedder.pretraining.model import MaskedLM, fill_decoder, make_decoder

    base = args.base
    head = make_head(encoder.config, encoder.backbone.get_input_embeddings())
    decoder = make_decoder(encoder, length) if args.corpus.objective == "retromae" else None
    origin = "fresh"
    if not base.from_scratch:
        name = encoder_folder(str(base.query_encoder), flag="--query_encoder")
        origin = fill_head(head, name, encoder.config, **base.hub())
        if decoder is not None:
            logger.info("decoder: %s", fill_decoder(decoder, name))
    logger.info("output layer, tied to the word embeddings: %s", origin)
    return MaskedLM(encoder, head, decoder)


def read_corpus(args: PretrainArguments, encoder: Encoder, limit: int) -> list[Windows]:
    """Read and cut the corpus; the log says what it came to."""
    from zh_embedder.data.record_tables import cache_folder
    from zh_embedder.pretraining.corpus import CorpusRule, find_corpus, load_corpus

    corpus = args.corpus
    rule = CorpusRule(
        limit=limit,
        field=corpus.field,
        title=corpus.use_title,
        paragraphs=corpus.text_documents == "paragraphs",
        share=corpus.corpus_share,
        dictionary=corpus.user_dict,
    )
    files = find_corpus(corpus.corpus or [], data_root=corpus.data_root)
    cache = cache_folder(corpus.dataset_cache_dir, "corpora")
    return load_corpus(files, encoder.tokenizer, rule, cache=cache)


def describe(args: PretrainArguments, trainer: Pretrainer, resume: Path | None) -> None:
    """Log what will be trained, before step 1."""
    import torch

    corpus, batches = args.corpus, trainer.batches()
    model: Any = trainer.model
    encoder, lengths = model.encoder, trainer.rows.lengths()
    total = sum(p.numel() for p in model.parameters())
    reason = encoder.why_padded
    words = "whole words" if corpus.whole_word_mask else "tokens"
    lines = [
        f"{counted(len(trainer.rows), 'window')} of {lengths.mean():.0f} tokens on average, {lengths.sum():,} in all; "
        f"{counted(len(trainer.held_out), 'window')} of other documents held out, "
        f"{counted(int(trainer.held_out.lengths().sum()), 'token')}",
        f"{counted(len(batches), 'step')} an epoch of about {lengths.sum() / len(batches):,.0f} tokens "
        f"({counted(args.train.world_size, 'rank')} x at most {corpus.tokens_per_device:,})",
        f"objective {corpus.objective}: {corpus.mlm_probability:.0%} of the tokens are predicted, {words} together"
        + (f"; {corpus.decoder_mlm_probability:.0%} of the text hidden from the decoder" * (model.decoder is not None)),
        f"{total:,} parameters, {encoder.config.num_hidden_layers} layers of {encoder.dimension}; pooling "
        f"{encoder.spec.pooling}, precision {args.train.dtype}, device {args.train.device.type}"
        + (f", {torch.get_num_threads()} threads a rank" if args.train.device.type == "cpu" else ""),
        "windows are packed: no padding is computed" if reason is None else f"windows are padded: {reason}",
    ]
    if resume is not None:
        lines.append(f"resuming from {resume}")
    logger.info("training:\n  %s", "\n  ".join(lines))
