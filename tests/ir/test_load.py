"""Reading models: what is no model is called what it is, and weights are held once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import conet_graph as cg
from conet_graph.ir.errors import BadUsage, InvalidModel, shown
from conet_graph.ir.external import ExternalRange, resolve
from conet_graph.ir.load import from_proto, load_model, tensor_array, tensor_bytes
from conet_graph.ir.tensors import nbytes

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"


def small_model(*weights: TensorProto) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n <!doctype html><html></html>", "HTML page"),
        (b"<HTML><body>404</body></HTML>", "HTML page"),
        (b"\x89PNG\r\n\x1a\n\0\0", "PNG picture"),
        (b"PK\x03\x04\x14\0", "zip archive"),
        (b"\x80\x02}q\0.", "pickle"),
        (b"\x1f\x8b\x08\0", "gzip archive"),
        (b"\x1c\0\0\0TFL3\0", "TensorFlow Lite"),
        ("ein Text, überall lesbar\n".encode(), "text file"),
        (("é" * 4000).encode()[1:], "not an ONNX model"),
        (b"a" + ("é" * 4000).encode(), "text file"),
        (b'{"error": "not found"}', "text file"),
        (small_model().SerializeToString()[:-1], "truncated"),
        (b"\x08\x08", "no graph"),
    ],
)
def test_what_is_no_model_is_called_what_it_is(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match=told) as error:
        load_model(path)
    assert error.value.exit_code == 2
    assert "m.onnx" in str(error.value)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="no file"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(InvalidModel, match="folder"):
        load_model(tmp_path)
    with pytest.raises(InvalidModel, match="device or a pipe"):
        load_model("/dev/zero")
    with pytest.raises(InvalidModel, match="too long"):
        load_model(tmp_path / ("m" * 300))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidModel, match="device or a pipe"):
        load_model(tmp_path / "pipe")


def test_a_file_beyond_what_protobuf_holds(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.write(b"\x08\x08")
        file.truncate(2**31)  # sparse: takes no room
    with pytest.raises(InvalidModel, match="external data"):
        load_model(path)


def test_a_model_and_where_it_lies(tmp_path: Path) -> None:
    model = small_model()
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    loaded = load_model(str(tmp_path / "m.onnx"))
    assert loaded.proto == model
    assert loaded.folder == tmp_path
    assert loaded.sha256 == hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    in_memory = from_proto(model)
    assert in_memory.folder is None
    assert len(in_memory.sha256) == 64
    with pytest.raises(InvalidModel, match="no graph"):
        from_proto(onnx.ModelProto())


TYPES = ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "INT64", "UINT8", "BOOL", "INT4", "UINT2"]


def test_a_file_that_changed_after_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(small_model().SerializeToString())
    model, early = load_model(path), load_model(path)
    told = early.sha256
    changed = small_model(numpy_helper.from_array(np.zeros(3, np.float32), "w"))
    path.write_bytes(changed.SerializeToString())
    assert early.sha256 == told
    with pytest.raises(InvalidModel, match="has changed since it was read: load it again"):
        _ = model.sha256


def test_a_model_that_was_made_is_known_by_what_is_written_of_it(tmp_path: Path) -> None:
    model = cg.load(SAMPLE)
    slim = cg.rewrite(model, cg.plan(model, macs=0.5))
    cg.save(slim, tmp_path / "slim.onnx")
    assert slim.sha256 != model.sha256
    assert slim.sha256 == cg.load(tmp_path / "slim.onnx").sha256
    with pytest.raises(BadUsage, match="made for another model"):
        cg.rewrite(slim, cg.plan(model, macs=0.5))


@pytest.mark.parametrize("kind", TYPES)
def test_every_way_to_hold_a_tensor_gives_the_same_values(kind: str, tmp_path: Path) -> None:
    values = [0, 1, 1, 0, 1]
    typed = helper.make_tensor("t", TensorProto.DataType.Value(kind), [5], values)
    raw = numpy_helper.from_array(numpy_helper.to_array(typed), "t")
    assert raw.HasField("raw_data")
    assert not typed.HasField("raw_data")
    outside = TensorProto(name="t", data_type=typed.data_type, dims=[5], data_location=TensorProto.EXTERNAL)
    (tmp_path / "t.bin").write_bytes(b"123" + raw.raw_data)
    for key, value in (("location", "t.bin"), ("offset", "3")):
        outside.external_data.add(key=key, value=value)
    for tensor in (typed, raw, outside):
        array = tensor_array(tensor, tmp_path)
        assert array.astype(np.float32).tolist() == values
        assert not array.flags.writeable
        assert b"".join(tensor_bytes(tensor, tmp_path)) == raw.raw_data
        assert nbytes(tensor) == len(raw.raw_data)
    assert resolve(outside, tmp_path) == ExternalRange(tmp_path / "t.bin", 3, len(raw.raw_data))


def test_large_external_data_is_mapped_not_read(tmp_path: Path) -> None:
    tensor = TensorProto(
        name="t", data_type=TensorProto.FLOAT, dims=[2**20], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="t.bin")
    with (tmp_path / "t.bin").open("wb") as file:
        file.truncate(2**22)
    assert isinstance(tensor_array(tensor, tmp_path), np.memmap)


def test_scalars_and_empty_tensors_outside(tmp_path: Path) -> None:
    (tmp_path / "t.bin").write_bytes(np.float32(7).tobytes())
    for dims, expected in (([], 7.0), ([0, 3], [])):
        tensor = TensorProto(data_type=1, dims=dims, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="t.bin")
        assert tensor_array(tensor, tmp_path).tolist() == expected


def test_data_that_does_not_fit_its_shape_is_an_error() -> None:
    tensor = TensorProto(name="odd", data_type=TensorProto.FLOAT, dims=[3], float_data=[1, 2])
    with pytest.raises(InvalidModel, match="odd"):
        tensor_array(tensor, None)


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("../t.bin", "plain path"),
        ("a/../../t.bin", "plain path"),
        ("/etc/passwd", "plain path"),
        ("C:\\t.bin", "plain path"),
        ("file:///etc/passwd", "plain path"),
        ("a\0b", "plain path"),
        ("", "plain path"),
        (".", "regular file"),
        ("none.bin", "missing"),
        ("n" * 300, "too long"),
        ("t.bin/inner", "cannot be read"),
    ],
)
def test_locations_of_external_data(tmp_path: Path, location: str, told: str) -> None:
    (tmp_path / "t.bin").write_bytes(bytes(4))
    tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(InvalidModel, match=told) as error:
        resolve(tensor, tmp_path)
    assert "'w'" in str(error.value)


def test_external_data_needs_a_folder() -> None:
    tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="t.bin")
    with pytest.raises(InvalidModel, match="not read from a file"):
        tensor_array(tensor, None)


def test_names_are_shown_short_and_printable() -> None:
    assert shown("conv1") == "'conv1'"
    assert shown("a\nb\x1b[31m\0") == r"'a\nb\x1b[31m\x00'"
    assert len(shown("n" * 10**6)) <= 82
    assert shown("模型") == "'模型'"  # letters of all scripts are readable
    assert shown("a\u202eb") == r"'a\u202eb'"  # but nothing turns the line round
    assert len(shown("模" * 100)) <= 82
    path = "/tmp/" + "folder/" * 30 + "model.onnx"
    assert shown(path).startswith("'/tmp/folder")
    assert shown(path).endswith("/model.onnx'")


PEAK = """
import resource, sys
from conet_graph.ir.check import check_model
from conet_graph.ir.load import load_model
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
check_model(load_model(sys.argv[1]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_stays_near_twice_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    weights = [numpy_helper.from_array(np.zeros((2**20,), np.float32), f"w{i}") for i in range(12)]
    path.write_bytes(small_model(*weights).SerializeToString())
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        check=True,
    )
    assert int(found.stdout) < 2.2 * path.stat().st_size
