"""The operator tests that come with onnx itself, computed in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from bridge_case import in_torch
from operator_cases import CASES, with_constants
from pretended_gpu import on_pretended_gpu

from conet_graph.bridge import to_torch
from conet_graph.bridge.converters import CONVERTERS
from conet_graph.ir.errors import Refused
from conet_graph.ir.load import from_proto

# Forms that are refused by name.
REFUSED = (
    "gives its statistics as outputs",
    "needs its input",
    "averages with dilations",
    "gives its mask as an output",
    "uses the element type",
    "has lengths of its sequences",
    "is an LpPool with",
    "gives the positions of its maxima",
    "puts blocks together that have not two axes",
    "writes to several coordinates",
    "quantises to the element type",
    "is quantised in blocks",
    "takes maxima of regions",
    "is declared with a size of 0",
    "keeps keys and values between runs",
)
# ONNX Runtime and PyTorch agree on these, against the expectation that is shipped with onnx.
ELSEWHERE = {
    "test_resize_downsample_scales_linear_align_corners",  # lengths are whole numbers there
    "test_resize_downsample_scales_cubic_align_corners",
    "test_maxunpool_export_with_output_shape",  # places are counted through the output that is asked for
    "test_training_dropout",  # a module decides by its own mode whether it trains
    "test_training_dropout_default",
}


def _result(case: Any) -> str:
    """'' where the module gives what is expected, else what is wrong."""
    given, expected = case.data_sets[0]
    try:
        module, arguments = to_torch(from_proto(case.model), check=False), given
    except Refused:
        module, arguments = to_torch(from_proto(with_constants(case.model, given)), check=False), given[:1]
    feeds = {str(number): np.asarray(a) for number, a in enumerate(arguments)}
    for array, want in zip(in_torch(module, feeds), expected, strict=False):
        wanted = np.asarray(want)
        if array.shape != wanted.shape:
            return f"{case.name}: shape {array.shape}, not {wanted.shape}"
        # Some of the expectations are written by hand with four digits.
        close = {"rtol": 2e-3, "atol": 2e-3 if wanted.dtype == np.float16 else 1e-4}
        if not np.allclose(array.astype(np.float64), wanted.astype(np.float64), equal_nan=True, **close):
            return f"{case.name}: {array.reshape(-1)[:5]}, not {wanted.reshape(-1)[:5]}"
    return ""


def test_operators_of_onnx_own_tests() -> None:
    wrong: list[str] = []
    refused = 0
    for case in CASES:
        try:
            what = _result(case)
        except Exception as error:
            refused += 1
            if not any(reason in str(error) for reason in REFUSED):
                wrong.append(f"{case.name}: {type(error).__name__}: {error}")
            continue
        if what and case.name not in ELSEWHERE:
            wrong.append(what)
    assert not wrong, "\n".join(wrong)
    assert refused < 120 < 900 < len(CASES)


def _on_gpu(model: onnx.ModelProto, given: list[Any]) -> str:
    """'' where the model runs on a GPU or is refused, else what is wrong."""
    try:
        module = to_torch(from_proto(model), check=False)
        on_pretended_gpu(module, [torch.from_numpy(np.array(a)) for a in given])
    except AssertionError as error:
        return str(error)
    except Exception:  # any: the test above has looked at it
        return "is refused"
    return ""


def test_operators_have_their_tensors_in_one_place() -> None:
    found: list[str] = []
    for case in CASES:
        given = case.data_sets[0][0]
        found += [_on_gpu(case.model, given), _on_gpu(with_constants(case.model, given), given[:1])]
    assert {what for what in found if "waits" not in what} == {"", "is refused"}
    # Sizes and scales that are an input of the network lie on the GPU.
    assert sum("waits" in what for what in found) < 100
    assert found.count("") > 1400


def test_a_wrong_converter_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in CASES if c.name == "test_relu")
    monkeypatch.setitem(CONVERTERS, ("", "Relu"), lambda site: site.call(torch.abs, site.x(0)))
    assert _result(case).startswith("test_relu: ")
