"""Operators that change the shape only, and those that compute shapes (ONNX operator specs)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from conet_graph.bridge.reading import reads_sizes
from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import Site, torch_dtype
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}


@handles(CONVERTERS, "Reshape")
def reshape(site: Site) -> fx.Node:
    """To a target that the file holds, or one that the run computes."""
    target = reshape_target(site)
    if target is None:
        return site.call(reshaped_as_computed, site.x(0), site.x(1), bool(site.attr("allowzero", 0)))
    return site.call(reshaped, site.x(0), tuple(target))


def reshape_target(site: Site) -> list[int | None] | None:
    """The target of a Reshape, None for an axis that keeps the input's length; None if it is computed."""
    target = site.numbers(1, "shape") if site.version < 5 or site.is_constant(1) else None
    if target is None:
        return None
    return [None if n == 0 and not site.attr("allowzero", 0) else int(n) for n in target]


def reshaped(x: torch.Tensor, target: tuple[int | None, ...]) -> torch.Tensor:
    """Reshape; None keeps the input's length of that axis.

    >>> reshaped(torch.zeros(4, 6), (None, 2, -1)).shape
    torch.Size([4, 2, 3])
    """
    return x.reshape([x.shape[k] if n is None else n for k, n in enumerate(target)])


@reads_sizes(1)
def reshaped_as_computed(x: torch.Tensor, target: torch.Tensor, allow_zero: bool) -> torch.Tensor:
    """Reshape to numbers computed at run time."""
    sizes = [
        x.shape[k] if n == 0 and not allow_zero else int(n) for k, n in enumerate(target.reshape(-1).tolist())
    ]
    return reshaped(x, tuple(sizes))


@handles(CONVERTERS, "Flatten")
def flatten(site: Site) -> fx.Node:
    """To a matrix, split before ``axis``."""
    axis = int(site.attr("axis", 1))
    if axis == 1:
        return site.call(torch.flatten, site.x(0), 1)
    return site.call(as_matrix, site.x(0), axis)


def as_matrix(x: torch.Tensor, axis: int) -> torch.Tensor:
    """All axes before ``axis`` as rows, the others as columns."""
    rows = math.prod(x.shape[: axis if axis >= 0 else x.dim() + axis])
    return x.reshape(rows, -1) if rows else x.reshape(0, 0)


@handles(CONVERTERS, "Squeeze")
def squeeze(site: Site) -> fx.Node:
    """Drop axes of length one."""
    axes = site.numbers(1, "axes")
    if axes is None:
        return site.call(torch.squeeze, site.x(0))
    return site.call(torch.squeeze, site.x(0), tuple(int(a) for a in axes))


@handles(CONVERTERS, "Unsqueeze")
def unsqueeze(site: Site) -> fx.Node:
    """Add axes of length one."""
    axes = [int(a) for a in site.numbers(1, "axes") or []]
    rank = site.rank(0) + len(axes)
    made = site.x(0)
    for axis in sorted(a % rank for a in axes):
        made = site.call(torch.unsqueeze, made, axis)
    return site.call(torch.clone, made) if not axes else made


@handles(CONVERTERS, "Transpose")
def transpose(site: Site) -> fx.Node:
    """Axes in another order; all of them turned round where none is given."""
    order = site.attr("perm")
    if order is None:
        order = list(reversed(range(site.rank(0))))
    return site.call(torch.permute, site.x(0), tuple(int(a) for a in order))


@handles(CONVERTERS, "Identity")
def identity(site: Site) -> fx.Node:
    """Nothing: the value itself."""
    made: fx.Node = site.x(0)
    return made


@handles(CONVERTERS, "Shape")
def shape(site: Site) -> fx.Node:
    """The shape as whole numbers, which stay on the processor."""
    start, end = site.attr("start", 0), site.attr("end")
    return site.call(shape_of, site.x(0), int(start), None if end is None else int(end))


def shape_of(x: torch.Tensor, start: int, end: int | None) -> torch.Tensor:
    """A part of the shape, int64."""
    return torch.tensor(list(x.shape[start:end]), dtype=torch.int64)


@handles(CONVERTERS, "Size")
def size(site: Site) -> fx.Node:
    """The number of elements."""
    return site.call(size_of, site.x(0))


def size_of(x: torch.Tensor) -> torch.Tensor:
    """The number of elements, int64."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@handles(CONVERTERS, "ConstantOfShape")
def constant_of_shape(site: Site) -> fx.Node:
    """A tensor of one value."""
    tensor = site.attr("value")
    value: Any = 0.0
    dtype = torch.float32
    if tensor is not None:
        from onnx import numpy_helper

        value, dtype = numpy_helper.to_array(tensor).reshape(-1)[0].item(), torch_dtype(tensor.data_type)
    sizes = site.array(0)
    if sizes is not None:
        return site.call(torch.full, tuple(int(n) for n in sizes), value, dtype=dtype)
    return site.call(filled, site.x(0), value, dtype)


@reads_sizes(0)
def filled(shape: torch.Tensor, value: float, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of one value whose shape is computed at run time, on the device of that."""
    return torch.full(shape.tolist(), value, dtype=dtype, device=shape.device)


@handles(CONVERTERS, "Expand")
def expand(site: Site) -> fx.Node:
    """Broadcast to a shape."""
    sizes = site.array(1)
    if sizes is not None:
        return site.call(expanded, site.x(0), tuple(int(n) for n in sizes.reshape(-1)))
    return site.call(expanded, site.x(0), site.x(1))


@reads_sizes(1)
def expanded(x: torch.Tensor, sizes: torch.Tensor | tuple[int, ...]) -> torch.Tensor:
    """Broadcast against a shape, in both directions."""
    wanted = list(sizes.tolist() if isinstance(sizes, torch.Tensor) else sizes)
    more = [1] * (x.dim() - len(wanted)) + wanted
    own = [1] * (len(more) - x.dim()) + list(x.shape)
    return x.expand([a if b == 1 else b for a, b in zip(own, more, strict=True)])


@handles(CONVERTERS, "Range")
def range_(site: Site) -> fx.Node:
    """From a start to a limit, which is left out."""
    return site.call(counted, site.x(0), site.x(1), site.x(2))


@reads_sizes(0)
def counted(start: torch.Tensor, limit: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Numbers of the type and on the device of ``start``."""
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype, device=start.device)


@handles(CONVERTERS, "EyeLike")
def eye_like(site: Site) -> fx.Node:
    """Ones on a diagonal."""
    kind = site.attr("dtype")
    return site.call(
        diagonal_ones, site.x(0), int(site.attr("k", 0)), None if kind is None else torch_dtype(int(kind))
    )


def diagonal_ones(x: torch.Tensor, k: int, dtype: torch.dtype | None) -> torch.Tensor:
    """A matrix of the shape of ``x`` with ones on its k-th diagonal."""
    ones = torch.ones(x.shape, dtype=dtype or x.dtype, device=x.device)
    return torch.triu(torch.tril(ones, k), k)
