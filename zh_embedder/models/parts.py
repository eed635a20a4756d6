"""Parts of a base: configuration, model, tokenizer and linear layer, loaded and proven.

A model that lacks weights would be trained from random ones, one with a NaN would fail hours later: both are refused
when it is loaded, with the file and the weight.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging as hf_logging

from zh_embedder.bases.fields import Fields
from zh_embedder.bases.load_errors import (
    CONFIG,
    attempt,
    config_error,
    in_words,
    pieces_path,
    tokenizer_error,
    weights_path,
)
from zh_embedder.bases.modelscope import local_name
from zh_embedder.bases.names import hub_folder, load_config, load_tokenizer, unreachable
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, explain, reading
from zh_embedder.models.load_options import LoadOptions
from zh_embedder.models.packing import probing
from zh_embedder.models.spec import position_limit
from zh_embedder.text.tokens import tokenize

logger = logging.getLogger(__name__)

SAMPLE = "今天天气怎么样？\U0010fffd"  # the last character is in no vocabulary
SAMPLE_LENGTH = 16
FORWARD = 3  # tokens that go through the model: with more, the proof would cost a tenth of loading a large base
REPORTERS = ("transformers.modeling_utils", "transformers.distributed.tensor_parallel")


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' bars for reading and writing weights off the terminal; downloads still show theirs."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


@contextmanager
def without_report() -> Iterator[None]:
    """Keep transformers' tables of missing, unused and unsharded weights off the terminal: we say what matters."""
    theirs = [logging.getLogger(name) for name in REPORTERS]
    before = [one.level for one in theirs]
    for one in theirs:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(theirs, before, strict=True):
            one.setLevel(level)


def load_parts(name: str, options: LoadOptions, *, flag: str) -> tuple[Any, Any, Any, Path | None]:
    """Load configuration, model and tokenizer, and find the folder that they come from.

    Raises:
        UserError: one of them cannot be loaded, or they do not fit together.
    """
    name = local_name(name, flag=flag)
    hub, here = options.hub(), Path(name)
    config = load_config(options.config_name or name, flag="--config_name" if options.config_name else flag, **hub)
    backbone = load_backbone(name, config, flag=flag, **hub)
    folder = here if here.is_dir() else hub_folder(name, flag=flag, cache_dir=options.cache_dir, token=options.token)
    words_flag = "--tokenizer_name" if options.tokenizer_name else flag
    words = local_name(options.tokenizer_name or name, flag=words_flag)
    tokenizer = load_tokenizer(words, flag=words_flag, settings=folder, **hub)
    if options.truncation_side:
        tokenizer.truncation_side = options.truncation_side
    check_ids(backbone, tokenizer, where=f"{words_flag}: {pieces_path(words)}")
    check_forward(backbone, tokenizer, folder=folder or here, flag=flag)
    return config, backbone, tokenizer, folder


def load_backbone(name: str, config: Any, *, flag: str, **hub: Any) -> Any:
    """Load a model with all of its weights.

    Raises:
        UserError: it cannot be loaded, or lacks weights.
    """
    with without_bars(), without_report():
        found = attempt(
            lambda: AutoModel.from_pretrained(name, config=config, dtype=torch.float32, output_loading_info=True, **hub)
        )
    folder = Path(name)
    if isinstance(found, Exception):
        raise backbone_error(flag, folder, config, found) if folder.is_dir() else unreachable(flag, name, found, **hub)
    backbone, info = found
    path = weights_path(folder) if folder.is_dir() else name
    check_weights(backbone, info["missing_keys"], info["unexpected_keys"], where=f"{flag}: {path}")
    return backbone


def backbone_error(flag: str, folder: Path, config: Any, error: Exception) -> UserError:
    """Say whether the weights of a folder or its configuration are wrong, and how."""
    path = weights_path(folder)
    if path == folder:
        return UserError(f"{flag}: {folder}: has no weights, expected model.safetensors in it")
    if not isinstance(error, OSError) and (said := explain(error, reading=True)):
        return UserError(f"{flag}: {path}: {said}")
    with torch.device("meta"):
        empty = attempt(lambda: AutoModel.from_config(config))
    if isinstance(empty, Exception):
        return config_error(flag, folder, empty)
    if "ignore_mismatched_sizes" in str(error):
        return UserError(f"{flag}: {path}: {mismatch(path, empty)}")
    return UserError(f"{flag}: {path}: cannot be read as weights: {in_words(error)}")


def mismatch(path: Path, empty: Any) -> str:
    """Name the first weight whose shape is another than the configuration's."""
    expected = {name: tuple(weight.shape) for name, weight in empty.state_dict().items()}
    prefix = f"{empty.base_model_prefix}."
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  a file, not a mapping
                found, wanted = tuple(file.get_slice(name).get_shape()), expected.get(name.removeprefix(prefix))
                if wanted is not None and found != wanted:
                    return f"{name}: got the shape {found}, expected {wanted}, as config.json describes it"
    return "the shapes of its weights are others than config.json describes"


def check_weights(backbone: Any, missing: Collection[str], unused: Collection[str], *, where: str) -> None:
    """Refuse a model that lacks weights or has some that are no numbers; a pooler feeds no pooling of ours.

    Args:
        backbone: the model.
        missing: names of weights that were not in the file.
        unused: names of weights in the file that the model has no place for.
        where: the file, for messages.

    Raises:
        UserError: with the first such weight, and how many there are.
    """
    needed = [name for name in backbone.state_dict() if "pooler" not in name.split(".")]
    if lacking := [name for name in needed if name in missing]:
        raise UserError(
            f"{where}: {len(lacking)} of the {len(needed)} weights that config.json describes are missing, "
            f"{lacking[0]} first, and would be random; expected all of them"
        )
    for name, weight in backbone.named_parameters():
        # A sum is not finite where a weight is not, and reads each weight once.
        if "pooler" not in name.split(".") and not math.isfinite(float(weight.detach().sum())):
            raise UserError(f"{where}: {name}: holds NaN or infinity, expected finite numbers")
    if deeper := sorted(name for name in unused if is_deeper(backbone, name)):
        logger.warning(
            "%s: %d weights are left out, %s first: config.json describes fewer layers", where, len(deeper), deeper[0]
        )


def is_deeper(backbone: Any, name: str) -> bool:
    """Whether a weight belongs to a layer behind the model's last one."""
    own = name.removeprefix(f"{backbone.base_model_prefix}.")
    found = re.match(r"(.+?)\.(\d+)\.", own)
    layers = dict(backbone.named_modules()).get(found[1]) if found else None
    return isinstance(layers, nn.ModuleList) and found is not None and int(found[2]) >= len(layers)


def check_ids(backbone: Any, tokenizer: Any, *, where: str) -> None:
    """Refuse a tokenizer with ids that the word embeddings have no rows for.

    Raises:
        UserError: with the first such piece, and how many there are.
    """
    rows = backbone.get_input_embeddings().weight.shape[0]
    beyond = sorted((index, piece) for piece, index in tokenizer.get_vocab().items() if not 0 <= index < rows)
    if beyond:
        index, piece = beyond[0]
        raise UserError(
            f"{where}: its tokenizer has {counted(len(beyond), 'piece')} with ids beyond the {rows} word embeddings, "
            f"{piece!r} ({index}) first; expected ids below {rows}"
        )


def check_forward(backbone: Any, tokenizer: Any, *, folder: Path, flag: str) -> None:
    """Let a model make states of a text, one that its vocabulary does not know in full.

    Raises:
        UserError: the tokenizer or the model fails, or the states are not finite.
    """
    limit = min(SAMPLE_LENGTH, position_limit(backbone.config) or SAMPLE_LENGTH)
    ids = attempt(lambda: tokenize(tokenizer, [SAMPLE], limit))
    if isinstance(ids, Exception):
        raise tokenizer_error(flag, folder, ids)
    rows = torch.tensor([ids[0][:FORWARD]], device=backbone.device)
    with probing(backbone):
        states = attempt(lambda: backbone(input_ids=rows, attention_mask=torch.ones_like(rows)).last_hidden_state)
    if isinstance(states, Exception):
        raise UserError(f"{flag}: {folder / CONFIG}: the model that it describes fails: {in_words(states)}")
    if not bool(states.isfinite().all()):
        raise UserError(f"{flag}: {folder / CONFIG}: the model that it describes makes vectors that are not finite")


def dense_weight(path: Path) -> Tensor:
    """Read the linear layer of a sentence-transformers folder.

    Raises:
        UserError: it has a bias, an activation or another width than ours.
    """
    with reading(path):
        weights = load_file(path) if path.is_file() else {}
    activation = Fields.read(path.parent / "config.json").text("activation_function") if weights else None
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    square = len(set(shapes.get("linear.weight", (0, 1)))) == 1
    if set(shapes) != {"linear.weight"} or not square or "Identity" not in (activation or ""):
        raise UserError(
            f"{path}: got a linear layer of {shapes} and {activation}, expected linear.weight "
            "alone, square, without activation; --pooling_method without `dense` leaves it out"
        )
    return weights["linear.weight"]
