"""The proof: which values of two networks agree, and whether that proves anything."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.dead_channels.find import is_constant
from conet_graph.ir.errors import shown
from conet_graph.ir.graph import Graph, read_inside
from conet_graph.passes.channels.distinct import distinct
from conet_graph.passes.classify_edges import LAYERS, Layer
from conet_graph.passes.shapes.constant_values import value_of
from conet_graph.verification.pair import Agreement, ComparedRun, OpenPair
from conet_graph.verification.report import Report
from conet_graph.verification.runtime import first_line
from conet_graph.verification.tolerance import Rounding, difference, proves, surely_equal, tolerance

# Elements of a value that are looked at, and different ones among them, to tell a result from a decision.
SAMPLE = 256
LEAST_VALUES = 8


class Proof:
    """Compares values, and keeps account of the layers that stand behind one that proves something.

    A value that is empty, constant or lost in rounding agrees with anything. So a value counts only once it
    was seen to move with the input by more than it may differ; the networks are equal when nothing differs
    and every layer leads to such a value. ``alone`` holds the numbers of operators for which only their own
    value speaks, and through which nothing speaks for what stands before them.

    A layer whose weights are all zero lets nothing move. Where it gives the same with noise in what it reads,
    the new weights are zero as well.
    """

    def __init__(self, graph: Graph, report: Report, alone: set[int], *, compares: bool) -> None:
        self.graph, self.report, self.alone, self.compares = graph, report, alone, compares
        self.base = tolerance(graph)
        self.proven: set[str] = set()
        self.noisy = False
        self._unproven: dict[int, Layer] = {layer.op.index: layer for layer in graph.result(LAYERS)}

    def look(self, pair: OpenPair, run: ComparedRun) -> None:
        """Run the rewritten network as the reference was run, and compare."""
        try:
            found = pair.run_rewritten(run.feeds)
        except Exception as error:
            self.report.fail(f"ONNX Runtime does not run it: {first_line(error)}")
            return
        run.found.update(found)
        if not self.compares:
            for name, want in run.outputs.items():
                if isinstance(want, np.ndarray):
                    self._note(Agreement(difference(want, found[name]), self.base, 0.0))  # to be told only
            return
        rounding = Rounding(self.graph, pair, run)
        for name, want in run.outputs.items():
            if isinstance(want, np.ndarray):
                self._compare(name, pair.narrowed(name, want), found[name], run, rounding)
        self._accept_zero_weights(pair, run)

    def _compare(self, name: str, want: Any, have: Any, run: ComparedRun, rounding: Rounding) -> None:
        """Compare one value; a difference counts beyond four times what rounding does."""
        apart = difference(want, have)
        spread = rounding.spread(name) if apart > self.base else 0.0
        if not rounding.repeats:
            self.noisy = True
            return
        found = Agreement(apart, max(self.base, 4 * spread), spread)
        if apart <= found.allowed:
            run.agreed[name] = found
            return
        self.report.equality = "failed"
        what = f"{'output' if name in self.graph.outputs else 'value'} {shown(name)}"
        if isinstance(have, np.ndarray) and want.shape != have.shape:
            self.report.fail(f"{what} has the shape {list(have.shape)}, not {list(want.shape)}")
            return
        self._note(found)
        self.report.fail(f"{what} differs by {apart:.2g} of its largest value")

    def _note(self, found: Agreement) -> None:
        """Put a value that counts into the report; JSON knows no infinity."""
        largest = max(self.report.largest_difference or 0.0, found.apart)
        self.report.largest_difference = min(largest, sys.float_info.max)
        self.report.sensitivity = min(max(self.report.sensitivity, found.spread), sys.float_info.max)

    def accept(self, run: ComparedRun, responses: Mapping[str, float]) -> None:
        """Count the values of a run that moved enough (``responses``: as shares of their largest)."""
        for name, response in responses.items():
            found = run.agreed.get(name)
            if found is None or name in self.proven or not proves(found.allowed, response, self.base):
                continue
            if _in_few_steps(run.outputs[name]):
                continue
            self.proven.add(name)
            self._note(found)
            self._cover(name)

    def _accept_zero_weights(self, pair: OpenPair, run: ComparedRun) -> None:
        """Count the layers without any weight but zero that gave the same, and had noise put before them."""
        for layer in self.missing():
            name, found = layer.op.outputs[0], run.agreed.get(layer.op.outputs[0])
            if layer.op.index not in pair.noisy or found is None:
                continue
            if not surely_equal(found.allowed, self.base):
                continue
            weight = value_of(self.graph, layer.op.input(layer.weight_slot))
            if weight is not None and not weight.any():
                self.proven.add(name)
                self._note(found)
                self._unproven.pop(layer.op.index)

    def _cover(self, name: str) -> None:
        """Take off the layers that a value depends on."""
        pending, seen = [name], set[int]()
        while pending:
            op = self.graph.producers.get(pending.pop())
            if op is None or op.index in seen:
                continue
            seen.add(op.index)
            if name not in op.outputs and is_constant(self.graph, op.outputs[0]):
                continue  # a product with zero, say, does not depend on what it is made of
            if op.index in self.alone and name not in op.outputs:
                continue
            self._unproven.pop(op.index, None)
            pending += op.inputs
            if op.subgraphs():
                pending += read_inside(op.proto)

    def missing(self) -> list[Layer]:
        """The layers that nothing speaks for yet."""
        return list(self._unproven.values()) if self.compares and not self.noisy else []

    def conclude(self) -> None:
        """Say what the comparison came to."""
        self.report.intermediate = len(self.proven - set(self.graph.outputs))
        if not self.report.ok or not self.compares:
            return
        left = self.missing()
        if self.noisy:
            self.report.equality = "not checked: two runs of the original on the same inputs differ"
        elif left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            name = shown(left[0].op.name)
            self.report.equality = f"not checked: no input tried shows what {name}{more} computes"
        else:
            self.report.equality = "passed"


def _in_few_steps(value: NDArray[Any]) -> bool:
    """Whether a value is a position or a yes or no, or looks like one: it hides what it is made of."""
    if value.dtype == np.int64 or value.dtype.kind == "b":
        return True
    step = max(1, value.size // SAMPLE) | 1  # odd, so that it does not stay on one pixel of each map
    some = value.reshape(-1)[::step][:SAMPLE]
    few = len(distinct(some)) < min(LEAST_VALUES, (len(some) + 1) // 2)
    return few and np.array_equal(some, np.round(some))


def between_images(run: ComparedRun, batch: int) -> dict[str, float]:
    """How far the outputs for two images lie apart, where the first axis counts images."""
    if batch != 2 or any(value.shape[:1] != (2,) for value in run.feeds.values()):
        return {}
    return {
        name: difference(value[0], value[1])
        for name, value in run.outputs.items()
        if isinstance(value, np.ndarray) and value.shape[:1] == (2,)
    }


def moved(run: ComparedRun, other: ComparedRun) -> dict[str, float]:
    """How far each output lies from what another input gives."""
    return {
        name: difference(value, other.outputs[name])
        for name, value in run.outputs.items()
        if isinstance(value, np.ndarray)
    }
