"""The operator tests that come with onnx itself, computed in PyTorch."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from conet_graph.bridge import converters, to_torch
from conet_graph.bridge.registry import CONVERTERS
from conet_graph.ir.errors import Refused
from conet_graph.ir.load import from_proto

# What PyTorch computes with; the others are storage formats.
PLAIN = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
# Forms that are refused by name, and how many cases of onnx have them: fewer is welcome.
ALLOWED_REFUSALS = {
    "gives its statistics as outputs": 21,
    "needs its input": 16,
    "averages with dilations": 6,
    "gives its mask as an output": 5,
    "uses the element type": 40,
    "has lengths of its sequences": 4,
    "is an LpPool with": 3,
    "gives the positions of its maxima": 2,
    "writes to several coordinates": 3,
    "quantises to the element type": 8,
    "is quantised in blocks": 4,
    "takes maxima of regions": 1,
    "is declared with a size of 0": 16,
}
# ONNX Runtime and PyTorch agree on these, against the expectation that is shipped with onnx.
ELSEWHERE = {
    "test_resize_downsample_scales_linear_align_corners",  # lengths are whole numbers there
    "test_resize_downsample_scales_cubic_align_corners",
    "test_training_dropout",  # a module decides by its own mode whether it trains
    "test_training_dropout_default",
}


def _cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        every = collect_testcases(None)
    assert converters.FAMILIES
    known = {name for domain, name in CONVERTERS if not domain}
    return [c for c in every if _is_plain(c) and {n.op_type for n in c.model.graph.node} <= known]


def _is_plain(case: Any) -> bool:
    if case.model.functions or any(o.domain for o in case.model.opset_import):
        return False
    return all(
        isinstance(a, (np.ndarray, np.generic)) and np.asarray(a).dtype.name in PLAIN
        for given in case.data_sets[0]
        for a in given
    )


CASES = _cases()


def _with_constants(model: onnx.ModelProto, given: list[Any]) -> onnx.ModelProto:
    """The model with all inputs but the first as initializers: what exporters write."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for declared, array in list(zip(model.graph.input, given, strict=True))[1:]:
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), declared.name))
    del made.graph.input[1:]
    return made


def _result(case: Any) -> str:
    """'' where the module gives what is expected, else what is wrong."""
    given, expected = case.data_sets[0]
    try:
        module, arguments = to_torch(from_proto(case.model)), given
    except Refused:
        module, arguments = to_torch(from_proto(_with_constants(case.model, given))), given[:1]
    tensors = [torch.from_numpy(np.array(a)) for a in arguments]
    with torch.no_grad():
        made = module.eval()(*[t.float() if t.dtype == torch.float16 else t for t in tensors])
    for got, want in zip(made if isinstance(made, tuple) else (made,), expected, strict=False):
        array, wanted = got.numpy(), np.asarray(want)
        if array.shape != wanted.shape:
            return f"{case.name}: shape {array.shape}, not {wanted.shape}"
        # Some of the expectations are written by hand with four digits.
        close = {"rtol": 2e-3, "atol": 2e-3 if wanted.dtype == np.float16 else 1e-4}
        if not np.allclose(array.astype(np.float64), wanted.astype(np.float64), equal_nan=True, **close):
            return f"{case.name}: {array.reshape(-1)[:5]}, not {wanted.reshape(-1)[:5]}"
    return ""


def test_operators_of_onnx_own_tests() -> None:
    wrong: list[str] = []
    refused: dict[str, int] = {}
    for case in CASES:
        try:
            what = _result(case)
        except Exception as error:
            reason = next((r for r in ALLOWED_REFUSALS if r in str(error)), "")
            if not reason:
                wrong.append(f"{case.name}: {type(error).__name__}: {error}")
            refused[reason] = refused.get(reason, 0) + 1
            continue
        if what and case.name not in ELSEWHERE:
            wrong.append(what)
    assert not wrong, "\n".join(wrong)
    assert len(CASES) - sum(refused.values()) > 800
    over = {r: n for r, n in refused.items() if n > ALLOWED_REFUSALS[r]}
    assert not over


def test_a_wrong_converter_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in CASES if c.name == "test_relu")
    monkeypatch.setitem(CONVERTERS, ("", "Relu"), lambda site: site.call(torch.abs, site.x(0)))
    assert _result(case).startswith("test_relu: ")
