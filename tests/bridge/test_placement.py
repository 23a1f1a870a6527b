"""On a GPU every operation has its tensors in one place, and sizes never make the processor wait."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from bridge_case import tensors
from corpus import files, needs_corpus
from onnx import parser
from pretended_gpu import on_pretended_gpu
from torch import nn

from conet_graph.bridge import to_torch, weights_by_name
from conet_graph.bridge.batch.report import BatchWarning
from conet_graph.ir.errors import Refused
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.verification.inputs import random_inputs
from conet_graph.verification.runtime import open_session

# A resize to half the size, as exporters write it out; a grid of positions and a constant made in the graph.
SIZES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,H,W] x) => (float[1,3,h,w] y, float[1,1,H,W] z)
<int64[1] start = {2}, int64[1] end = {4}, float half = {0.5}, int64 zero = {0}, int64 one = {1},
 int64[1] first = {0}, int64[4] flat = {1, 1, 1, -1}, int64[3] order = {2, 0, 1}, float two = {2.0}>
{
    shape = Shape (x)
    sides = Slice (shape, start, end, first)
    numbers = Cast <to: int = 1> (sides)
    smaller = Mul (numbers, half)
    whole = Cast <to: int = 7> (smaller)
    begun = Slice (shape, first, start, first)
    target = Concat <axis: int = 0> (begun, whole)
    resized = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",
        nearest_mode = "floor"> (x, , , target)
    turned = Gather <axis: int = 1> (resized, order)
    y = Mul (turned, half)
    width = Gather (shape, two_whole)
    counted = Range (zero, width, one)
    places = Cast <to: int = 1> (counted)
    row = Reshape (places, flat)
    filled = ConstantOfShape (sides)
    halves = Mul (filled, half)
    flipped = ReduceMean <axes = [1], keepdims = 1> (x)
    moved = Add (flipped, row)
    scaled = Mul (moved, two)
    z = Sub (scaled, halves)
}"""


def sizes_network() -> LoadedModel:
    proto = parser.parse_model(SIZES)
    proto.graph.initializer.append(onnx.helper.make_tensor("two_whole", 7, [], [3]))
    return LoadedModel(proto)


def outputs_alike(module: nn.Module, arguments: list[torch.Tensor]) -> None:
    with torch.no_grad():
        usual = module.eval()(*arguments)
    there = on_pretended_gpu(module, arguments)
    for one, other in zip(usual if isinstance(usual, tuple) else (usual,), there, strict=True):
        assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def test_sizes_stay_on_the_processor_and_data_on_the_gpu() -> None:
    module = to_torch(sizes_network())
    for height, width in ((4, 6), (8, 2)):
        x = torch.randn(1, 3, height, width)
        outputs_alike(module, [x])
        resized, shifted = module(x)
        assert torch.equal(resized, 0.5 * x[:, [2, 0, 1], ::2, ::2])
        positions = torch.arange(width, dtype=torch.float32)
        assert torch.allclose(shifted, 2 * (x.mean(1, keepdim=True) + positions))


def test_numbers_of_sizes_are_still_found_by_name() -> None:
    found = weights_by_name(to_torch(sizes_network()))
    assert (float(found["half"]), float(found["two"])) == (0.5, 2.0)


def test_sizes_that_go_into_a_layer_are_brought_to_its_weights() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3] x) => (float[N,3] y)
    <float[2,3] w = {1, 2, 3, 4, 5, 6}, float[3] b = {0, 0, 1}, int64[2] row = {1, 2}>
    {
        shape = Shape (x)
        numbers = Cast <to: int = 1> (shape)
        flat = Reshape (numbers, row)
        weighted = Gemm (flat, w, b)
        y = Add (x, weighted)
    }"""
    with pytest.warns(BatchWarning, match="follows the file"):  # what it adds counts the images
        module = to_torch(LoadedModel(parser.parse_model(text)))
    x = torch.randn(2, 3)
    outputs_alike(module, [x])
    expected = torch.tensor([2.0, 3.0]) @ torch.tensor([[1.0, 2, 3], [4, 5, 6]]) + torch.tensor([0.0, 0, 1])
    assert torch.allclose(module(x) - x, expected, atol=1e-5)


class Mixing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.ones(2)])


class Waiting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(int(x.sum()), -1)


class Right(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.ones(2, device=x.device), torch.zeros(1).to(x.device)])


def test_the_pretended_gpu_notices_what_a_real_one_refuses() -> None:
    with pytest.raises(AssertionError, match="two places"):
        on_pretended_gpu(Mixing(), [torch.ones(2)])
    with pytest.raises(AssertionError, match="waits for the GPU"):
        on_pretended_gpu(Waiting(), [torch.ones(2)])
    (made,) = on_pretended_gpu(Right(), [torch.ones(2)])
    assert made.tolist() == [1, 1, 1, 1, 0]


@needs_corpus
@pytest.mark.parametrize("path", files("open", "exports"), ids=lambda p: p.stem)
def test_real_networks(path: Path) -> None:
    try:
        module = to_torch(load_model(path))
    except Refused:
        pytest.skip("it has no form in PyTorch")
    feeds = random_inputs(open_session(path, "CPUExecutionProvider", fused=False), 1, 64)
    outputs_alike(module, tensors(feeds))
