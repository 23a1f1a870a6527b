"""Give inserted BatchNorms the statistics of the data, so that training starts from the same function.

``insert_batchnorm`` changes nothing in evaluation: mean 0, variance 1. But in training a BatchNorm
normalises by the batch's own statistics, and a network with trained weights would be another one from the
first step on. With the data's mean and variance as its statistics, and scale and shift that undo them,
a BatchNorm is the same function in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# A variance under this share of the mean square is rounding: the channel is constant.
FLAT = 1e-10


@dataclass
class _Moments:
    """Sums over all positions seen so far, for each channel [C], in float64."""

    count: int
    total: Tensor
    squares: Tensor


def settle_batchnorm(module: nn.Module, batches: Iterable[Tensor]) -> int:
    """Settle every BatchNorm of a module that has no statistics of its own yet.

    The module's outputs in evaluation stay as they are (to rounding). BatchNorms that have been trained
    already keep their statistics.

    Args:
        module: the network.
        batches: inputs to measure on, on the module's device.

    Returns:
        How many were settled.

    """
    fresh = {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm) and _is_fresh(m)}
    moments: dict[str, _Moments] = {}
    hooks = [m.register_forward_pre_hook(_measuring(moments, name)) for name, m in fresh.items()]
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for batch in batches if fresh else ():
                module(batch)
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    for name, seen in moments.items():
        _settle(fresh[name], seen)
    return len(moments)


def _is_fresh(norm: _BatchNorm) -> bool:
    """Whether a BatchNorm still has mean 0 and variance 1 (less epsilon) everywhere."""
    if norm.running_mean is None or norm.running_var is None or not norm.affine:
        return False
    plain = norm.running_var + norm.eps
    return bool((norm.running_mean == 0).all()) and bool(((plain - 1).abs() < 2 * norm.eps + 1e-6).all())


def _measuring(moments: dict[str, _Moments], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1).double()
        old = moments.get(name)
        count, total, squares = values.shape[1], values.sum(1), values.square().sum(1)
        if old is not None:
            count, total, squares = old.count + count, old.total + total, old.squares + squares
        moments[name] = _Moments(count, total, squares)

    return measure


@torch.no_grad()
def _settle(norm: _BatchNorm, seen: _Moments) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = seen.total / seen.count
    mean_square = seen.squares / seen.count
    variance = (mean_square - mean.square()).clamp_min(0)
    # A channel that never varies would get the scale of its rounding: leave its variance at 1.
    variance = torch.where(variance <= FLAT * mean_square, 1.0, variance)
    old = (norm.running_var.double() + norm.eps).sqrt()
    gain = norm.weight.double() / old
    norm.bias.copy_(norm.bias.double() + gain * (mean - norm.running_mean.double()))
    norm.weight.copy_(gain * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
