"""The operator tests that come with onnx itself: those that the bridge has converters for."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from conet_graph.bridge.converters import CONVERTERS

# What PyTorch computes with; the others are storage formats.
PLAIN = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
# These draw other numbers each time.
DRAWN = {f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")}
RANDOM = {"Bernoulli", "Multinomial", *DRAWN}


def _cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        every = collect_testcases(None)
    assert CONVERTERS
    known = {name for domain, name in CONVERTERS if not domain} - RANDOM
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


def with_constants(model: onnx.ModelProto, given: list[Any]) -> onnx.ModelProto:
    """The model with all inputs but the first as initializers: what exporters write."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for declared, array in list(zip(model.graph.input, given, strict=True))[1:]:
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), declared.name))
    del made.graph.input[1:]
    return made
