"""Small networks at other widths: analysed, planned, rewritten, verified, and looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.tie_channels import CHANNELS, Group
from conet_graph.rewriting.plans import Plan
from conet_graph.rewriting.rewriting import planned, rewritten
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from conet_graph.verification.report import Report
from conet_graph.verification.verification import verify


@dataclass(frozen=True)
class Rewidthed:
    """A rewritten network; nodes are named by their first output."""

    proto: onnx.ModelProto
    plan: Plan
    report: Report

    def arrays(self) -> dict[str, np.ndarray]:
        return {t.name: numpy_helper.to_array(t) for t in self.proto.graph.initializer}

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.arrays()[tensor].shape

    def node(self, output: str) -> onnx.NodeProto:
        return next(n for n in self.proto.graph.node if n.output[0] == output)

    def attr(self, output: str, name: str) -> Any:
        found = {a.name: helper.get_attribute_value(a) for a in self.node(output).attribute}
        return found[name]

    def numbers(self, output: str, slot: int) -> list[int]:
        """The integers at an input of a node."""
        return self.arrays()[self.node(output).input[slot]].tolist()

    def kept(self, tensor: str, axis: int) -> list[int]:
        """Old position of each new one on an axis."""
        return self.plan.tensors[tensor].axes[axis].tolist()


def graph_of(model: onnx.ModelProto) -> Graph:
    """The analysed graph of a copy of the model."""
    return analysed(LoadedModel(onnx.ModelProto.FromString(model.SerializeToString())))


def groups(model: onnx.ModelProto) -> list[Group]:
    channels = graph_of(model).result(CHANNELS)
    return channels.groups


def free(model: onnx.ModelProto) -> list[tuple[int, int]]:
    """Width and multiple of each free group, in order."""
    return [(g.width, g.multiple) for g in groups(model) if g.free]


def produced_by(model: onnx.ModelProto, weight: str) -> list[str]:
    """Ids of the groups on the output axis of a layer, in order of their channels."""
    graph = graph_of(model)
    channels = graph.result(CHANNELS)
    layer = next(x for x in graph.result(LAYERS) if x.op.input(x.weight_slot) == weight)
    return [g.id for g in channels.groups_on(channels.layer_axes[layer.op.index][1])]


def reason(model: onnx.ModelProto, weight: str) -> str:
    """Why the output channels of a layer are frozen."""
    found = [g for g in groups(model) if g.id in produced_by(model, weight)]
    assert found
    assert not any(g.free for g in found)
    return " ".join(str(g.reason) for g in found)


def rewidthed(model: onnx.ModelProto, exact: bool = True, **request: Any) -> Rewidthed:
    """Rewrite a network and verify it against the masked original (where it is wider, the original)."""
    graph = graph_of(model)
    # Any width, not only the multiples that runtimes like.
    copies = choose_copies(graph, WidthRequest(**{"multiple_of": 1, **request}))
    plan, layout = planned(graph, copies, "keep", False, 0)
    proto = rewritten(graph, plan, layout)
    report = verify(graph, proto, plan)
    require_equal(report, exact)
    return Rewidthed(proto, plan, report)


def require_equal(report: Report, exact: bool = True) -> None:
    """The network runs, and was compared where it can be equal."""
    assert report.ok, report.failures
    assert report.exact == exact, report.inexact_because
    assert [r for r in report.runs if "inputs" in r], report.runs
    if exact:
        assert report.equality == "passed"
