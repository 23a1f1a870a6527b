"""Matrix products: MatMul, Gemm, Einsum (ONNX operator specs)."""

from __future__ import annotations

import torch
from torch import fx, nn

from conet_graph.bridge.registry import Table
from conet_graph.bridge.site import Site
from conet_graph.ir.op_table import handles
from conet_graph.ir.operators import is_turned

CONVERTERS: Table = {}


@handles(CONVERTERS, "MatMul")
def matmul(site: Site) -> fx.Node:
    """As numpy's."""
    return site.call(torch.matmul, site.x(0), site.x(1))


@handles(CONVERTERS, "Gemm")
def gemm(site: Site) -> fx.Node:
    """A linear module where that says the same, else the formula alpha A B + beta C."""
    if _is_linear(site):
        outs, ins = site.builder.graph.constants[site.op.input(1)].dims
        module = nn.Linear(ins, outs, bias=site.has(2), device="meta")
        slots = {"weight": 1, "bias": 2} if site.has(2) else {"weight": 1}
        return site.module(module, site.x(0), **slots)
    alpha, beta = float(site.attr("alpha", 1.0)), float(site.attr("beta", 1.0))
    turned = is_turned(site.op, 0), is_turned(site.op, 1)
    return site.call(general_product, site.x(0), site.x(1), site.x(2), alpha, beta, turned)


def _is_linear(site: Site) -> bool:
    plain = site.attr("alpha", 1.0) == 1.0 and site.attr("beta", 1.0) == 1.0 and not is_turned(site.op, 0)
    bias = site.builder.graph.constants.get(site.op.input(2))
    weight = site.builder.graph.constants.get(site.op.input(1))
    has_bias = bias is not None and weight is not None and bias.dims == weight.dims[:1]
    return plain and is_turned(site.op, 1) and weight is not None and (has_bias or not site.has(2))


def general_product(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None,
    alpha: float,
    beta: float,
    turned: tuple[bool, bool],
) -> torch.Tensor:
    """Alpha A' B' + beta C, where A' and B' are transposed if ``turned`` says so."""
    product = (a.mT if turned[0] else a) @ (b.mT if turned[1] else b)
    product = product if alpha == 1 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


@handles(CONVERTERS, "Einsum")
def einsum(site: Site) -> fx.Node:
    """PyTorch reads the same equations."""
    return site.call(torch.einsum, str(site.attr("equation")).replace(" ", ""), *site.inputs())
