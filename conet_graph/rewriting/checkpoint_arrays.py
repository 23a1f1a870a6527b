"""Tensors of checkpoints: PyTorch's where PyTorch read the file, else numpy's.

Nothing here imports PyTorch: where it is not loaded, no value can be a tensor of its.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.passes.widths.rewidth import TensorPlan, apply_plan


def is_tensor(value: Any) -> bool:
    """Whether a value is a dense tensor."""
    if isinstance(value, np.ndarray):
        return True
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor) and value.layout == torch.strided


def place(tensor: Any) -> tuple[Any, ...]:
    """Where a tensor lies; empty ones lie nowhere and are only themselves."""
    if isinstance(tensor, np.ndarray):
        at = tensor.__array_interface__["data"][0] if tensor.size else id(tensor)
        return at, tensor.shape, tensor.strides, tensor.dtype.str
    return tensor.data_ptr() or id(tensor), tuple(tensor.shape), tensor.stride(), tensor.dtype


def is_floating(tensor: Any) -> bool:
    """Whether a tensor holds floating point numbers, the small kinds that numpy does not know included."""
    if isinstance(tensor, np.ndarray):
        return tensor.dtype.kind in "fV"
    return bool(tensor.is_floating_point())


def size(tensor: Any) -> int:
    """Number of elements."""
    return tensor.size if isinstance(tensor, np.ndarray) else int(tensor.numel())


def numbers(tensor: Any) -> NDArray[np.float64]:
    """A tensor's numbers."""
    if not isinstance(tensor, np.ndarray):
        tensor = tensor.detach().cpu().double().numpy()
    return np.asarray(tensor, np.float64)


def changed(tensor: Any, plan: TensorPlan, reverse: bool) -> Any:
    """What a plan makes of a tensor; ``reverse``: its axes are counted from the last."""
    if not isinstance(tensor, np.ndarray):
        return _changed_in_torch(tensor, plan, reverse)
    made = apply_plan(tensor.T if reverse else tensor, plan)
    return np.array(made.T if reverse else made, order="C")


def _changed_in_torch(tensor: Any, plan: TensorPlan, reverse: bool) -> Any:
    """``conet_graph.passes.widths.rewidth.apply_plan``, where the tensor is."""
    import torch

    made = tensor.detach()
    backwards = tuple(reversed(range(made.ndim)))
    made = made.permute(backwards) if reverse else made
    made = _merged(made, plan) if plan.merge else made
    for axis, index in plan.axes.items():
        made = made.index_select(axis, torch.from_numpy(index).to(made.device))
    for axis, factors in plan.scale.items():
        shape = [-1 if k == axis else 1 for k in range(made.ndim)]
        made = (made * torch.from_numpy(factors).to(made.device).reshape(shape)).to(made.dtype)
    if plan.offset is not None:
        made = (made.double() + torch.from_numpy(plan.offset).to(made.device)).to(made.dtype)
    made = (made.permute(backwards) if reverse else made).contiguous()
    return torch.nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else made


def _merged(tensor: Any, plan: TensorPlan) -> Any:
    """Add slices to others, all as they were before."""
    made = tensor.double()
    whole = made.clone()
    for axis, merges in plan.merge.items():
        for into, origin, factor in merges:
            made.select(axis, into).add_(whole.select(axis, origin), alpha=factor)
    return made.to(tensor.dtype)
