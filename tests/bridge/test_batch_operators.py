"""Every operator on three images at once beside the same module on each of them alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from bridge_case import in_torch, largest_difference
from operator_cases import CASES, with_constants

from conet_graph.bridge import batches, to_torch
from conet_graph.bridge.batch import batching
from conet_graph.bridge.batch.held import Held
from conet_graph.bridge.batch.inputs import input_batches
from conet_graph.bridge.batch.seen import Direct
from conet_graph.ir.errors import ConetGraphError
from conet_graph.ir.load import from_proto
from conet_graph.passes import structured

# Cases of one operator.
MOST = 3
Given = tuple[str, onnx.ModelProto, list[Any]]


def given() -> Iterator[Given]:
    """Name, model and inputs of some cases of each operator: all inputs given, and the first one only."""
    seen: dict[str, int] = {}
    for case in CASES:
        kind = case.model.graph.node[0].op_type
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= MOST:
            arrays = [np.asarray(a) for a in case.data_sets[0][0]]
            yield case.name, case.model, arrays
            yield f"{case.name}, constants", with_constants(case.model, arrays), arrays[:1]


def rolled(array: np.ndarray[Any, Any], number: int) -> np.ndarray[Any, Any]:
    """Another image of the same numbers: indices stay in range."""
    return np.roll(array.reshape(-1), 7 * number).reshape(array.shape)


def off(model: onnx.ModelProto, arrays: list[Any]) -> float | None:
    """How far three images at once are from each alone; None where the form is not converted."""
    try:
        module = to_torch(from_proto(model), check=False)
    except ConetGraphError:
        return None
    graph = structured(from_proto(model))
    held = input_batches(graph)
    if held is None or len(graph.inputs) != len(arrays):
        return None
    first = dict(zip(graph.inputs, arrays, strict=True))
    images = [{n: rolled(a, k) if n in held else a for n, a in first.items()} for k in range(3)]
    try:
        alone = [in_torch(module, feeds) for feeds in images]
    except (IndexError, RuntimeError):
        return None  # other numbers are no sizes here
    if len({tuple(part.shape for part in outputs) for outputs in alone}) > 1:
        return None  # nor have the images one shape
    joined = {
        n: np.concatenate([i[n] for i in images], held[n].axis or 0) if n in held else a
        for n, a in first.items()
    }
    wanted = [
        parts[0] if axis is None else np.concatenate([np.atleast_1d(p) for p in parts], axis)
        for axis, parts in zip(batches(module).output_axes, zip(*alone, strict=True), strict=False)
    ]
    with np.errstate(invalid="ignore"):
        return largest_difference(in_torch(module, joined), wanted)


def wrong_ones() -> tuple[list[str], int]:
    """What came out otherwise, and how many were looked at."""
    wrong, looked_at = [], 0
    for name, model, arrays in given():
        try:
            found = off(model, arrays)
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
            continue
        looked_at += found is not None
        if found is not None and found > 1e-4:
            wrong.append(f"{name}: {found}")
    return wrong, looked_at


def test_operators_give_each_image_what_it_gets_alone() -> None:
    wrong, looked_at = wrong_ones()
    assert not wrong, "\n".join(wrong)
    assert looked_at > 500


def test_a_wrong_rule_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in CASES if c.name == "test_softmax_axis_0")
    monkeypatch.setitem(batching.RULES, ("", "Softmax"), lambda seen: Direct({0: Held(0, 3)}, Held(0, 3)))
    found = off(case.model, [np.asarray(a) for a in case.data_sets[0][0]])
    assert found is not None
    assert found > 1e-2
