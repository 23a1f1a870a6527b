"""The random networks are valid, run, stay near 1, and hold every kind of block."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.graphs import GraphBuilder
from tests.strategies import BLOCKS, DISCONTINUOUS, HEADS, Network, build, describe, models, networks

QUIET = list(HealthCheck)


def run(model: onnx.ModelProto, batch: int = 2) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    feeds = {
        value.name: rng.standard_normal([d if isinstance(d, int) else batch for d in value.shape], np.float32)
        for value in session.get_inputs()
    }
    outputs: list[NDArray[Any]] = session.run(None, feeds)
    return outputs


def assert_sound(model: onnx.ModelProto) -> None:
    """Valid by onnx's strictest rules, and it runs: shapes as declared, numbers near 1."""
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    for value, output in zip(model.graph.output, run(model), strict=True):
        declared = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
        assert list(output.shape) == declared
        assert np.isfinite(output).all()
        assert 1e-4 < np.abs(output).max() < 100


def variants(kind: str) -> list[int]:
    return [0, *np.random.default_rng(len(kind)).integers(0, 100_000, 3).tolist()]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(models())
def test_random_models_are_sound(model: onnx.ModelProto) -> None:
    assert_sound(model)


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_block_is_sound_alone(kind: str) -> None:
    block = BLOCKS[kind]
    for opset in (block.opset, 17, 21):
        for number in variants(kind):
            rank = block.ranks[number % len(block.ranks)]
            assert_sound(build(Network(opset, rank, 5, ((kind, number),), ("gap_gemm", 0))))


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_is_sound_alone(kind: str) -> None:
    for opset in (9, 13, 18):
        for number in variants(kind):
            assert_sound(build(Network(opset, 1 + number % 3, 4, (), (kind, number), batch=2)))


def test_500_draws_hold_every_kind() -> None:
    seen: set[object] = set()

    @settings(max_examples=500, derandomize=True, suppress_health_check=QUIET, phases=[Phase.generate])
    @given(networks())
    def draw(network: Network) -> None:
        assert 2 <= len(network.blocks) <= 10
        seen.update(kind for kind, _ in network.blocks)
        seen.update((network.head[0], f"{network.rank}-D", network.batch))
        seen.add("tapped" if network.tap is not None else "not tapped")

    draw()
    assert seen >= {*BLOCKS, *HEADS, "1-D", "2-D", "3-D", None, 2, "tapped", "not tapped"}


@settings(max_examples=60, derandomize=True, suppress_health_check=QUIET)
@given(networks(exclude=DISCONTINUOUS))
def test_excluded_kinds_do_not_occur(network: Network) -> None:
    assert not DISCONTINUOUS & {kind for kind, _ in network.blocks}


def test_shrinks_to_two_plain_blocks() -> None:
    smallest = find(
        networks(),
        lambda network: "tile" in {kind for kind, _ in network.blocks},
        settings=settings(derandomize=True, database=None, suppress_health_check=QUIET, max_examples=1000),
    )
    assert sorted(smallest.blocks) == [("conv", 0), ("tile", 0)]
    assert smallest == Network(17, 2, 4, smallest.blocks, ("gap_gemm", 0))


def test_failure_prints_the_blocks() -> None:
    described: list[str] = []

    @settings(
        derandomize=True,
        database=None,
        suppress_health_check=QUIET,
        phases=[Phase.generate],
        max_examples=1000,
    )
    @given(models())
    def fails(model: onnx.ModelProto) -> None:
        described.append(describe(model))
        assert "lrn(" not in described[-1]

    with pytest.raises(AssertionError) as failure:
        fails()
    assert described[-1].startswith("opset ")
    assert described[-1] in "\n".join(failure.value.__notes__)


def test_a_network_gives_the_same_bytes_again() -> None:
    network = Network(13, 2, 6, (("gather", 5), ("where", 1), ("quantised_weight", 3)), ("lstm", 1), tap=1)
    first, again = build(network), build(network)
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    assert describe(first).splitlines() == [
        "opset 13, 2-D, side 6, batch free",
        "gather(5)",
        "where(1) -> output",
        "quantised_weight(3)",
        "lstm(1)",
    ]
    assert len(first.graph.output) == 2


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(models(), st.integers(1, 3))
def test_a_free_batch_is_free(model: onnx.ModelProto, batch: int) -> None:
    if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        assert run(model, batch)[0].shape[0] == batch


def test_unsound_models_are_noticed() -> None:
    wrong = build(Network(17, 2, 4, (("conv", 0),), ("gap_gemm", 0)))
    wrong.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1
    with pytest.raises(onnx.shape_inference.InferenceError):
        assert_sound(wrong)
    large = build(Network(17, 2, 4, (("conv", 0),), ("gap_gemm", 0)))
    bias = next(t for t in large.graph.initializer if t.name == "fc_1.bias")
    bias.raw_data = np.full(bias.dims, 1e4, np.float32).tobytes()
    with pytest.raises(AssertionError):
        assert_sound(large)


def test_builder_knows_shapes_and_fixes_the_batch() -> None:
    g = GraphBuilder(opset=17)
    y = g.conv(g.input("x", ["N", 3, 8, 8]), 16, k=3, stride=2, name="conv1")
    assert (y, g.shape(y), g.channels(y), g.spatial(y)) == ("conv1", ("N", 16, 4, 4), 16, (4, 4))
    assert g.shape("conv1.weight") == (16, 3, 3, 3)
    g.output(g.flatten(y))
    assert run(g.build())[0].shape == (2, 256)
    fixed = g.build(batch=3)
    assert [d.dim_value for d in fixed.graph.output[0].type.tensor_type.shape.dim] == [3, 256]
    assert run(fixed)[0].shape == (3, 256)


def test_builder_refuses_what_it_cannot_build() -> None:
    g = GraphBuilder(opset=9)
    x = g.input("x", ["N", 3, 8, 8])
    with pytest.raises(onnx.shape_inference.InferenceError):
        g.add(x, g.vector(4, 1, 1))
    with pytest.raises(ValueError, match="pass shape="):
        g.op("Reshape", x, g.op("Shape", x))
    with pytest.raises(ValueError, match="no steps before opset 10"):
        g.slice(x, 0, 3, step=2)
    with pytest.raises(ValueError, match="the name 'x' is taken"):
        g.relu(x, name="x")
