"""What real exporters leave behind: each trap in a file that torch wrote a moment ago.

Every test first asserts that the trap is in the file, so that none passes because an exporter changed.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import golden_text
import onnx
import pytest
import torch
from torch import nn

from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.tie_channels import CHANNELS, Channels


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def exported(module: nn.Module, dynamo: bool, free_batch: bool = True) -> onnx.ModelProto:
    """A module as the TorchScript-based or the dynamo-based exporter writes it."""
    image = torch.zeros(2, 3, 8, 8)
    options: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    if dynamo:
        shapes = ({0: torch.export.Dim("N")},) if free_batch else None
        program = torch.onnx.export(
            module.eval(), (image,), dynamo=True, verbose=False, dynamic_shapes=shapes, **options
        )
        assert program is not None
        return program.model_proto
    file = io.BytesIO()
    if free_batch:
        options["dynamic_axes"] = {"x": {0: "N"}}
    torch.onnx.export(module.eval(), (image,), file, dynamo=False, do_constant_folding=False, **options)
    return onnx.load_from_string(file.getvalue())


def solved(model: onnx.ModelProto) -> tuple[Graph, Channels]:
    """The analysed graph, which still computes what the file did."""
    graph = analysed(LoadedModel(onnx.ModelProto.FromString(model.SerializeToString())))
    golden_text.assert_same_meaning(model, golden_text.as_model(graph))
    return graph, graph.result(CHANNELS)


def free_widths(channels: Channels) -> list[int]:
    return [group.width for group in channels.groups if group.free]


def op_types(graph: Graph) -> Counter[str]:
    return Counter(op.op_type for op in graph.operators)


class Stack(nn.Module):
    """Three convolutions whose biases are equal, with a norm behind the first."""

    def __init__(self, bias: float, norm: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 8, 1)
        self.d = nn.Conv2d(8, 4, 1)
        for layer in (self.a, self.b, self.c):
            assert layer.bias is not None
            nn.init.constant_(layer.bias, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.a(x)))
        return self.d(torch.relu(self.c(torch.relu(self.b(x)))))


def test_equal_vectors_behind_identity_nodes_tie_nothing() -> None:
    model = exported(Stack(bias=0.0, norm=True), dynamo=False)
    weights = {t.name for t in model.graph.initializer}
    copies = [n for n in model.graph.node if n.op_type == "Identity" and n.input[0] in weights]
    assert len(copies) >= 3, "the exporter no longer stores equal vectors once"

    graph, channels = solved(model)
    assert free_widths(channels) == [8, 8, 8]
    assert op_types(graph)["Identity"] == 0


def test_equal_biases_as_one_initializer_tie_nothing() -> None:
    model = exported(Stack(bias=0.5, norm=False), dynamo=True)
    biases = [n.input[2] for n in model.graph.node if n.op_type == "Conv"]
    assert len(set(biases[:3])) == 1, "the exporter no longer shares equal biases"

    _, channels = solved(model)
    assert free_widths(channels) == [8, 8, 8]


class Normed(nn.Module):
    """GroupNorms alike: the exporter shares their scales, and the numbers of their Reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.n1 = nn.GroupNorm(2, 8)
        self.b = nn.Conv2d(8, 8, 1)
        self.n2 = nn.GroupNorm(2, 8)
        self.c = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.n2(self.b(torch.relu(self.n1(self.a(x)))))))


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_shared_scales_and_reshape_targets_tie_nothing(dynamo: bool) -> None:
    model = exported(Normed(), dynamo, free_batch=False)
    used = Counter(name for n in model.graph.node for name in n.input)
    weights = {t.name for t in model.graph.initializer}
    assert any(used[name] > 1 for name in weights), "the exporter no longer shares equal tensors"

    _, channels = solved(model)
    assert free_widths(channels) == [8, 8]
    # Two groups of channels are normalised apart: they change together.
    assert [g.multiple for g in channels.groups if g.free] == [2, 2]


class Flat(nn.Module):
    """A classifier behind ``view(size(0), -1)``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.fc = nn.Linear(8 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        return self.fc(x.view(x.size(0), -1))


def test_computed_flatten_target_becomes_a_constant() -> None:
    model = exported(Flat(), dynamo=False)
    found = Counter(node.op_type for node in model.graph.node)
    assert {"Shape", "Gather", "Concat"} <= set(found), "the target is not computed"

    graph, channels = solved(model)
    assert op_types(graph) == Counter(["Conv", "Relu", "Reshape", "Gemm"])
    reshape = next(op for op in graph.operators if op.op_type == "Reshape")
    assert graph.array(reshape.input(1)).tolist() == [0, -1]
    assert free_widths(channels) == [8]


class Shuffle(nn.Module):
    """A channel shuffle as people write it, with sizes read off the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.b(x)


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_channel_shuffle_with_a_free_batch(dynamo: bool) -> None:
    model = exported(Shuffle(), dynamo)
    if not dynamo:
        assert any(node.op_type == "Shape" for node in model.graph.node)

    graph, channels = solved(model)
    assert op_types(graph) == Counter(["Conv", "Reshape", "Transpose", "Reshape", "Conv"])
    assert free_widths(channels) == [8]
    # Both halves keep the same size, or the shuffle would no longer be one.
    assert channels.groups[0].multiple == 2


class Decoded(nn.Module):
    """Weights that stand in the file as Constant nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        offset = torch.arange(8, dtype=torch.float32).reshape(1, 8, 1, 1)
        return self.b(torch.relu(self.a(x) + offset))


def test_constant_nodes_are_weights_like_others() -> None:
    file = io.BytesIO()
    torch.onnx.export(Decoded().eval(), (torch.zeros(2, 3, 8, 8),), file, dynamo=False, export_params=True)
    model = onnx.load_from_string(file.getvalue())
    assert any(node.op_type == "Constant" for node in model.graph.node), "there is no Constant node"

    graph, channels = solved(model)
    assert op_types(graph)["Constant"] == 0
    assert free_widths(channels) == [8]
    # The offset has an entry for each channel: it changes with them.
    add = next(op for op in graph.operators if op.op_type == "Add")
    offset = next(name for name in add.inputs if name in graph.constants)
    assert (offset, 1, 8) in channels.groups[0].places


class Tied(nn.Module):
    """One convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.twice = nn.Conv2d(8, 8, 1)
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.twice(self.a(x)))
        return self.b(torch.relu(self.twice(x)))


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_a_weight_matrix_used_by_two_layers_stays_tied(dynamo: bool) -> None:
    model = exported(Tied(), dynamo)
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    assert weights[1] == weights[2], "the exporter no longer shares the weight"

    graph, channels = solved(model)
    assert free_widths(channels) == [8]
    kept = [op.input(1) for op in graph.operators if op.op_type == "Conv"]
    assert kept[1] == kept[2]
    group = channels.groups[0]
    assert [layer.op.index for layer in group.producers] == [
        op.index for op in graph.operators if op.op_type == "Conv"
    ][:3]
