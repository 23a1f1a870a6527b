"""Tensors of checkpoints: PyTorch's where PyTorch read the file, else numpy's.

Nothing here imports PyTorch: where it is not loaded, no value can be a tensor of its.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# By axis: which positions are taken, in order; what they are multiplied by.
Indices = Mapping[int, NDArray[np.int64]]
Factors = Mapping[int, NDArray[np.float64]]


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


def changed(
    tensor: Any,
    axes: Mapping[int, NDArray[np.int64]],
    scale: Mapping[int, NDArray[np.float64]],
    reverse: bool,
) -> Any:
    """Gather along axes, then multiply by factors; ``reverse``: the axes are counted from the last."""
    if not isinstance(tensor, np.ndarray):
        return _changed_in_torch(tensor, axes, scale, reverse)
    made = tensor.T if reverse else tensor
    for axis, index in axes.items():
        made = np.take(made, index, axis)
    for axis, factors in scale.items():
        shape = [-1 if k == axis else 1 for k in range(made.ndim)]
        made = (made * factors.reshape(shape)).astype(made.dtype)
    return np.array(made.T if reverse else made, order="C")


def _changed_in_torch(
    tensor: Any,
    axes: Mapping[int, NDArray[np.int64]],
    scale: Mapping[int, NDArray[np.float64]],
    reverse: bool,
) -> Any:
    import torch

    made = tensor.detach()
    backwards = tuple(reversed(range(made.ndim)))
    made = made.permute(backwards) if reverse else made
    for axis, index in axes.items():
        made = made.index_select(axis, torch.from_numpy(index).to(made.device))
    for axis, factors in scale.items():
        shape = [-1 if k == axis else 1 for k in range(made.ndim)]
        made = (made * torch.from_numpy(factors).to(made.device).reshape(shape)).to(made.dtype)
    made = (made.permute(backwards) if reverse else made).contiguous()
    return torch.nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else made
