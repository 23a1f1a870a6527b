"""Shape inference that aborts ends its own process, and is told in a sentence."""

from __future__ import annotations

import sys

import onnx
import pytest
from onnx import shape_inference

from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.inference import infer
from tests.helpers.golden_text import filled

SLICED = """<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => (float[1,2,h,w] y)
<float[2,3,3,3] w, int64[1] start = {0}, int64[1] end = {4}, int64[1] axis = {2}> {
    c = Conv<dilations = [DILATION, 1]>(x, w)
    y = Slice(c, start, end, axis)
}"""


def sliced(dilation: int) -> onnx.ModelProto:
    return filled(SLICED.replace("DILATION", str(dilation)))


def test_a_network_with_slices_is_inferred_as_by_onnx() -> None:
    assert infer(sliced(2)) == shape_inference.infer_shapes(sliced(2), data_prop=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="onnx's Linux builds abort")
def test_an_abort_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidModel, match="onnx itself crashes on it"):
        infer(sliced(127))
    assert capfd.readouterr() == ("", "")


def test_what_strict_inference_says_comes_through() -> None:
    model = sliced(1)
    model.graph.node[1].input[3] = "w"
    infer(model)
    with pytest.raises(shape_inference.InferenceError, match="Slice"):
        infer(model, strict=True)
