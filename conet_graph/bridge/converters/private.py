"""Experimental operators of the first opsets, and those that ONNX Runtime's optimiser writes.

Sources: the ONNX change log (Affine, Crop, ImageScaler) and ONNX Runtime's contrib operator docs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.nn import functional

from conet_graph.bridge.converters.conv import convolution
from conet_graph.bridge.converters.elementwise import bounded_line, self_gated
from conet_graph.bridge.converters.matmul import general_product
from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import NotConverted, Site
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import MICROSOFT, is_turned

CONVERTERS: Table = {}


@handles(CONVERTERS, "Affine")
def affine(site: Site) -> fx.Node:
    """A line."""
    made = site.call(torch.mul, site.x(0), float(site.attr("alpha", 1.0)))
    return site.call(torch.add, made, float(site.attr("beta", 0.0)))


@handles(CONVERTERS, "ImageScaler")
def image_scaler(site: Site) -> fx.Node:
    """Pixels times a number, plus a number for each channel."""
    return site.call(scaled_image, site.x(0), float(site.attr("scale", 1.0)), tuple(site.attr("bias", [])))


def scaled_image(x: torch.Tensor, scale: float, bias: tuple[float, ...]) -> torch.Tensor:
    """ImageScaler."""
    return x * scale + (x.new_tensor(bias).reshape(-1, 1, 1) if bias else 0)


@handles(CONVERTERS, "Crop")
def crop(site: Site) -> fx.Node:
    """Pixels cut off at the border: left, top, right, bottom."""
    if site.attr("scale") is not None:
        raise NotConverted("crops to a size")
    left, top, right, bottom = (int(n) for n in site.attr("border", [0, 0, 0, 0]))
    return site.call(functional.pad, site.x(0), (-left, -right, -top, -bottom))


@handles(CONVERTERS, "FusedConv", domain=MICROSOFT)
def fused_conv(site: Site) -> fx.Node:
    """A convolution, a summand, and an activation."""
    made = convolution(site)
    if site.has(3):
        made = site.call(torch.add, made, site.x(3))
    return _activated(site, made, list(site.attr("activation_params", [])))


def _activated(site: Site, made: fx.Node, settings: list[float]) -> fx.Node:
    name = str(site.attr("activation", ""))
    plain: dict[str, Any] = {"Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh}
    if name in plain:
        return site.call(plain[name], made)
    if name == "LeakyRelu":
        return site.call(functional.leaky_relu, made, *settings[:1])
    if name == "Clip":
        return site.call(torch.clamp, made, *settings[:2])
    if name == "HardSigmoid":
        return site.call(bounded_line, made, *settings)
    if name:
        raise NotConverted(f"uses the activation {name}")
    return made


@handles(CONVERTERS, "FusedGemm", domain=MICROSOFT)
def fused_gemm(site: Site) -> fx.Node:
    """A Gemm and an activation."""
    alpha, beta = float(site.attr("alpha", 1.0)), float(site.attr("beta", 1.0))
    turned = is_turned(site.op, 0), is_turned(site.op, 1)
    made = site.call(general_product, site.x(0), site.x(1), site.x(2), alpha, beta, turned)
    return _activated(site, made, [float(site.attr(f"activation_{n}", 0.0)) for n in ("alpha", "beta")])


@handles(CONVERTERS, "FusedMatMul", domain=MICROSOFT)
def fused_matmul(site: Site) -> fx.Node:
    """A scaled product of matrices that may be transposed."""
    if site.attr("transBatchA", 0) or site.attr("transBatchB", 0):
        raise NotConverted("transposes batch axes")
    turned = is_turned(site.op, 0), is_turned(site.op, 1)
    return site.call(general_product, site.x(0), site.x(1), None, float(site.attr("alpha", 1.0)), 1.0, turned)


@handles(CONVERTERS, "Gelu", "BiasGelu", domain=MICROSOFT)
def gelu(site: Site) -> fx.Node:
    """Exact GELU, of a sum in BiasGelu."""
    x = site.call(torch.add, site.x(0), site.x(1)) if site.has(1) else site.x(0)
    return site.call(functional.gelu, x)


@handles(CONVERTERS, "FastGelu", domain=MICROSOFT)
def fast_gelu(site: Site) -> fx.Node:
    """GELU by tanh, of a sum where there is a bias."""
    x = site.call(torch.add, site.x(0), site.x(1)) if site.has(1) else site.x(0)
    return site.call(functional.gelu, x, approximate="tanh")


@handles(CONVERTERS, "QuickGelu", domain=MICROSOFT)
def quick_gelu(site: Site) -> fx.Node:
    """The input times the sigmoid of alpha times it."""
    return site.call(self_gated, site.x(0), float(site.attr("alpha", 1.702)))
