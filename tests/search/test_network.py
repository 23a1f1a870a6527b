"""The graph work of a search: networks at other widths, their cost, and budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest

from conet_graph.analysis.analysis import analyze
from conet_graph.ir.errors import Refused
from conet_graph.ir.load import LoadedModel, from_proto, load_model
from conet_graph.search.algorithm import SearchSettings, SizeState
from conet_graph.search.network import Limits, Network, largest, layer_widths
from conet_graph.search.settings import RunSettings

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(load_model(SAMPLE))


def same(network: Network, width: int) -> dict[str, int]:
    return {size.name: width for size in network.sizes}


def test_cost_is_that_of_the_rewritten_network(network: Network) -> None:
    for width in (8, 17, 40):
        widths = {size.name: width + 2 * k for k, size in enumerate(network.sizes)}
        found = analyze(network.at(widths, 0))
        assert network.cost(widths) == (found.model.parameters, found.model.macs)
        assert {g.size: g.width for g in found.groups if g.free} == widths


def test_fresh_weights_depend_on_the_seed_alone(network: Network) -> None:
    def data(model: LoadedModel) -> bytes:
        return model.proto.SerializeToString(deterministic=True)

    widths = same(network, 20)
    first = data(network.at(widths, 7))
    network.at(same(network, 48), 3)
    assert data(network.at(widths, 7)) == first
    assert data(Network(load_model(SAMPLE)).at(widths, 7)) == first
    assert data(network.at(widths, 8)) != first


def answers(model: LoadedModel) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((4, 1, 8, 8), np.float32)
    found: np.ndarray[Any, Any] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def test_a_trained_network_that_becomes_wider_still_computes_the_same(network: Network) -> None:
    trained = network.at(same(network, 16), 1)
    wider = network.continued(trained, same(network, 24), 2)
    assert {g.width for g in analyze(wider).groups if g.free} == {24}
    np.testing.assert_allclose(answers(wider), answers(trained), rtol=1e-4, atol=1e-4)
    assert np.abs(answers(network.at(same(network, 16), 2)) - answers(trained)).max() > 0.1


def test_budgets_scale_what_still_moves(network: Network) -> None:
    settings = SearchSettings(min_width=4)
    states = {name: SizeState(40, 1, 0.2, name == "s0") for name in same(network, 0)}
    whole, macs = network.cost({name: state.width for name, state in states.items()})
    assert network.within(states, Limits(whole, macs), settings) == states
    limits = Limits(0.6 * whole, None)
    found = network.within(states, limits, settings)
    assert found["s0"].width == 40
    assert {s.width % 2 for s in found.values()} == {0}
    widths = {name: state.width for name, state in found.items()}
    assert 0.5 * whole < network.cost(widths)[0] <= 0.6 * whole
    with pytest.raises(Refused, match="too small for the smallest widths"):
        network.within(states, Limits(100, None), settings)


def test_budgets_up_to_one_are_fractions_of_the_file(network: Network) -> None:
    parameters, _ = network.cost(network.own_widths())
    limits = network.limits(RunSettings("digits", max_parameters=0.5, max_macs=12345))
    assert limits == Limits(0.5 * parameters, 12345)
    assert network.limits(RunSettings("digits")) == Limits()


def test_a_size_of_two_parts_keeps_a_channel_of_each() -> None:
    # Two halves beside each other are added to a whole, as where DARTS halves its images.
    text = """<ir_version: 8, opset_import: ["" : 13]>
        two_halves (float[1,3,8,8] x) => (float[1,5,8,8] y)
        <float[4,3,1,1] a, float[4,3,1,1] b, float[8,3,1,1] c, float[5,8,1,1] d>
        { p = Conv(x, a)  q = Conv(x, b)  r = Concat<axis = 1>(p, q)
          s = Conv(x, c)  t = Add(r, s)  u = Relu(t)  y = Conv(u, d) }"""
    proto = onnx.parser.parse_model(text)
    for name, shape in (("a", (4, 3)), ("b", (4, 3)), ("c", (8, 3)), ("d", (5, 8))):
        weight = np.random.default_rng(len(name)).normal(size=(*shape, 1, 1)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    network = Network(from_proto(proto))
    (size,) = network.sizes
    assert (size.width, len(size.groups)) == (8, 2)
    narrowest = network.filled({size.name: 1.0}, Limits(macs=network.cost({size.name: 2})[1]))
    assert narrowest == {size.name: 2}
    assert network.filled({size.name: 1.0}, Limits(macs=network.cost({size.name: 2})[1] - 1)) is None
    settings = SearchSettings(min_width=1, multiple=1)
    assert network.rounded({size.name: 0.3}, settings) == {size.name: 2}


def test_largest_finds_the_last_factor_that_fits() -> None:
    found = largest(lambda f: {"a": int(100 * f)}, lambda w: w["a"] <= 37, 0.0, 1.0)
    assert found == {"a": 37}
    assert largest(lambda f: {"a": 5}, lambda w: False, 0.0, 1.0) is None


def test_widths_by_layer_are_what_rewrite_takes(network: Network) -> None:
    widths = {size.name: 10 + 2 * k for k, size in enumerate(network.sizes)}
    found = layer_widths(network.at(widths, 0))
    by_size = {size.name: {found[layer] for layer in size.layers} for size in network.sizes}
    assert by_size == {name: {width} for name, width in widths.items()}
    assert "/fc/Gemm" not in found  # the classifier's width is the number of classes


def test_a_network_without_free_sizes_is_refused() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }'
    with pytest.raises(Refused, match="Nothing may change"):
        Network(from_proto(onnx.parser.parse_model(text)))
