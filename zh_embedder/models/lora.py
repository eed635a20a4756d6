"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): the base is frozen, small added matrices learn.

What is saved is the base with the adapters merged in, under the base's own names; the adapters are saved next to it for
resuming.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from zh_embedder.core.errors import UserError

LORA_FILE = "lora.safetensors"
ADAPTER = "default"  # peft's name of the only one


def add_lora(
    backbone: Any, *, rank: int, alpha: float, dropout: float = 0.0, targets: Sequence[str] | None = None
) -> None:
    """Add adapters to linear layers and freeze everything else.

    Args:
        backbone: the Hugging Face model, changed in place.
        rank: of the two matrices.
        alpha: their product is multiplied with alpha / rank.
        dropout: of what goes into them.
        targets: ends of the names of the layers; by default every linear layer but the pooler's.

    Raises:
        UserError: peft is not installed, or no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("--lora_rank: needs peft, which `pip install 'zh-embedder[lora]'` brings") from None
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets) if targets else "all-linear",
        exclude_modules=["pooler.dense"],  # it feeds no pooling of ours
    )
    try:
        inject_adapter_in_model(config, backbone)
    except ValueError as error:  # peft's, where nothing matches
        raise UserError(f"--target_modules: {error}") from None


def has_lora(backbone: Any) -> bool:
    """Whether the layers of a model have adapters."""
    return bool(scalings(backbone))


def scalings(backbone: Any) -> dict[str, float]:
    """Names of the layers that have an adapter, with what its product is multiplied with."""
    return {
        name: float(module.scaling[ADAPTER])
        for name, module in backbone.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    }


def merge_lora(backbone: Any, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of the base with the adapters of `state` merged in, and those of the adapters."""
    own = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    merged = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if name not in own}
    for name, scaling in scalings(backbone).items():
        down, up = (own[f"{name}.lora_{side}.{ADAPTER}.weight"] for side in "AB")
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + scaling * (up @ down)
    return merged, own
