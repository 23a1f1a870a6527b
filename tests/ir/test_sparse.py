"""Sparse weights are read as the tensors that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from bridge_case import difference
from golden_text import filled, run
from onnx import helper, numpy_helper
from rewidth_case import free, rewidthed

from conet_graph.ir.load import LoadedModel
from conet_graph.ir.sparse import dense_tensor
from conet_graph.passes.fold_batchnorm import fold_batchnorm

Array = np.ndarray[Any, Any]


def sparse(name: str, array: Array, by_axes: bool = False) -> onnx.SparseTensorProto:
    """What is not zero of an array, with one index for each number, or one for each axis."""
    places = np.flatnonzero(array)
    index = np.stack(np.unravel_index(places, array.shape), 1) if by_axes else places
    values = numpy_helper.from_array(array.reshape(-1)[places], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(index.astype(np.int64)), array.shape)


def network(norm: bool = False) -> onnx.ModelProto:
    between = "n = BatchNormalization(m, s, b, mean, var)" if norm else "n = Relu(m)"
    vectors = ", float[8] s, float[8] b, float[8] mean, float[8] var" if norm else ""
    return filled(
        '<ir_version: 8, opset_import: ["": 17]>\nagraph (float[1,3,4,4] x) => (float[1,5,4,4] y)'
        f"<float[8,3,1,1] w1, float[8] b1, float[5,8,1,1] w2{vectors}>"
        f"{{m = Conv(x, w1, b1) {between} y = Conv(n, w2)}}"
    )


def thinned(model: onnx.ModelProto, names: set[str], by_axes: bool = False) -> onnx.ModelProto:
    """The model with some weights sparse, and every third number of them zero."""
    kept = [t for t in model.graph.initializer if t.name not in names]
    for tensor in model.graph.initializer:
        if tensor.name in names:
            array = numpy_helper.to_array(tensor).copy()
            array.reshape(-1)[::3] = 0
            model.graph.sparse_initializer.append(sparse(tensor.name, array, by_axes))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


@pytest.mark.parametrize("by_axes", [False, True])
@pytest.mark.parametrize("shape", [(7,), (4, 3), (2, 3, 1, 2)])
def test_numbers_go_where_their_indices_say(shape: tuple[int, ...], by_axes: bool) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    array.reshape(-1)[1::2] = 0
    made = dense_tensor(sparse("w", array, by_axes))
    assert made is not None
    assert made.name == "w"
    np.testing.assert_array_equal(numpy_helper.to_array(made), array)


LIES = {
    "behind the end": ([12], [4, 3]),
    "before the beginning": ([-1], [4, 3]),
    "behind the end of an axis": ([[0, 3]], [4, 3]),
    "one place twice": ([2, 2], [4, 3]),
    "nearly empty": ([2], [2**13, 2**13]),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_does_not_fit_stays_as_it_is(lie: str) -> None:
    index, dims = LIES[lie]
    made = onnx.SparseTensorProto(dims=dims)
    made.values.CopyFrom(numpy_helper.from_array(np.ones(len(index), np.float32), "w"))
    made.indices.CopyFrom(numpy_helper.from_array(np.array(index, np.int64)))
    assert dense_tensor(made) is None


@pytest.mark.parametrize("names", ["w1", "b1", "w1 w2"])
@pytest.mark.parametrize("by_axes", [False, True])
def test_sparse_weights_are_narrowed_and_widened(names: str, by_axes: bool) -> None:
    model = thinned(network(), set(names.split()), by_axes)
    assert free(model) == [(8, 1)]
    narrow, wide = rewidthed(model, scale=0.5), rewidthed(model, scale=2.0)
    assert (narrow.shape("w1"), narrow.shape("b1"), narrow.shape("w2")) == ((4, 3, 1, 1), (4,), (5, 4, 1, 1))
    assert wide.shape("w2") == (5, 16, 1, 1)
    assert not narrow.proto.graph.sparse_initializer


def test_one_that_cannot_be_written_out_freezes_what_it_touches() -> None:
    model = thinned(network(), {"w1"})
    found = model.graph.sparse_initializer[0]
    index = numpy_helper.to_array(found.indices).copy()
    index[1] = index[0]
    found.indices.CopyFrom(numpy_helper.from_array(index))
    assert free(model) == []


def test_numbers_beside_the_file_stay_there() -> None:
    found = sparse("w", np.eye(3, dtype=np.float32))
    found.values.data_location = onnx.TensorProto.EXTERNAL
    assert dense_tensor(found) is None


def test_a_batchnorm_is_folded_into_a_sparse_weight() -> None:
    model = thinned(network(norm=True), {"w1"})
    folded = fold_batchnorm(LoadedModel(model)).proto
    assert not folded.graph.sparse_initializer
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Conv"]
    np.testing.assert_allclose(run(folded)[0], run(model)[0], rtol=1e-4, atol=1e-5)


def test_a_sparse_weight_in_pytorch() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    assert difference(thinned(network(), {"w1", "w2"}), {"x": x}) < 1e-5


def test_a_constant_node_with_a_sparse_value() -> None:
    model = network()
    array = numpy_helper.to_array(model.graph.initializer[0]).copy()
    array.reshape(-1)[::2] = 0
    del model.graph.initializer[0]
    node = helper.make_node("Constant", [], ["w1"], sparse_value=sparse("w1", array))
    model.graph.node.insert(0, node)
    assert free(model) == [(8, 1)]
    assert rewidthed(model, scale=0.5).shape("w1") == (4, 3, 1, 1)
