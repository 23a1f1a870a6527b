"""Convolutions: Conv, ConvTranspose, DeformConv (ONNX operator specs, versions 1 to 22)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from conet_graph.bridge.padding import auto_pad, explicit_pads, is_even, padded, torch_order
from conet_graph.bridge.reading import reads_numbers
from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import NotConverted, Site
from conet_graph.ir.op_table import handles

CONVERTERS: Table = {}

_MODULES: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
_FUNCTIONS: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_TRANSPOSED_FUNCTIONS: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def _geometry(site: Site) -> tuple[list[int], list[int], list[int]]:
    """Kernel, strides and dilations.

    Raises:
        NotConverted: PyTorch has no convolution of that many axes.

    """
    shape = site.shape(1)
    spatial = (len(shape) if shape is not None else site.rank(0)) - 2
    if spatial not in _MODULES:
        raise NotConverted(f"has {spatial} spatial axes")
    kernel = site.attr("kernel_shape")
    if kernel is None:
        if shape is None or not all(isinstance(d, int) for d in shape[2:]):
            raise NotConverted("has a kernel of unknown size")
        kernel = shape[2:]
    strides, dilations = site.attr("strides", [1] * spatial), site.attr("dilations", [1] * spatial)
    return [int(k) for k in kernel], [int(s) for s in strides], [int(d) for d in dilations]


@handles(CONVERTERS, "Conv")
def conv(site: Site) -> fx.Node:
    """A convolution and nothing more."""
    return convolution(site)


def convolution(site: Site) -> fx.Node:
    """A module where the weights are constants, else a function of computed weights."""
    kernel, strides, dilations = _geometry(site)
    x, pads = padded(site, site.x(0), kernel, strides, dilations)
    groups = int(site.attr("group", 1))
    if not _has_own_weights(site):
        function = _FUNCTIONS[len(kernel)]
        given = (site.x(1), site.x(2), tuple(strides), tuple(pads), tuple(dilations), groups)
        return site.call(function, x, *given)
    outs, ins = site.builder.graph.constants[site.op.input(1)].dims[:2]
    module = _MODULES[len(kernel)](
        ins * groups, outs, kernel, strides, pads, dilations, groups, bias=site.has(2), device="meta"
    )
    return site.module(module, x, **_weight_slots(site))


@handles(CONVERTERS, "ConvTranspose")
def conv_transpose(site: Site) -> fx.Node:
    """The full transposed convolution where pads differ between the sides, cut to size afterwards."""
    kernel, strides, dilations = _geometry(site)
    spatial, groups = len(kernel), int(site.attr("group", 1))
    pads, extra, cut = _transposed_pads(site, kernel, strides, dilations)
    if not _has_own_weights(site):
        given = (site.x(1), site.x(2), tuple(strides), tuple(pads), tuple(extra), groups, tuple(dilations))
        made = site.call(_TRANSPOSED_FUNCTIONS[spatial], site.x(0), *given)
    else:
        ins, outs = site.builder.graph.constants[site.op.input(1)].dims[:2]
        module = _TRANSPOSED[spatial](
            ins,
            outs * groups,
            kernel,
            strides,
            pads,
            extra,
            groups,
            bias=site.has(2),
            dilation=dilations,
            device="meta",
        )
        made = site.module(module, site.x(0), **_weight_slots(site))
    return site.call(functional.pad, made, tuple(torch_order([-c for c in cut]))) if any(cut) else made


def _transposed_pads(
    site: Site, kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Padding and output padding that PyTorch can do, and what is to be cut off afterwards."""
    spatial = len(kernel)
    extra = [int(p) for p in site.attr("output_padding", [0] * spatial)]
    pads, mode = explicit_pads(site, spatial), auto_pad(site)
    wanted = site.attr("output_shape")
    if wanted is not None or mode.startswith("SAME"):
        shape = site.shape(0)
        if shape is None or not all(isinstance(d, int) for d in shape[2:]):
            raise NotConverted("has an output shape that depends on an unknown input shape")
        sizes = [int(d) for d in shape[2:] if isinstance(d, int)]
        wanted = [n * s for n, s in zip(sizes, strides, strict=True)] if wanted is None else wanted[-spatial:]
        full = [
            s * (n - 1) + e + (k - 1) * d + 1
            for n, s, e, k, d in zip(sizes, strides, extra, kernel, dilations, strict=True)
        ]
        total = [max(f - w, 0) for f, w in zip(full, wanted, strict=True)]
        extra = [e + max(w - f, 0) for e, f, w in zip(extra, full, wanted, strict=True)]
        small = [t // 2 for t in total]
        large = [t - s for t, s in zip(total, small, strict=True)]
        pads = [*small, *large] if mode == "SAME_UPPER" else [*large, *small]
    if mode == "VALID":
        pads = [0] * 2 * spatial
    fits = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if is_even(pads) and fits:
        return pads[:spatial], extra, []
    # Output padding adds positions at the end: the same as cutting less there, where that is possible.
    cut = [*pads[:spatial], *(p - e for p, e in zip(pads[spatial:], extra, strict=True))]
    return [0] * spatial, [0] * spatial, cut


def _has_own_weights(site: Site) -> bool:
    return site.is_constant(1) and (not site.has(2) or site.is_constant(2))


def _weight_slots(site: Site) -> dict[str, int]:
    return {"weight": 1, "bias": 2} if site.has(2) else {"weight": 1}


@handles(CONVERTERS, "Col2Im")
def columns_to_image(site: Site) -> fx.Node:
    """Blocks that lie in columns, summed up where they overlap."""
    size, block = site.numbers(1), site.numbers(2)
    if size is None or block is None or len(size) != 2:
        raise NotConverted("puts blocks together that have not two axes")
    dilations, strides = site.attr("dilations", [1, 1]), site.attr("strides", [1, 1])
    pads = [int(p) for p in site.attr("pads", [0] * 4)]
    full = tuple(int(n) + pads[k] + pads[k + 2] for k, n in enumerate(size))
    geometry = {"dilation": tuple(dilations), "stride": tuple(strides)}
    made = site.call(functional.fold, site.x(0), full, tuple(int(b) for b in block), **geometry)
    return site.call(functional.pad, made, tuple(torch_order([-p for p in pads]))) if any(pads) else made


@handles(CONVERTERS, "DeformConv")
def deform_conv(site: Site) -> fx.Node:
    """The deformable convolution of torchvision."""
    kernel, strides, dilations = _geometry(site)
    pads = explicit_pads(site, len(kernel))
    if len(kernel) != 2 or pads[:2] != pads[2:]:
        raise NotConverted("is deformable with uneven pads or not in two dimensions")
    given: dict[str, Any] = {"bias": site.x(3), "mask": site.x(4)}
    geometry = {"stride": tuple(strides), "padding": tuple(pads[:2]), "dilation": tuple(dilations)}
    return site.call(deformed, site.x(0), site.x(2), site.x(1), **given, **geometry)


@reads_numbers(0)
def deformed(x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, **given: Any) -> torch.Tensor:
    """DeformConv by torchvision."""
    from torchvision.ops import deform_conv2d

    made: torch.Tensor = deform_conv2d(x, offset, weight, **given)
    return made
