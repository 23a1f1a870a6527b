"""Outputs that tell nothing: empty, constant, saturated, random. ``passed``: a fault would be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from golden_text import filled
from numpy.typing import NDArray
from onnx import numpy_helper

from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.rewriting.plans import Plan
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.verification.report import Report
from conet_graph.verification.verification import verify

Array = NDArray[Any]

FRAME = """<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => ({outputs})
<float[8,3,3,3] k, float[8,8,3,3] l, float[4,8,3,3] m, float[4,8,1,1] s1, float[8,4,1,1] s2,
 float[4] b1, float[8] b2, float[1,8,1,1] shift, float[8,8,1,1] n,
 float[4,6] second, float[6,2] third,
 float far = {{-{far}.0}}, float half = {{0.5}}, bool yes = {{1}}, int64[3] rows = {{1, 4, -1}}> {{
    a = Conv<pads = [1, 1, 1, 1]>(x, k)
    r = Relu(a)
    b = Conv<pads = [1, 1, 1, 1]>(r, l)
    {body}
}}"""


def model_of(body: str, far: int = 0, outputs: str = "float[1,4,8,8] y") -> onnx.ModelProto:
    """A network whose values stay near 1."""
    model = filled(FRAME.format(outputs=outputs, far=far, body=body))
    for tensor in model.graph.initializer:
        if tensor.name in ("k", "l", "m"):
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((array - array.mean()) * np.float32(0.5), tensor.name))
    return model


def saturated(far: int) -> onnx.ModelProto:
    """A detector that is sure that there is nothing: its outputs lie near sigmoid(-far)."""
    return model_of("c = Conv<pads = [1, 1, 1, 1]>(b, m)\nd = Add(c, far)\ny = Sigmoid(d)", far)


def nothing_found() -> onnx.ModelProto:
    """A detector whose scores are all far below its threshold: nothing comes out."""
    body = (
        "c = Conv<pads = [1, 1, 1, 1]>(b, m)\ns = Reshape(c, rows)\nt = Sigmoid(s)\n"
        "u = Add(t, far)\nv = Greater(u, half)\ny = NonZero(v)"
    )
    return model_of(body, 100, "int64[3,found] y")


def dead_inside() -> onnx.ModelProto:
    """A bias far below zero before a ReLU: the last layer reads zeros whatever comes in."""
    return model_of("e = Add(b, far)\nc = Relu(e)\ny = Conv<pads = [1, 1, 1, 1]>(c, m)", 1000)


def rounded() -> onnx.ModelProto:
    """Only the sign of a sum far from zero comes out."""
    return model_of("c = Conv<pads = [1, 1, 1, 1]>(b, m)\nd = Add(c, far)\ny = Sign(d)", 1000)


def closed_gate() -> onnx.ModelProto:
    """Squeeze and excitation whose gate is shut, and whose first layer ends in zeros, on every input."""
    body = (
        "p = GlobalAveragePool(b)\nh = Conv(p, s1)\nn = Add(h, far)\nq = Relu(n)\ne = Conv(q, s2)\n"
        "f = Add(e, far)\ng = Sigmoid(f)\nw = Mul(b, g)\nv = Add(w, b)\ny = Conv<pads = [1, 1, 1, 1]>(v, m)"
    )
    return model_of(body, 20)


ASLEEP = {
    "saturated": lambda: saturated(30),
    "nothing found": nothing_found,
    "dead inside": dead_inside,
    "rounded": rounded,
    "closed gate": closed_gate,
}


def at(model: onnx.ModelProto, scale: float) -> tuple[Graph, onnx.ModelProto, Plan]:
    graph = analysed(LoadedModel(model))
    plan, layout = planned(graph, choose_copies(graph, WidthRequest(scale=scale)), "keep", False, 0)
    return graph, rewritten(graph, plan, layout), plan


def with_fault(model: onnx.ModelProto, scale: float, weight: str, share: float) -> Report:
    """Verification of a network in which one weight is wrong by a share of itself."""
    graph, new, plan = at(model, scale)
    tensor = next(t for t in new.graph.initializer if t.name == weight)
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((array * (1 + share)).astype(array.dtype), weight))
    return verify(graph, new, plan)


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("kind", ASLEEP)
def test_what_stands_before_a_sleeping_output_is_compared(kind: str, scale: float) -> None:
    found = verify(*at(ASLEEP[kind](), scale))
    assert found.ok, found.failures
    assert found.equality == "passed"
    assert found.intermediate > 0
    assert found.largest_difference is not None
    assert found.largest_difference < 1e-4


@pytest.mark.parametrize(
    ("kind", "weight"),
    [(kind, w) for kind in ASLEEP for w in ("k", "l", "m")] + [("closed gate", "s1"), ("closed gate", "s2")],
)
def test_a_fault_before_a_sleeping_output_is_seen(kind: str, weight: str) -> None:
    found = with_fault(ASLEEP[kind](), 0.5, weight, 0.01)
    assert not found.ok
    assert found.equality == "failed"


def altered(model: onnx.ModelProto, weight: str, change: Callable[[Array], None]) -> onnx.ModelProto:
    """The model with another value of a weight."""
    tensor = next(t for t in model.graph.initializer if t.name == weight)
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, weight))
    return model


def unheard(array: Array) -> None:
    """No output hears the inputs 0, 2 and 4."""
    array[:, [0, 2, 4]] = 0


def silent(array: Array) -> None:
    """The outputs 1 and 3 are zero, but for a bias."""
    array[[1, 3]] = 0


def below(array: Array) -> None:
    """More is subtracted from the channels 0, 3 and 6 than they can be."""
    array[:, [0, 3, 6]] = 2


# Channels that change nothing go first, and what stands around them is compared all the same.
DEAD = {
    "unheard": lambda: altered(rounded(), "m", unheard),
    "silent": lambda: altered(nothing_found(), "l", silent),
    "never above zero": lambda: altered(
        model_of(
            "s = Sigmoid(b)\ne = Sub(s, shift)\nh = Relu(e)\nc = Conv<pads = [1, 1, 1, 1]>(h, m)\n"
            "d = Add(c, far)\ny = Sign(d)",
            1000,
        ),
        "shift",
        below,
    ),
    "constant": lambda: altered(
        model_of(
            "e = Conv(b, s1, b1)\nf = Conv(e, s2, b2)\nc = Conv<pads = [1, 1, 1, 1]>(f, m)\n"
            "d = Add(c, far)\ny = Sign(d)",
            1000,
        ),
        "s1",
        silent,
    ),
}


@pytest.mark.parametrize("kind", DEAD)
def test_a_sleeping_network_with_dead_channels_is_compared(kind: str) -> None:
    graph, new, plan = at(DEAD[kind](), 0.5)
    assert any(group.dead for group in plan.groups)
    found = verify(graph, new, plan)
    assert found.ok, found.failures
    assert found.equality == "passed"
    for weight in ("k", "l", "m"):
        assert with_fault(DEAD[kind](), 0.5, weight, 0.01).equality == "failed"


def shut_branch(zero: str) -> onnx.ModelProto:
    """Squeeze and excitation in a branch that is zero before training, so that its gate never moves."""
    body = (
        f"z = {zero}\np = GlobalAveragePool(z)\nh = Conv(p, s1, b1)\n"
        "q = Relu(h)\ne = Conv(q, s2, b2)\ng = Sigmoid(e)\nw = Mul(z, g)\nv = Add(w, b)\n"
        "y = Conv<pads = [1, 1, 1, 1]>(v, m)"
    )
    made = altered(model_of(body), "n", lambda array: array.fill(0))
    made = altered(made, "shift", lambda array: array.fill(0))
    return altered(made, "b1", lambda array: np.abs(array, out=array))


def multiples() -> onnx.ModelProto:
    """Of four channels three are multiples of one another, behind a gate that is shut."""

    def repeated(array: Array) -> None:
        array[1], array[3] = 2 * array[0], 0.5 * array[0]

    body = (
        "z = Conv(b, n)\np = GlobalAveragePool(b)\nh = Conv(p, s1, b1)\nq = Relu(h)\n"
        "t = Conv(q, s2, b2)\ng = Mul(t, z)\nv = Add(g, b)\ny = Conv<pads = [1, 1, 1, 1]>(v, m)"
    )
    made = altered(model_of(body), "n", lambda array: array.fill(0))
    return altered(altered(made, "s1", repeated), "b1", repeated)


CONSTANT_INSIDE = {
    "weights of zero before a gate": lambda: shut_branch("Conv(b, n)"),
    "a product with zero before a gate": lambda: shut_branch("Mul(b, shift)"),
    "multiples behind a zero": multiples,
}


@pytest.mark.parametrize("scale", [0.5, 0.25])
@pytest.mark.parametrize("kind", CONSTANT_INSIDE)
def test_what_dead_channels_left_in_weights_is_compared(kind: str, scale: float) -> None:
    """Noise finds the faults behind constants, though what was dropped comes to life in it."""
    graph, new, plan = at(CONSTANT_INSIDE[kind](), scale)
    assert any(t.merge or t.offset is not None for t in plan.tensors.values())
    found = verify(graph, new, plan)
    assert found.ok, found.failures
    assert found.equality == "passed"
    again = verify(graph, new, Plan.loads(plan.dumps()))
    assert (again.equality, again.failures) == ("passed", [])
    for weight in ("k", "l", "m", "s1", "s2", "b2"):
        assert with_fault(CONSTANT_INSIDE[kind](), scale, weight, 0.01).equality == "failed", weight


def zero_at_first(body: str) -> onnx.ModelProto:
    """The last layer of a box head before training: zeros, whatever it reads."""
    return altered(model_of(body), "m", lambda array: array.fill(0))


ZEROS = {
    "as they are": "y = Conv<pads = [1, 1, 1, 1]>(b, m)",
    "computed": "w = Mul(m, half)\ny = Conv<pads = [1, 1, 1, 1]>(b, w)",
    "scaled to length": "n2 = ReduceL2<axes = [1, 2, 3]>(m)\no = Add(n2, half)\nw = Div(m, o)\n"
    "y = Conv<pads = [1, 1, 1, 1]>(b, w)",
}


@pytest.mark.parametrize("kind", ZEROS)
@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_a_layer_of_zeros_gives_zeros_whatever_it_reads(kind: str, scale: float) -> None:
    graph, new, plan = at(zero_at_first(ZEROS[kind]), scale)
    assert verify(graph, new, plan).equality == "passed"
    assert verify(graph, altered(new, "m", lambda array: array.fill(1e-3)), plan).equality == "failed"


@pytest.mark.parametrize("far", [0, 8, 16])
def test_a_sigmoid_near_zero_is_judged_by_what_rounding_can_do(far: int) -> None:
    for scale in (0.5, 1.25):
        found = verify(*at(saturated(far), scale))
        assert found.ok, found.failures
        assert found.equality == "passed"
        assert with_fault(saturated(far), scale, "m", 0.003).equality == "failed"
        assert with_fault(saturated(far), scale, "k", 0.003).equality == "failed"


def test_layers_that_nothing_reaches_are_named() -> None:
    """Boxes that are never found: a second stage reads an empty batch, on every input."""
    body = (
        "t = Sub(b, b)\nu = Greater(t, half)\nw = NonZero(u)\nz = Transpose<perm = [1, 0]>(w)\n"
        "i = Cast<to = 1>(z)\nh = MatMul(i, second)\nr2 = Relu(h)\ny = MatMul(r2, third)"
    )
    found = verify(*at(model_of(body, outputs="float[f,2] y"), 0.5))
    assert found.ok, found.failures
    assert found.equality.startswith("not checked: no input tried shows what ")


RANDOM = {
    "RandomNormalLike": "e = RandomNormalLike(b)",
    "RandomUniformLike": "e = RandomUniformLike(b)",
    "Bernoulli": "s = Sigmoid(b)\ne = Bernoulli(s)",
    "Dropout": "e = Dropout(b, half, yes)",
}


@pytest.mark.parametrize("kind", RANDOM)
def test_a_random_network_is_not_compared(kind: str) -> None:
    body = RANDOM[kind] + "\nd = Add(b, e)\ny = Conv<pads = [1, 1, 1, 1]>(d, m)"
    for share in (0.0, -2.0):
        found = with_fault(model_of(body), 0.5, "l", share)
        assert found.ok, found.failures
        assert found.equality == f"not checked: {kind} 'e' is random"


def test_dropout_as_it_is_exported_is_not_random() -> None:
    found = verify(*at(model_of("e = Dropout(b, half)\ny = Conv<pads = [1, 1, 1, 1]>(e, m)"), 0.5))
    assert found.equality == "passed"


def test_a_tolerance_does_not_grow_without_limit() -> None:
    """Sines of large numbers are noise: they prove nothing, and hide nothing that stands before them."""
    body = "c = Conv<pads = [1, 1, 1, 1]>(b, m)\nd = Mul(c, far)\ny = Sin(d)"
    found = verify(*at(model_of(body, 10**7), 1.5))
    assert found.ok, found.failures
    assert found.equality == "passed"
    assert found.intermediate > 0
    assert found.sensitivity < 1e-3
    assert with_fault(model_of(body, 10**7), 1.5, "l", 0.01).equality == "failed"
