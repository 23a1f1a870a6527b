"""Parameters and multiply-accumulates, against numbers worked out by hand and another counter."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conet_graph.costs.cost import Cost, cost
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.passes import analysed


def weight(name: str, *dims: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(dims, np.float32), name)


def cost_of(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    shape: list[int | str],
    output: str = "y",
) -> Cost:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return cost(analysed(LoadedModel(model)))


CONV = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])


def test_conv() -> None:
    found = cost_of([CONV], [weight("w", 8, 3, 3, 3), weight("b", 8)], [1, 3, 10, 12])
    assert found.parameters == 8 * 3 * 9 + 8
    assert found.macs == 8 * 3 * 9 * 10 * 12
    assert found.layers[0].parameters == 8 * 3 * 9 + 8


def test_a_free_batch_counts_as_one_and_a_fixed_batch_as_it_is() -> None:
    weights = [weight("w", 8, 3, 3, 3), weight("b", 8)]
    assert cost_of([CONV], weights, ["N", 3, 10, 12]).macs == 8 * 27 * 120
    assert cost_of([CONV], weights, [4, 3, 10, 12]).macs == 4 * 8 * 27 * 120


def test_a_free_spatial_size_leaves_macs_unknown() -> None:
    found = cost_of([CONV], [weight("w", 8, 3, 3, 3), weight("b", 8)], ["N", 3, "H", 12])
    assert found.macs is None
    assert found.layers[0].macs is None
    assert len(found.uncounted) == 1
    assert found.parameters == 224


def test_conv_transpose_works_once_an_input_position() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    found = cost_of([node], [weight("w", 3, 5, 2, 2)], [1, 3, 7, 7])
    assert found.macs == 3 * 5 * 4 * 49


def test_grouped_and_depthwise_convolutions() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "g"], ["a"], group=2),
        helper.make_node("Conv", ["a", "d"], ["y"], group=8, pads=[1, 1, 1, 1]),
    ]
    found = cost_of(nodes, [weight("g", 8, 2, 1, 1), weight("d", 8, 1, 3, 3)], [1, 4, 6, 6])
    assert found.macs == (16 + 72) * 36


def test_products_with_and_without_weights() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "t"], ["y"]),
    ]
    found = cost_of(nodes, [weight("w", 16, 16)], ["N", 10, 16])
    assert found.macs == 10 * 16 * 16 + 10 * 16 * 10
    assert found.parameters == 256


def test_gemm_with_a_transposed_weight() -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    found = cost_of([node], [weight("w", 5, 12), weight("b", 5)], ["N", 12])
    assert found.macs == 60
    assert found.parameters == 65


def test_running_statistics_and_single_numbers_are_no_parameters() -> None:
    nodes = [
        helper.make_node("BatchNormalization", ["x", "s", "b", "mean", "var"], ["n"]),
        helper.make_node("Mul", ["n", "two"], ["y"]),
    ]
    weights = [weight(n, 6) for n in ("s", "b", "mean", "var")]
    found = cost_of(nodes, [*weights, weight("two")], ["N", 6, 4, 4])
    assert found.parameters == 12
    assert found.macs == 0


def test_a_shared_matrix_counts_once_and_equal_biases_once_a_layer() -> None:
    def conv(data: str, w: str, out: str) -> onnx.NodeProto:
        return helper.make_node("Conv", [data, w, "b"], [out])

    weights = [weight("w", 4, 4, 1, 1), weight("v", 4, 4, 1, 1), weight("b", 4)]
    twice = [conv("x", "w", "a"), conv("a", "w", "y")]
    assert cost_of(twice, weights, [1, 4, 2, 2]).parameters == 16 + 4
    apart = [conv("x", "w", "a"), conv("a", "v", "y")]
    assert cost_of(apart, weights, [1, 4, 2, 2]).parameters == 16 + 4 + 16 + 4


def test_a_quantised_weight_is_its_integers() -> None:
    scale, zero = weight("s"), numpy_helper.from_array(np.array(0, np.int8), "z")
    stored = numpy_helper.from_array(np.ones((8, 3, 1, 1), np.int8), "q")
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    found = cost_of(nodes, [scale, zero, stored], [1, 3, 2, 2])
    assert found.parameters == 24
    assert found.layers[1].parameters == 24


def test_a_layer_in_a_body_has_parameters_and_no_known_macs() -> None:
    def body(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        node = helper.make_node("Conv", ["x", f"{name}_w"], [f"{name}_y"], name=name)
        return helper.make_graph([node], name, [], [out], [weight(f"{name}_w", 2, 3, 1, 1)])

    asked = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["yes"], to=TensorProto.BOOL),
    ]
    node = helper.make_node("If", ["yes"], ["y"], else_branch=body("p"), then_branch=body("q"))
    found = cost_of([*asked, node], [], [1, 3, 4, 4])
    assert found.parameters == 12
    assert found.macs is None
    assert found.uncounted == ("p", "q")


@pytest.mark.parametrize(("name", "image"), [("resnet18", 224), ("shufflenet_v2_x0_5", 64)])
def test_counts_agree_with_torch_and_fvcore(name: str, image: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    fvcore = pytest.importorskip("fvcore.nn")
    from conet_graph.models.export import export_module

    module = torchvision.models.get_model(name, weights=None).eval()
    path = tmp_path / "model.onnx"
    export_module(module, path, (3, image, image), batch=1)
    found = cost(analysed(load_model(path)))
    assert found.parameters == sum(p.numel() for p in module.parameters())
    counter = fvcore.FlopCountAnalysis(module, torch.zeros(1, 3, image, image))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counted = counter.by_operator()
    # fvcore also counts normalisation and pooling, in operations.
    assert found.macs == counted["conv"] + counted["linear"]
    if name == "resnet18":
        assert (found.parameters, found.macs) == (11_689_512, 1_814_073_344)
