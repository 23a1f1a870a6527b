"""Give inserted BatchNorms the statistics of the data, so that training starts from the same function.

``insert_batchnorm`` changes nothing in evaluation: mean 0, variance 1. But in training a BatchNorm
normalises by the batch's own statistics, and a network with trained weights would be another one from the
first step on. With the data's mean and variance as its statistics, and scale and shift that undo them,
a BatchNorm is the same function in both.

That is worth it where the function is good. A network that was narrowed has lost so much of it that the
other one, in which every channel is brought to the same size again, is mostly the better start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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


def begin_nearest(module: nn.Module, batches: Iterable[Tensor], loss: Callable[[], float]) -> bool:
    """Let BatchNorms without statistics begin with those of the data, by the better of two ways.

    Either the network's function stays (see `settle_batchnorm`), or scale and shift stay, and the function
    is the one that training would begin with. Where there is no such BatchNorm nothing happens.

    Args:
        module: the network, on its device; left in evaluation mode.
        batches: inputs to measure on.
        loss: of the module on such inputs, less is better; called without gradients.

    Returns:
        Whether the function stayed.

    """
    fresh = list(_fresh(module).values())
    module.eval()
    if not fresh:
        return True
    with torch.no_grad():
        standing = loss()
        with _by_the_batch(fresh):
            normalised = loss()
        if standing < normalised:
            settle_batchnorm(module, batches)
            return True
        _average(module, fresh, batches)
        return False


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
    fresh = _fresh(module)
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


@contextmanager
def _by_the_batch(norms: Sequence[_BatchNorm], *, keep: bool = False) -> Iterator[None]:
    """Within it, BatchNorms take the statistics of the batch, and keep none or average those of all."""
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats, norm.momentum = True, keep, None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats, norm.momentum = False, True, momentum


def _average(module: nn.Module, norms: Sequence[_BatchNorm], batches: Iterable[Tensor]) -> None:
    """Give BatchNorms the mean statistics over batches, where all of them take the batch's own."""
    for norm in norms:
        norm.reset_running_stats()
    with _by_the_batch(norms, keep=True):
        for batch in batches:
            module(batch)


def _fresh(module: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorms that have no statistics of their own yet."""
    return {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm) and _is_fresh(m)}


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
