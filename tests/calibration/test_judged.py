"""Networks that give out as much as they happen to find: they are compared by what they choose from."""

from __future__ import annotations

import numpy as np
import pytest

import conet_graph as cg
from conet_graph.calibration.judged import judged_values
from conet_graph.calibration.output_error import relative_error
from conet_graph.ir.errors import Refused
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.verification.verification import verify
from tests.helpers.small_networks import Array, network

RNG = np.random.default_rng(2)
HEAD = "a0 = Conv (x, w0)  h = Relu (a0)  p = Conv (h, w)"
LIMITS = "most = Constant <value_ints=[9]> ()  iou = Constant <value_float=0.5> ()"

# What a network gives out, and the values that it is compared by.
CHOOSING = {
    "places above a threshold": (
        "s = Sigmoid (p)  b = Greater (s, half)  n = NonZero (b)  t = Transpose (n)  y = GatherND (s, t)",
        "float[m] y",
        ["p"],
    ),
    "numbers above a threshold": (
        "r = Reshape (p, flat)  b = Greater (r, half)  q = Reshape (b, flat)  y = Compress (r, q)",
        "float[m] y",
        ["r"],
    ),
    "boxes that do not overlap": (
        f"{LIMITS}  four = Constant <value_ints=[1,16,4]> ()  one = Constant <value_ints=[1,1,16]> ()"
        "  d = Conv (h, w4)  t = Transpose <perm=[0,2,3,1]> (d)  boxes = Reshape (t, four)  c = Conv (h, w1)"
        "  s = Sigmoid (c)  scores = Reshape (s, one)  n = NonMaxSuppression (boxes, scores, most, iou, half)"
        "  at = Slice (n, two, end, last)  k = Squeeze (at)  y = Gather <axis=1> (boxes, k)",
        "float[1,m,4] y",
        ["boxes", "scores"],
    ),
    "places alone": ("b = Greater (p, half)  y = NonZero (b)", "int64[k,m] y", ["p"]),
    "choices beside a map": (
        "b = Greater (p, half)  n = NonZero (b)  t = Transpose (n)  y = GatherND (p, t)  q = Conv (h, w4)"
        "  z = Tanh (q)",
        "float[m] y, float[1,c,i,j] z",
        ["p", "q"],
    ),
    "a number of choices": (
        "b = Greater (p, half)  n = NonZero (b)  y = Shape (n)  z = Softmax <axis=1> (p)",
        "int64[k] y, float[1,c,i,j] z",
        ["p"],
    ),
}


def weight(*shape: int) -> Array:
    return RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))


def choosing(kind: str) -> LoadedModel:
    nodes, outputs, _ = CHOOSING[kind]
    numbers = {"flat": [-1], "two": [2], "end": [3], "last": [1]}
    return network(
        f"g (float[1,3,4,4] x) => ({outputs}) {{ {HEAD}  {nodes} }}",
        {
            **{name: weight(*shape) for name, shape in {"w0": (8, 3, 1, 1), "w": (5, 8, 1, 1)}.items()},
            **{name: weight(*shape) for name, shape in {"w4": (4, 8, 1, 1), "w1": (1, 8, 1, 1)}.items()},
            **{name: np.array(values, np.int64) for name, values in numbers.items()},
            "half": np.array(0.1),
        },
    )


@pytest.mark.parametrize("kind", CHOOSING)
def test_what_is_chosen_from_is_compared(kind: str) -> None:
    model = choosing(kind)
    graph = analysed(model)
    assert list(judged_values(graph)) == CHOOSING[kind][2]
    plan = cg.plan(model, scale=0.5, multiple_of=1)
    found = verify(graph, cg.rewrite(model, plan).proto, plan, with_error=True)
    assert found.ok
    assert found.outputs_error is not None
    assert found.outputs_error > 0


@pytest.mark.parametrize("kind", ["places above a threshold", "boxes that do not overlap", "places alone"])
def test_it_is_calibrated(kind: str) -> None:
    model = choosing(kind)
    x = RNG.standard_normal((24, 3, 4, 4)).astype(np.float32)
    plan = cg.plan(model, widths={"a0": 5}, calibrate={"x": x})
    assert plan.refit is not None
    assert all(error is not None and error < 1 for error in plan.refit.errors.values())
    assert cg.verify(model, cg.rewrite(model, plan), plan).ok


def test_a_network_without_numbers_is_refused() -> None:
    model = network(
        "g (float[1,3,4,4] x) => (int64[m] y) { c = Conv (x, w)  r = Relu (c)"
        "  k = Conv (r, v)  y = Shape (k) }",
        {"w": weight(8, 3, 1, 1), "v": weight(5, 8, 1, 1)},
    )
    with pytest.raises(Refused, match="gives out no floating-point numbers"):
        cg.plan(model, widths={"c": 4}, calibrate={"x": RNG.standard_normal((8, 3, 4, 4))})


def test_values_of_other_shapes_are_as_far_off_as_can_be() -> None:
    assert relative_error([[np.ones(3)]], [[np.ones(2)]], [1.0]) == float("inf")
