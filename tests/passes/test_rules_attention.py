"""Attention in one operator: the sizes of its heads are free, and the scale stays what it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from bridge_case import in_runtime, in_torch, largest_difference
from golden_text import filled
from rewidth_case import free, graph_of, reason, rewidthed

from conet_graph.bridge import to_torch
from conet_graph.costs.cost import cost
from conet_graph.costs.cost_model import CostModel
from conet_graph.ir.load import LoadedModel
from conet_graph.passes.tie_channels import CHANNELS

HEADER = '<ir_version: 10, opset_import: ["": 23]>\n'
WEIGHTS = "float[8,3,1,1] stem, float[8,{q}] wq, float[8,{k}] wk, float[8,{k}] wv, float[{q},5] wy{more}"
TOKENS = (
    "m = Conv(x, stem) shape3 = Constant<value_ints=[0,8,-1]>() f = Reshape(m, shape3)"
    " t = Transpose<perm=[0,2,1]>(f) q = MatMul(t, wq) k = MatMul(t, wk) v = MatMul(t, wv)"
)


def merged(attributes: str, q: int = 12, k: int = 12, mask: str = "", more: str = "") -> onnx.ModelProto:
    """[batch, tokens, heads * size]."""
    given = f"q, k, v{mask}"
    return filled(
        f"{HEADER}agraph (float[1,3,3,3] x) => (float[1,9,5] y)<{WEIGHTS.format(q=q, k=k, more=more)}>{{"
        f"{TOKENS} a = Attention<{attributes}>({given}) y = MatMul(a, wy)}}"
    )


def apart(attributes: str = "") -> onnx.ModelProto:
    """[batch, heads, tokens, size], three heads of four."""
    heads = " ".join(
        f"r{n} = Reshape({n}, split) h{n} = Transpose<perm=[0,2,1,3]>(r{n})" for n in ("q", "k", "v")
    )
    return filled(
        f"{HEADER}agraph (float[1,3,3,3] x) => (float[1,9,5] y)<{WEIGHTS.format(q=12, k=12, more='')}>{{"
        f"{TOKENS} split = Constant<value_ints=[0,0,3,4]>() {heads} a = Attention{attributes}(hq, hk, hv)"
        " b = Transpose<perm=[0,2,1,3]>(a) join = Constant<value_ints=[0,0,12]>() c = Reshape(b, join)"
        " y = MatMul(c, wy)}"
    )


FORMS = {
    "heads apart": apart(),
    "heads apart, a scale given": apart("<scale=0.3>"),
    "heads merged": merged("q_num_heads=3, kv_num_heads=3"),
    "only the past": merged("q_num_heads=3, kv_num_heads=3, is_causal=1"),
    "queries that share keys": merged("q_num_heads=6, kv_num_heads=2", q=24, k=8),
    "capped scores": merged("q_num_heads=3, kv_num_heads=3, softcap=2.0"),
    "a mask": merged("q_num_heads=3, kv_num_heads=3", mask=", mask", more=", float[9,9] mask"),
}


@pytest.mark.parametrize("form", FORMS)
def test_heads_of_other_sizes(form: str) -> None:
    model = FORMS[form]
    # Queries and keys of all heads move together, so do values with what reads them.
    shared = "share" in form
    assert free(model) == ([(8, 1), (24, 6), (8, 2)] if shared else [(8, 1), (12, 3), (12, 3)])
    found = rewidthed(model, scale=0.5)
    assert found.shape("wq") == (4, 12 if shared else 6)
    assert found.attr("a", "scale") == pytest.approx(0.3 if "given" in form else 4**-0.5)


MASKS = {"for each head": (1, 6, 3, 3), "of one head": (1, 1, 3, 3), "of all": (3, 3)}


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_follows_heads_that_are_channels(mask: str) -> None:
    shape = MASKS[mask]
    declared = (
        f"float[6,3,1,1] wq, float[6,3,1,1] wk, float[6,3,1,1] wv, float[5,6,1,1] wy, float{list(shape)} mask"
    )
    model = filled(
        f"{HEADER}agraph (float[1,3,3,3] x) => (float[1,5,3,3] y)<{declared}>{{"
        "q = Conv(x, wq) k = Conv(x, wk) v = Conv(x, wv) a = Attention(q, k, v, mask) y = Conv(a, wy)}"
    )
    found = rewidthed(model, scale=0.5)
    assert found.shape("wq") == (3, 3, 1, 1)
    assert found.shape("mask") == tuple(3 if n == 6 else n for n in shape)


def test_copied_queries_and_keys_would_count_twice() -> None:
    found = rewidthed(apart(), scale=2.0)
    assert found.shape("wv") == (16, 24)
    assert found.shape("wq") == (16, 12)


def test_a_cache_of_keys_is_not_understood() -> None:
    model = merged("q_num_heads=3, kv_num_heads=3", mask=", , past, past", more=", float[1,3,2,4] past")
    model.graph.node[-2].output.extend(["keys", "values"])
    assert "Attention" in reason(model, "wq")


@pytest.mark.parametrize("form", ["heads apart", "queries that share keys"])
def test_both_products_are_counted(form: str) -> None:
    graph = graph_of(FORMS[form])
    size, wide = (12, 12) if form == "heads apart" else (24, 8)
    layers = 9 * (3 * 8 + 8 * size + 2 * 8 * wide + size * 5)
    assert cost(graph).known_macs == layers + 2 * 9 * 9 * size
    counts = np.array([len(g.classes) for g in graph.result(CHANNELS).groups], np.float64)
    assert CostModel(graph).macs(counts) == layers + 2 * 9 * 9 * size


@pytest.mark.parametrize("form", FORMS)
def test_it_trains_in_pytorch_on_any_batch(form: str) -> None:
    module = to_torch(LoadedModel(FORMS[form]))
    images = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    alone = np.concatenate([in_runtime(FORMS[form], {"x": images[k : k + 1]})[0] for k in range(3)])
    assert largest_difference(in_torch(module, {"x": images}), [alone]) < 1e-5
