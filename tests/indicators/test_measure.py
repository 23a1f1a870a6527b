"""Indicators of weights: the reference cases, both libraries, and weights that hold nothing."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from conet_graph.indicators import LayerIndicators, layer_indicators, unfold

ROOT = Path(__file__).resolve().parent.parent.parent
CASES: list[dict[str, Any]] = json.loads((ROOT / "tests/data/evbmf.json").read_text())["cases"]
NOTHING = LayerIndicators(0.0, 0.0, 0, 0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def weight_of(case: dict[str, Any]) -> NDArray[np.float64]:
    """The weight as the cases' own "how" says."""
    random = np.random.default_rng(case["seed"])
    shape, rank = case["shape"], case["signal_rank"]
    weight = random.standard_normal(shape)
    if rank:
        left = random.standard_normal((shape[0], rank))
        right = random.standard_normal((rank, math.prod(shape[1:])))
        weight = weight + case["signal_scale"] * (left @ right).reshape(shape)
    return weight


WEIGHTS = {f"w{case['seed']}": weight_of(case) for case in CASES}


@pytest.fixture(autouse=True, scope="module")
def _tensors_measured_by_torch() -> Iterator[None]:
    """Tensors on the CPU take the way of those on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unfold, "BY_NUMPY", ())
        yield


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, LayerIndicators]]:
    tensors = {name: torch.from_numpy(weight) for name, weight in WEIGHTS.items()}
    return {"numpy": layer_indicators(WEIGHTS), "torch": layer_indicators(tensors)}


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed{case['seed']}")
def test_reference_cases(
    measured: dict[str, dict[str, LayerIndicators]], library: str, case: dict[str, Any]
) -> None:
    found = measured[library][f"w{case['seed']}"]
    assert (found.out_count, found.in_count) == (case["out_rank"], case["in_rank"])
    assert (found.out_rank, found.in_rank) == (case["out_R"], case["in_R"])
    assert found.out_condition == pytest.approx(case["out_condition"] or 1.0, rel=1e-4)
    assert found.in_condition == pytest.approx(case["in_condition"] or 1.0, rel=1e-4)
    assert found.out_noise_variance == pytest.approx(case["out_noise_variance"], rel=1e-4)
    assert found.in_noise_variance == pytest.approx(case["in_noise_variance"], rel=1e-4)


def test_the_published_search_gives_its_own_ranks() -> None:
    found = layer_indicators(WEIGHTS, search="bounded")
    for case in CASES:
        layer = found[f"w{case['seed']}"]
        assert [layer.out_count, layer.in_count] == case["one_local_search_gives"]


def test_gains_are_means_over_all_channels() -> None:
    # Two strong directions of equal strength in eight channels: (1 + d2/d1) / 8.
    weight = np.random.default_rng(0).standard_normal((8, 400)) * 0.1
    weight[0, :200] += 5
    weight[1, 200:] += 5
    layer = layer_indicators({"w": weight})["w"]
    assert layer.out_count == 2
    assert layer.out_gain == pytest.approx((1 + 1 / layer.out_condition) / 8)
    assert layer.in_gain == pytest.approx((1 + 1 / layer.in_condition) / 400)
    assert layer.gain == pytest.approx((layer.out_gain + layer.in_gain) / 2)


@pytest.mark.parametrize("by_numpy", [(), ("cpu",)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_a_training_are_measured(
    dtype: torch.dtype, by_numpy: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfold, "BY_NUMPY", by_numpy)
    weight = torch.nn.Parameter(torch.from_numpy(WEIGHTS["w0"]).to(dtype))
    array = weight.detach().to(torch.float64).numpy()
    of_tensor, of_array = layer_indicators({"t": weight, "a": array}).values()
    assert weight.grad is None
    assert (of_tensor.out_count, of_tensor.in_count) == (of_array.out_count, of_array.in_count)
    assert of_tensor.out_condition == pytest.approx(of_array.out_condition)
    assert of_tensor.out_gain == pytest.approx(of_array.out_gain)


def test_input_first_swaps_the_sides() -> None:
    weight = WEIGHTS["w0"]
    turned = np.ascontiguousarray(weight.swapaxes(0, 1))
    straight = layer_indicators({"w": weight})["w"]
    swapped = layer_indicators({"w": turned}, input_first=["w"])["w"]
    assert (swapped.out_count, swapped.in_count) == (straight.out_count, straight.in_count)
    assert straight.out_count != straight.in_count
    assert swapped.in_condition == pytest.approx(straight.in_condition)


@pytest.mark.parametrize("factor", [1e-200, 1e-30, 1e30, 1e200])
def test_the_size_of_weights_does_not_matter(factor: float) -> None:
    plain, scaled = layer_indicators({"a": WEIGHTS["w7"], "b": WEIGHTS["w7"] * factor}).values()
    assert (scaled.out_count, scaled.in_count) == (plain.out_count, plain.in_count) == (2, 0)
    assert scaled.out_condition == pytest.approx(plain.out_condition)
    wanted = plain.out_noise_variance * factor * factor
    assert scaled.out_noise_variance == pytest.approx(wanted, rel=1e-9, abs=0.0)


def broken(value: float) -> NDArray[np.float64]:
    weight = WEIGHTS["w7"].copy()
    weight[3, 1, 2, 2] = value
    return weight


HOLLOW = {
    "zero": np.zeros((8, 4, 3, 3)),
    "nan": broken(math.nan),
    "inf": broken(math.inf),
    "minus inf": broken(-math.inf),
    "no channels": np.zeros((0, 4, 3, 3)),
    "no inputs": np.zeros((4, 0, 1, 1)),
}
RANKLESS = {
    "one weight": np.full((1, 1, 1, 1), 3.0),
    "scalar": np.array(2.0),
    "vector": np.arange(5.0),
    "constant": np.full((8, 4, 3, 3), 0.7),
    "constant, pointwise": np.full((8, 8, 1, 1), -0.1),
    "noiseless rank 2": np.outer(np.arange(8.0), np.ones(9)) + np.outer(np.ones(8), np.arange(9.0)),
}


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("name", HOLLOW)
def test_weights_that_hold_nothing(library: str, name: str) -> None:
    weight = HOLLOW[name]
    given_weight = weight if library == "numpy" else torch.from_numpy(weight)
    assert layer_indicators({"w": given_weight})["w"] == NOTHING


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("name", RANKLESS)
def test_weights_without_noise_have_rank_zero(library: str, name: str) -> None:
    weight = RANKLESS[name]
    found = layer_indicators({"w": weight if library == "numpy" else torch.from_numpy(weight)})["w"]
    assert (found.out_rank, found.out_condition, found.out_gain) == (0.0, 1.0, 0.0)
    assert (found.in_rank, found.in_condition, found.in_gain) == (0.0, 1.0, 0.0)
    assert found.out_noise_variance == pytest.approx(float(np.mean(np.square(weight, dtype=float))))


def test_one_output_channel_has_rank_zero_there() -> None:
    found = layer_indicators({"w": np.random.default_rng(1).standard_normal((1, 16, 3, 3))})["w"]
    assert (found.out_rank, found.out_condition) == (0.0, 1.0)


@settings(deadline=None, max_examples=150)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=1, max_dims=4, max_side=7),
        elements=st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0]),
    )
)
def test_no_weight_raises(weight: NDArray[np.float32]) -> None:
    found = layer_indicators({"w": weight})["w"]
    for rank, condition, gain in (
        (found.out_rank, found.out_condition, found.out_gain),
        (found.in_rank, found.in_condition, found.in_gain),
    ):
        assert 0 <= gain <= rank <= 1
        assert 1 <= condition < math.inf


def test_layers_come_back_in_their_order() -> None:
    weights = {"b": WEIGHTS["w7"], "nothing": HOLLOW["zero"], "a": WEIGHTS["w8"]}
    assert list(layer_indicators(weights)) == ["b", "nothing", "a"]
    assert layer_indicators({}) == {}


def test_arrays_are_measured_without_torch() -> None:
    code = (
        "import sys, numpy as np; from conet_graph.indicators import layer_indicators;"
        "print(layer_indicators({'w': np.eye(8) + np.arange(64.0).reshape(8, 8)})['w'].out_count);"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"
