"""Fourier transforms, and outputs that no input reaches, in PyTorch beside ONNX Runtime, for any batch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from bridge_case import difference, in_runtime, in_torch, largest_difference
from golden_text import parsed

from conet_graph.bridge import to_torch
from conet_graph.ir.load import from_proto

FORMS = {
    "opset 17, half there, whole back": (17, "DFT<axis=2,onesided=1>(s)", "DFT<axis=2,inverse=1>(f)"),
    "opset 20, half there, whole back": (20, "DFT<onesided=1>(s, , at)", "DFT<inverse=1>(f, , at)"),
    "half both ways": (20, "DFT<onesided=1>(s, , at)", "DFT<inverse=1,onesided=1>(f, six, at)"),
    "whole, longer": (20, "DFT(s, eight, at)", "DFT<inverse=1>(f, , at)"),
}


def image(seed: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2, 6, 5)).astype(np.float32)


def of_three_images(model: onnx.ModelProto) -> float:
    """How far three images at once are from each of them alone in ONNX Runtime."""
    alone = [in_runtime(model, {"x": image(k)}) for k in range(3)]
    together = in_torch(to_torch(from_proto(model)), {"x": np.concatenate([image(k) for k in range(3)])})
    return largest_difference(together, [np.concatenate(parts) for parts in zip(*alone, strict=True)])


@pytest.mark.parametrize("kind", FORMS)
def test_fourier_transforms(kind: str) -> None:
    opset, there, back = FORMS[kind]
    net = parsed(
        f'<ir_version: 9, opset_import: ["": {opset}]>agraph (float[1,2,6,5] x) => (float[] y, float[] f)'
        "<int64 at = {-3}, int64 six = {6}, int64 eight = {8}, int64[1] last = {-1}>"
        f"{{s = Unsqueeze(x, last) f = {there} y = {back}}}"
    )
    assert difference(net, {"x": image(0)}) < 1e-5
    assert of_three_images(net) < 1e-5


def test_an_output_that_is_a_weight() -> None:
    """It takes part in the comparison of images, and no warning says otherwise."""
    net = parsed(
        "agraph (float[1,2,6,5] x) => (float[] y, float[4,2,1,1] w)<float[4,2,1,1] w>{y = Conv(x, w)}"
    )
    made, weight = to_torch(from_proto(net))(torch.from_numpy(image(0)))
    assert made.shape == (1, 4, 6, 5)
    assert weight.shape == (4, 2, 1, 1)
