"""How far two outputs may lie apart that should be equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from conet_graph.ir.graph import Graph
from conet_graph.verification.inputs import nudged
from conet_graph.verification.pair import ComparedRun, OpenPair, named, run_original
from conet_graph.verification.runtime import open_session

# Largest difference, as a share of the reference's largest magnitude.
TOLERANCE = 1e-4
# Half floats keep 11 bits, and rounding in another order of sums shows; quantised activations jump by a
# step of 1/255 of their range when a sum falls on the other side of a rounding border.
HALF_TOLERANCE = 2e-2
QUANTISED_TOLERANCE = 5e-2

# A larger tolerance than this, or than twice the network's own, would hide faults: it proves nothing.
LARGEST_TOLERANCE = 1e-2
# An output that moves by less than this share of itself when the input changes tells nothing either.
LEAST_RESPONSE = 1e-2
# How often the reference is run on nudged inputs to see what rounding does.
NUDGES = 4
# ONNX Runtime computes a sigmoid as 0.5 + p / q: to a few steps of floats near 0.5, however small it is.
SIGMOID_STEPS = 2.0**-22
_SHAPES_ONLY = frozenset(
    ["Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"]
) | {"Unsqueeze"}
# Numbers that are compared at once: few enough to stay in the cache.
BLOCK = 2**16


def tolerance(graph: Graph) -> float:
    """The tolerance of a network, by the types of number in it."""
    types = {c.tensor.data_type for c in graph.constants.values()} | set(graph.dtypes.values())
    if any(
        op.op_type.startswith(("Quantize", "QLinear", "DynamicQuantize", "Quant")) for op in graph.operators
    ):
        return QUANTISED_TOLERANCE
    if types & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}:
        return HALF_TOLERANCE
    return TOLERANCE


def proves(allowed: float, response: float, base: float) -> bool:
    """Whether agreement within ``allowed`` says anything of a value that moves by ``response``."""
    return surely_equal(allowed, base) and response >= max(LEAST_RESPONSE, 2 * allowed)


def surely_equal(allowed: float, base: float) -> bool:
    """Whether agreement within ``allowed`` is close enough to say anything at all."""
    return allowed <= max(LARGEST_TOLERANCE, 2 * base)


def difference(want: Any, have: Any) -> float:
    """Largest difference of two outputs, as a share of the first one's largest magnitude.

    Infinite where the shapes or the places of what is not finite differ; 0 for what are no numbers.
    """
    if not isinstance(want, np.ndarray) or want.dtype.kind not in "fiub":
        return 0.0
    if not isinstance(have, np.ndarray) or want.shape != have.shape:
        return float("inf")
    left, right = np.ravel(want), np.ravel(have)
    top = apart = 0.0
    for start in range(0, left.size, BLOCK):
        a, b = (side[start : start + BLOCK].astype(np.float64) for side in (left, right))
        finite = np.isfinite(a)
        if not np.array_equal(finite, np.isfinite(b)):
            return float("inf")
        if not finite.all():
            a, b = a[finite], b[finite]
        top = max(top, float(np.abs(a).max(initial=0.0)))
        apart = max(apart, float(np.abs(a - b).max(initial=0.0)))
    return apart / (top if top > 1e-30 else 1.0)


class Rounding:
    """What rounding does to the reference's outputs: measured on one run, once it is asked for.

    A sigmoid near zero, or a sum that cancels, magnifies the last bits of float arithmetic; two equal
    networks that add in another order then differ by as much. What the same network shows when its input
    moves by a millionth, or when ONNX Runtime fuses its operators, is no error.
    """

    def __init__(self, graph: Graph, pair: OpenPair, run: ComparedRun) -> None:
        self.graph, self.pair, self.run = graph, pair, run
        self._spread: dict[str, float] | None = None
        self.repeats = True

    def spread(self, name: str) -> float:
        """How much an output moves, as a share of its largest magnitude."""
        if self._spread is None:
            self._spread = self._measured()
        return max(self._spread.get(name, 0.0), self._steps(name))

    def _measured(self) -> dict[str, float]:
        found = dict.fromkeys(self.run.outputs, 0.0)
        again = run_original(self.pair.reference, self.run.feeds)
        for name, value in named(self.pair.reference, again).items():
            if difference(self.run.outputs[name], value) > TOLERANCE:
                self.repeats = False
        for seed in range(NUDGES):
            moved = run_original(self.pair.reference, nudged(self.run.feeds, seed + 1))
            self._note(found, named(self.pair.reference, moved))
        try:
            fused = open_session(self.pair.reference_file.path, fused=True)
            self._note(found, named(fused, run_original(fused, self.run.feeds)))
        except Exception:
            return found  # ONNX Runtime's fusions do not take every network that it runs
        return found

    def _note(self, found: dict[str, float], outputs: dict[str, Any]) -> None:
        for name, value in outputs.items():
            found[name] = max(found[name], difference(self.run.outputs[name], value))

    def _steps(self, name: str) -> float:
        """The steps in which a sigmoid's results come, as a share of the largest."""
        value = self.run.outputs[name]
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not self._from_sigmoid(name):
            return 0.0
        top = float(np.abs(value.astype(np.float64)).max(initial=0.0))
        return SIGMOID_STEPS / top if top > 0 else 0.0

    def _from_sigmoid(self, name: str) -> bool:
        pending, seen = [name], set[str]()
        while pending:
            op = self.graph.producers.get(pending.pop())
            if op is None or op.outputs[0] in seen:
                continue
            seen.add(op.outputs[0])
            if op.op_type == "Sigmoid":
                return True
            if op.op_type in _SHAPES_ONLY:
                pending.extend(op.inputs)
        return False
