"""From two ONNX models to one: what corresponds, the teacher in ONNX Runtime, accuracy that comes back."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import parser

import conet_graph as cg
from conet_graph.ir.errors import BadUsage
from conet_graph.ir.load import LoadedModel, from_proto
from conet_graph.ir.save import save_model
from conet_graph.models import digits
from conet_graph.trials.distill import DistillSettings
from conet_graph.trials.onnx_teacher import OnnxTeacher
from conet_graph.trials.recover import Recovery, corresponding, signature
from conet_graph.trials.unlabelled import open_images
from conet_graph.verification.runtime import open_session

SAMPLE = Path(str(cg.__file__)).parent / "models" / "samples" / "digits.onnx"
CPU = torch.device("cpu")


def accuracy(model: LoadedModel, path: Path) -> float:
    save_model(model.proto, path)
    session = open_session(path, fused=True)
    data = digits.load()
    scores = session.run(None, {session.get_inputs()[0].name: data.test_images})[0]
    return float((scores.argmax(1) == data.test_labels).mean())


def test_lost_accuracy_comes_back_without_labels(tmp_path: Path) -> None:
    original = cg.load(SAMPLE)
    slim = cg.rewrite(original, cg.plan(original, macs=0.4))
    full, lost = accuracy(original, tmp_path / "a.onnx"), accuracy(slim, tmp_path / "b.onnx")
    assert full - lost > 0.3
    images = open_images("digits", signature(slim, "student").image)
    recovery = Recovery(slim, SAMPLE, corresponding(slim, original), images, DistillSettings(epochs=3), CPU)
    history = list(recovery.run())
    back = accuracy(recovery.student, tmp_path / "c.onnx")
    assert (back - lost) / (full - lost) > 0.8
    assert history[-1]["agreement"] > 0.9
    same = [[n.op_type for n in m.proto.graph.node] for m in (slim, recovery.student)]
    assert same[0] == same[1]
    names = [sorted(t.name for t in m.proto.graph.initializer) for m in (slim, recovery.student)]
    assert names[0] == names[1]


def network(
    inputs: str = "float[N,3,H,W] x", outputs: str = "float[N,3,H,W] y", body: str = "y = Relu(x)"
) -> LoadedModel:
    text = f'<ir_version: 8, opset_import: ["" : 17]> net ({inputs}) => ({outputs}) {{ {body} }}'
    return from_proto(parser.parse_model(text))


TWO = {"outputs": "float[N,3,H,W] y, float[N,5] z", "body": "y = Relu(x) z = Constant<value_floats=[0.0]>()"}


def test_outputs_correspond_by_name_or_else_by_place() -> None:
    swapped = {"outputs": "float[N,5] z, float[N,3,H,W] y", "body": TWO["body"]}
    renamed = {
        "outputs": "float[N,3,H,W] p, float[N,5] q",
        "body": "p = Relu(x) q = Constant<value_floats=[0.0]>()",
    }
    assert corresponding(network(**TWO), network(**swapped)) == ["y", "z"]
    assert corresponding(network(**TWO), network(**renamed)) == ["p", "q"]


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ({"inputs": "float[N,1,H,W] x"}, {}, "takes images of 1 x any x any, the teacher of 3 x any x any"),
        ({}, TWO, "has 1 outputs, the teacher 2"),
        ({"outputs": "float[N,4,H,W] y"}, {}, r"output 'y' has the shape any x 4 x any x any"),
        ({"inputs": "float[N,3,H,W] x, float[N] s"}, {}, "has 2 inputs"),
        ({"inputs": "float[N,3] x"}, {}, "not a batch of float images"),
        ({"inputs": "uint8[N,3,H,W] x"}, {}, "not a batch of float images"),
    ],
)
def test_networks_that_do_not_correspond_are_refused(
    student: dict[str, str], teacher: dict[str, str], message: str
) -> None:
    with pytest.raises(BadUsage, match=message):
        corresponding(network(**student), network(**teacher))


@pytest.mark.parametrize("batch", ["N", "4"])
def test_the_teacher_gives_what_the_file_gives_whatever_its_batch(tmp_path: Path, batch: str) -> None:
    shape = f"[{batch},2,3,3]"
    body = "y = Neg(x) z = Exp(x) s = ReduceSum(x)"
    outputs = f"float{shape} y, float{shape} z, float[1,1,1,1] s"
    path = tmp_path / "teacher.onnx"
    onnx.save(network(f"float{shape} x", outputs, body).proto, path)
    images = torch.randn(10, 2, 3, 3)
    exp, neg = OnnxTeacher(path, ["z", "y"], CPU)(images)
    torch.testing.assert_close(exp, images.exp())
    assert torch.equal(neg, -images)


def test_a_half_teacher_takes_float_images(tmp_path: Path) -> None:
    path = tmp_path / "teacher.onnx"
    onnx.save(network("float16[N,1,2,2] x", "float16[N,1,2,2] y").proto, path)
    (output,) = OnnxTeacher(path, ["y"], CPU)(torch.tensor([-1.0, 0.5]).repeat(2).reshape(1, 1, 2, 2))
    np.testing.assert_array_equal(output.numpy().reshape(-1), [0, 0.5, 0, 0.5])


def test_what_onnx_runtime_refuses_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(BadUsage, match="does not load"):
        OnnxTeacher(path, ["y"], CPU)
    onnx.save(network("float[N,3,8,8] x", "float[N,3,8,8] y").proto, path)
    with pytest.raises(BadUsage, match="does not run") as caught:
        OnnxTeacher(path, ["y"], CPU)(torch.zeros(1, 1, 8, 8))
    assert "\n" not in str(caught.value)
