"""PyTorch: the original with the dropped channels masked, which a pruned network must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from weight_match import kept_channels

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (*CONVS, *TRANSPOSED, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def first_tensor(output: Any) -> torch.Tensor:
    """A network's main output (segmentation networks of torchvision return a dict)."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output


def conv_widths(module: nn.Module) -> dict[str, int]:
    """Output channels of every convolution."""
    return {n: m.out_channels for n, m in module.named_modules() if isinstance(m, (*CONVS, *TRANSPOSED))}


def _kept(old: nn.Module, new: nn.Module) -> tuple[np.ndarray, np.ndarray] | None:
    """Outputs and inputs of a layer that stayed."""
    before = old.weight.detach().numpy()
    after = new.weight.detach().numpy()
    if isinstance(old, TRANSPOSED):
        found = kept_channels(before.swapaxes(0, 1), after.swapaxes(0, 1)) if old.groups == 1 else None
    else:
        found = kept_channels(before, after, getattr(old, "groups", 1))
    return found


def _mask(kept: np.ndarray, count: int, axis: int, rank: int) -> torch.Tensor:
    shape = [1] * rank
    shape[axis] = count
    mask = torch.zeros(count, dtype=torch.float64)
    mask[torch.from_numpy(kept)] = 1
    return mask.reshape(shape)


def mask_dropped(original: nn.Module, pruned: nn.Module) -> str:
    """Put masks (hooks) into ``original`` wherever a layer of ``pruned`` lost channels; '' or why not."""
    others = dict(pruned.named_modules())
    for name, layer in list(original.named_modules()):
        other = others.get(name)
        if isinstance(layer, NORMS) and layer.affine and other is not None:
            _mask_norm(layer, other)
        if not isinstance(layer, WEIGHTED):
            continue
        if other is None or not hasattr(other, "weight"):
            return f"layer {name} is gone"
        if layer.weight.shape == other.weight.shape:
            continue
        kept = _kept(layer, other)
        if kept is None:
            return f"the weight of {name} does not say which channels stayed"
        _hook(layer, kept)
    return ""


def _mask_norm(layer: nn.Module, other: nn.Module) -> None:
    """Silence the channels that a BatchNorm lost, where its values tell them apart."""
    before = layer.weight.detach().numpy()[:, None]
    after = other.weight.detach().numpy()[:, None]
    kept = None if before.shape == after.shape else kept_channels(before, after)
    if kept is not None:
        mask = _mask(kept[0], len(before), 0, 1).to(layer.weight.dtype)
        layer.weight.data *= mask
        layer.bias.data *= mask


def _hook(layer: nn.Module, kept: tuple[np.ndarray, np.ndarray]) -> None:
    outputs, inputs = kept
    if isinstance(layer, nn.Linear):
        count_out, count_in = layer.out_features, layer.in_features
    else:
        count_out, count_in = layer.out_channels, layer.in_channels

    def before(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        axis = -1 if isinstance(layer, nn.Linear) else 1
        return (args[0] * _mask(inputs, count_in, axis, args[0].dim()), *args[1:])

    def after(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        axis = -1 if isinstance(layer, nn.Linear) else 1
        return output * _mask(outputs, count_out, axis, output.dim())

    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)


def difference(original: nn.Module, pruned: nn.Module, image: torch.Tensor) -> tuple[float | None, str]:
    """Largest difference as a share of the largest magnitude, in float64; or None and why not.

    Both modules are changed: they become float64, and the original gets masks.
    """
    why = mask_dropped(original, pruned)
    if why:
        return None, why
    with torch.no_grad():
        wanted = first_tensor(original.double()(image.double()))
        got = first_tensor(pruned.double()(image.double()))
    if got.shape != wanted.shape:
        return None, f"the output is {tuple(got.shape)} and was {tuple(wanted.shape)}"
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)), ""
