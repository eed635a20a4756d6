"""Tiny Hugging Face models of many families with random weights, and what each makes of a text alone."""

import torch

POOLED = {  # by definition: (L, H) of one text -> (H,)
    "cls": lambda s: s[0],
    "mean": lambda s: s.mean(dim=0),
    "last_token": lambda s: s[-1],
}
LENGTHS = (23, 5, 40, 5, 1, 17, 40, 9)  # of texts: together more than any of these models has positions for
SMALL = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "embedding_dropout")
BERT = {**SMALL, "max_position_embeddings": 44}
ROBERTA = {**SMALL, "max_position_embeddings": 46, "pad_token_id": 1}
GROUPED = {**SMALL, "max_position_embeddings": 44, "num_key_value_heads": 2, "pad_token_id": 0}
NO_NAMED_TOKENS = {f"{name}_token_id": None for name in ("bos", "eos")}
WINDOW = 6  # of local layers: shorter than most texts
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA = {**GROUPED, "head_dim": 12, "layer_types": ALTERNATING}

FAMILIES = {
    "Bert": BERT,
    "Roberta": ROBERTA,
    "XLMRoberta": ROBERTA,
    "Electra": {**BERT, "embedding_size": 16},
    "Ernie": BERT,
    "ModernBert": {
        **SMALL, **NO_NAMED_TOKENS, "max_position_embeddings": 44, "pad_token_id": 0, "cls_token_id": 1,
        "sep_token_id": 2, "local_attention": 2 * WINDOW, "global_attn_every_n_layers": 3,
    },
    "Qwen3": {**GROUPED, "head_dim": 12},
    "Llama": GROUPED,
    "Mistral": {**GROUPED, "sliding_window": WINDOW},
    "Gemma3Text": {**GEMMA, "sliding_window": WINDOW},
    "Gemma3Text both ways": {**GEMMA, "sliding_window": 2 * WINDOW, "use_bidirectional_attention": True},
}  # fmt: skip
BERT_LIKE = ("Bert", "Roberta", "XLMRoberta", "Electra", "Ernie")
OTHERS = {
    "MPNet": ROBERTA,
    "DebertaV2": {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
    "GptOss": {
        **GROUPED, **NO_NAMED_TOKENS, "head_dim": 12, "sliding_window": WINDOW, "layer_types": ALTERNATING,
        "num_local_experts": 2, "num_experts_per_tok": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    "XLMRobertaXL": ROBERTA,
}  # fmt: skip


def build(family, *, attention=None, dropout=0.0, spread=0.3, seed=0, **changes):
    """A model in evaluation mode; no weight is 0 or 1, so that every one of them matters.

    Args:
        family: of FAMILIES or OTHERS.
        attention: `eager` or `sdpa`; by default the model's own choice.
        dropout: of all kinds that the family has.
        spread: standard deviation of the weights; 0.3 makes attention sharp, 0.02 is what real models start from.
        seed: of the weights.
        **changes: of the configuration.
    """
    import transformers

    name = family.split(maxsplit=1)[0]
    options = {**{**FAMILIES, **OTHERS}[family], "initializer_range": spread, **changes}
    config = getattr(transformers, f"{name}Config")(**options)
    for kind in DROPOUTS:
        if hasattr(config, kind):
            setattr(config, kind, dropout)
    if attention is not None:
        config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{name}Model")(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:  # biases, norms
                    weight.add_(torch.randn_like(weight) * 0.1)
    return model


def texts_of(model, lengths=LENGTHS, *, seed=0):
    """Random token ids of texts of these lengths, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, model.config.vocab_size, (n,), generator=generator) for n in lengths]


def states_alone(model, texts):
    """States of each text, (L, H), with nothing beside it."""
    return [model(input_ids=text.unsqueeze(0)).last_hidden_state[0] for text in texts]


def states_padded(model, texts, *, side="right"):
    """States of each text, (L, H), from one batch of rows with a mask."""
    longest = max(map(len, texts))
    pad = model.config.pad_token_id or 0
    ids, mask = torch.full((len(texts), longest), pad), torch.zeros(len(texts), longest, dtype=torch.long)
    places = [slice(0, len(t)) if side == "right" else slice(longest - len(t), longest) for t in texts]
    for row, (text, place) in enumerate(zip(texts, places, strict=True)):
        ids[row, place], mask[row, place] = text, 1
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return [own[place] for own, place in zip(states, places, strict=True)]
