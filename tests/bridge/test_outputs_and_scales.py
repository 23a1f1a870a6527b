"""Outputs that no image changes, and maps resized by scales that only the run knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bridge_case import in_runtime, in_torch, largest_difference
from golden_text import filled

from conet_graph.bridge import to_torch
from conet_graph.ir.load import LoadedModel

Arrays = dict[str, np.ndarray[Any, Any]]


def header(opset: int) -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]>\n'


SHARED = {
    "a convolution's weight": ("float[8,3,1,1] out", "y = Conv(x, out)"),
    "a weight that is computed": ("float[8,3,1,1] w", "out = Mul(w, w) y = Conv(x, out)"),
    "a weight of one filter": ("float[1,3,1,1] out", "y = Conv(x, out)"),
    "a weight of one input": (
        "float[8,3,1,1] w, float[8,1,3,3] out",
        "m = Conv(x, w) y = Conv<group=8, pads=[1,1,1,1]>(m, out)",
    ),
    "a bias": ("float[8,3,1,1] w, float[8] out", "y = Conv(x, w, out)"),
}


@pytest.mark.parametrize("case", SHARED)
def test_a_weight_that_is_an_output_is_one_for_all_images(case: str) -> None:
    weights, body = SHARED[case]
    sizes = {"a bias": "8", "a weight of one filter": "1,3,1,1", "a weight of one input": "8,1,3,3"}
    source = f"agraph (float[1,3,4,4] x) => (float[1,c,4,4] y, float[{sizes.get(case, '8,3,1,1')}] out)"
    model = filled(f"{header(17)}{source}<{weights}>{{{body}}}")
    images = np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32)
    alone = [in_runtime(model, {"x": images[k : k + 1]}) for k in range(3)]
    wanted = [np.concatenate([y for y, _ in alone]), alone[0][1]]
    assert largest_difference(in_torch(to_torch(LoadedModel(model)), {"x": images}), wanted) < 1e-5


def test_a_table_for_one_image_is_given_for_each() -> None:
    """A detector's anchors are an output of every image."""
    source = "agraph (float[1,3,4,4] x) => (float[1,8,4,4] y, float[1,5,4] out)"
    model = filled(
        f"{header(17)}{source}<float[8,3,1,1] w, float[1,5,4] table>{{y = Conv(x, w) out = Identity(table)}}"
    )
    made = in_torch(to_torch(LoadedModel(model)), {"x": np.zeros((3, 3, 4, 4), np.float32)})
    assert made[1].shape == (3, 5, 4)


SCALED = {
    "given to the network": (17, "float[4] s", 'y = Resize<mode="nearest">(m, , s)', [1, 1, 2, 1.5]),
    "given for some axes": (18, "float[2] s", 'y = Resize<mode="linear", axes=[2, 3]>(m, , s)', [2, 0.5]),
    "given to an older operator": (10, "float[4] s", 'y = Resize<mode="nearest">(m, s)', [1, 1, 2, 3]),
    "given to an Upsample": (9, "float[4] s", 'y = Upsample<mode="nearest">(m, s)', [1, 1, 3, 2]),
    "of a computed size": (
        17,
        "float[1,2,8,6] s",
        "a = Shape(s) first = Constant<value_ints=[2]>() last = Constant<value_ints=[4]>()"
        " b = Slice(a, first, last) f = Cast<to=1>(b)"
        " c = Shape(m) d = Slice(c, first, last) g = Cast<to=1>(d)"
        " r = Div(f, g) h = Constant<value_floats=[1.0, 1.0]>() n = Concat<axis=0>(h, r)"
        ' y = Resize<mode="cubic">(m, , n)',
        None,
    ),
}


@pytest.mark.parametrize("case", SCALED)
def test_scales_that_only_the_run_knows(case: str) -> None:
    opset, given, body, scales = SCALED[case]
    model = filled(
        f"{header(opset)}agraph (float[1,3,4,4] x, {given}) => (float[1,8,h,w] y)"
        f"<float[8,3,1,1] w>{{m = Conv(x, w) {body}}}"
    )
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 3, 4, 4)).astype(np.float32)
    if scales is None:
        s = rng.standard_normal((3, 2, 8, 6)).astype(np.float32)
        own = [s[k : k + 1] for k in range(3)]
    else:
        s = np.array(scales, np.float32)
        own = [s] * 3
    alone = [in_runtime(model, {"x": images[k : k + 1], "s": own[k]})[0] for k in range(3)]
    made = in_torch(to_torch(LoadedModel(model)), {"x": images, "s": s})
    assert largest_difference(made, [np.concatenate(alone)]) < 1e-5
