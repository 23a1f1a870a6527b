"""Training towards channels that are exactly zero, which ``rewrite --lossless`` then drops.

After each step of the optimiser a proximal step: what it makes zero is zero, not nearly so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from conet_graph.bridge.building import paths_of, tensors_of
from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS

WAYS = ("bn", "group")

# Takes the learning rate of the step that was made.
Shrink = Callable[[float], None]


def sparsifier(module: nn.Module, model: LoadedModel, how: str, strength: float) -> Shrink:
    """A function to call after each step, which draws channels towards zero.

    Args:
        module: made by ``to_torch`` from the model, and under training.
        model: says which channels live and die together.
        how: 'bn': the L1 norm of the BatchNorms' scales (Network Slimming, Liu et al. 2017); 'group': the L2
            norm of all weights of each free class of channels, what produces it and what reads it (group
            lasso, Yuan and Lin 2006), times the root of their number.
        strength: what the norms are multiplied by in the loss, above 0.

    Raises:
        BadUsage: there is no such way, or the strength is not above 0.
        Refused: the network has no free channels, or no BatchNorm at any.

    """
    if how not in WAYS:
        raise BadUsage(f"--sparsify is {shown(how)}: choose bn or group.")
    if not 0 < strength < float("inf"):
        raise BadUsage(f"The sparsity is {strength}: it must be above 0.")
    axes, free = _axes(module, model, how)
    if not axes:
        what = "no BatchNorm whose channels may change" if how == "bn" else "no channels that may change"
        raise Refused(f"The network has {what}: there is nothing to make sparse.")
    return _Scales(axes, free, strength) if how == "bn" else _Groups(axes, free, strength)


# A parameter, one of its axes, and the class of each position there.
_Axis = tuple[Tensor, int, Tensor]


def _axes(module: nn.Module, model: LoadedModel, how: str) -> tuple[list[_Axis], Tensor]:
    """The parameters' axes that carry free channels, and which classes are free."""
    graph = analysed(model)
    channels = graph.result(CHANNELS)
    free = torch.zeros(len(channels.units.frozen_class), dtype=torch.bool)
    for group in channels.groups:
        free[torch.from_numpy(group.classes)] = group.free
    scales = {op.input(1) for op in graph.operators if op.op_type == "BatchNormalization"}
    tensors, places = tensors_of(module), paths_of(module)
    found: list[_Axis] = []
    for (name, axis), units in channels.units.stored.items():
        # The parameter itself: its memory may still be laid out anew.
        tensor = tensors.get(places.get(name, ""))
        if isinstance(units, int) or not isinstance(tensor, nn.Parameter) or not tensor.requires_grad:
            continue
        classes = torch.from_numpy(channels.units.classes[units])
        if free[classes].any() and (how == "group" or name in scales):
            found.append((tensor, axis, classes.to(tensor.device)))
    return found, free


class _Scales:
    """Soft thresholds for BatchNorm's scales."""

    def __init__(self, axes: list[_Axis], free: Tensor, strength: float) -> None:
        self.scales = [(tensor, free.to(classes.device)[classes]) for tensor, _, classes in axes]
        self.strength = strength

    @torch.no_grad()
    def __call__(self, rate: float) -> None:
        for scale, free in self.scales:
            less = nn.functional.softshrink(scale, rate * self.strength)
            scale.copy_(torch.where(free, less, scale))


class _Groups:
    """Whole classes of channels shrunk by their norms."""

    def __init__(self, axes: list[_Axis], free: Tensor, strength: float) -> None:
        self.axes, self.strength = axes, strength
        device = axes[0][0].device
        self.free = free.to(device)
        self.root = self._sums(lambda tensor: torch.ones_like(tensor)).sqrt()

    def _sums(self, what: Callable[[Tensor], Tensor]) -> Tensor:
        """For each class, the sum of something over all its weights."""
        total = torch.zeros(len(self.free), device=self.free.device)
        for tensor, axis, classes in self.axes:
            others = [k for k in range(tensor.dim()) if k != axis]
            numbers = what(tensor).float()
            total.index_add_(0, classes, numbers.sum(others) if others else numbers)
        return total

    @torch.no_grad()
    def __call__(self, rate: float) -> None:
        norms = self._sums(torch.square).sqrt()
        less = (1 - rate * self.strength * self.root / norms.clamp_min(1e-12)).clamp_min(0)
        kept = torch.where(self.free, less, torch.ones_like(less))
        for tensor, axis, classes in self.axes:
            shape = [-1 if k == axis else 1 for k in range(tensor.dim())]
            tensor.mul_(kept[classes].reshape(shape).to(tensor.dtype))
