"""Lengths of weights read off a serialised model: those that protobuf itself tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from conet_graph.ir.check import load
from conet_graph.ir.errors import InvalidModel
from conet_graph.ir.load import load_model
from conet_graph.ir.raw_lengths import raw_lengths
from tests.graphs import GraphBuilder


def tensor(size: int, **fields: object) -> onnx.TensorProto:
    return onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[size], name="w", **fields)


def model(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph([], "g", [], [], list(tensors)))


def test_raw_data_of_every_length() -> None:
    sizes = [0, 1, 31, 32, 5000, 300_000]
    made = model(*[numpy_helper.from_array(np.zeros(n, np.float32), f"w{n}") for n in sizes])
    assert raw_lengths(made.SerializeToString()) == [4 * n for n in sizes]


def test_what_is_not_raw_data_alone_has_no_length() -> None:
    typed, doubled = tensor(2, float_data=[1.0, 2.0]), tensor(1, float_data=[1.0], raw_data=b"1234")
    outside = tensor(1, data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="w.bin")
    described = tensor(1, raw_data=b"1234", doc_string="a weight")
    assert raw_lengths(model(typed, doubled, outside, described).SerializeToString()) == [None, None, None, 4]


def test_a_model_in_two_parts_is_one() -> None:
    """Protobuf joins messages that are written one behind the other."""
    first, second = model(tensor(1, raw_data=b"1234")), model(tensor(2, raw_data=b"12345678"))
    data = first.SerializeToString() + second.SerializeToString()
    joined = onnx.ModelProto.FromString(data)
    assert raw_lengths(data) == [len(t.raw_data) for t in joined.graph.initializer] == [4, 8]


def test_of_two_values_of_a_field_the_last_one_counts() -> None:
    data = (
        tensor(1, raw_data=b"1234").SerializeToString() + onnx.TensorProto(raw_data=b"56").SerializeToString()
    )
    graph = b"\x2a" + bytes([len(data)]) + data
    assert raw_lengths(b"\x3a" + bytes([len(graph)]) + graph) == [2]


def test_groups_of_old_versions_are_not_read() -> None:
    assert raw_lengths(b"\x0b\x0c" + model(tensor(1, raw_data=b"1234")).SerializeToString()) == []


@pytest.mark.parametrize("data", [b"", b"123", b"12345"])
def test_raw_data_of_another_length_than_the_shape_says_is_refused(data: bytes, tmp_path: Path) -> None:
    b = GraphBuilder()
    b.output(b.op("Add", b.input("x", [1]), b.const(np.ones(1, np.float32), "bias")))
    made = b.build()
    (bias,) = made.graph.initializer
    bias.raw_data = data
    onnx.save(made, path := tmp_path / "m.onnx")
    assert list(load_model(path).raw_lengths) == [len(data)]
    with pytest.raises(InvalidModel, match="bias"):
        load(path)
