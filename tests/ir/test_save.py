"""Writing models: every byte comes back, and whatever fails leaves what was there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from corpus import files, needs_corpus
from onnx import TensorProto, helper, numpy_helper

from conet_graph.ir import save, wire
from conet_graph.ir.check import check_model
from conet_graph.ir.errors import BadUsage, InvalidModel
from conet_graph.ir.load import load_model, tensor_array, tensor_bytes
from conet_graph.ir.save import atomic_write, save_model
from conet_graph.ir.scopes import all_tensors
from conet_graph.ir.wire import serialised


def weight(name: str, seed: int = 0, out: int = 16) -> TensorProto:
    rng = np.random.default_rng(seed)
    return numpy_helper.from_array(rng.normal(size=(out, 3, 3, 3)).astype(np.float32), name)


def network(seed: int = 0) -> onnx.ModelProto:
    """A model with what a file may hold: metadata, a function, sub-graphs, free dims, odd types."""
    value = helper.make_tensor_value_info
    branches = {
        f"{b}_branch": helper.make_graph(
            [helper.make_node("Add", ["c", f"{b}_w"], [f"{b}_y"])],
            b,
            [],
            [value(f"{b}_y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.full((16, 1, 1), seed, np.float32), f"{b}_w")],
        )
        for b in ("then", "else")
    }
    large = numpy_helper.from_array(np.arange(512, dtype=np.float32), "")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("If", ["flag"], ["chosen"], **branches),
        helper.make_node("Double", ["chosen"], ["y"], domain="ours"),
        helper.make_node("Constant", [], ["k"], value=large),
    ]
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [400], np.arange(400.0).tolist())
    packed = helper.make_tensor("packed", TensorProto.INT4, [4001], [i % 7 for i in range(4001)])
    texts = helper.make_tensor("texts", TensorProto.STRING, [300], [b"word"] * 300)
    kernel = weight("w", seed)
    kernel.doc_string = "the kernel"
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["N", 3, "H", "W"]), value("flag", TensorProto.BOOL, [])],
        [value("y", TensorProto.FLOAT, ["N", 16, "H", "W"])],
        [kernel, typed, packed, texts],
        doc_string="a graph",
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ours", 1)]
    double = helper.make_function(
        "ours", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets[:1]
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=[double], ir_version=10)
    helper.set_model_props(model, {"author": "somebody"})
    return model


def data_of(model: onnx.ModelProto, folder: Path | None) -> list[bytes]:
    return [
        b"".join(tensor_bytes(t, folder)) if t.data_type != TensorProto.STRING else b"".join(t.string_data)
        for t in all_tensors(model)
    ]


def without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in all_tensors(bare):
        for name in ("raw_data", "float_data", "int32_data", "data_location", "external_data"):
            tensor.ClearField(name)
    return bare


def locations(model: onnx.ModelProto) -> set[str]:
    return {e.value for t in all_tensors(model) for e in t.external_data if e.key == "location"}


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def test_a_model_in_one_file_comes_back_as_it_was(tmp_path: Path) -> None:
    model = check_model(save_and_load(network(), tmp_path / "m.onnx")).proto
    assert model == network()
    assert names(tmp_path) == {"m.onnx"}


def save_and_load(model: onnx.ModelProto, path: Path, **options: Any) -> Any:
    save_model(model, path, **options)
    return load_model(path)


def test_weights_beside_the_model_come_back_as_they_were(tmp_path: Path) -> None:
    first = save_and_load(network(), tmp_path / "m.onnx", external=True)
    check_model(first)
    assert without_data(first.proto) == without_data(network())
    assert data_of(first.proto, tmp_path) == data_of(network(), None)
    assert len(locations(first.proto)) == 1
    # The loaded model keeps its weights outside when it is written elsewhere, nested ones too.
    nested = next(n for n in first.proto.graph.node if n.op_type == "Constant").attribute[0].t
    (tmp_path / "k.bin").write_bytes(nested.raw_data)
    nested.ClearField("raw_data")
    nested.data_location = TensorProto.EXTERNAL
    nested.external_data.add(key="location", value="k.bin")
    there = tmp_path / "there"
    there.mkdir()
    second = save_and_load(first.proto, there / "n.onnx", folder=tmp_path)
    assert data_of(second.proto, there) == data_of(network(), None)
    assert names(there) == {"n.onnx", *locations(second.proto)}
    third = save_and_load(second.proto, there / "one.onnx", folder=there, external=False)
    assert data_of(third.proto, None) == data_of(network(), None)
    assert not locations(third.proto)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for _ in range(2):
        save_model(network(), tmp_path / "m.onnx", external=True)
        seen = {n: (tmp_path / n).read_bytes() for n in names(tmp_path)}
        assert len(seen) == 2
    save_model(network(), tmp_path / "m.onnx", external=True)
    assert {n: (tmp_path / n).read_bytes() for n in names(tmp_path)} == seen


def test_saving_over_itself_keeps_the_data_and_removes_only_its_own(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    (tmp_path / "m.onnx.data").write_bytes(b"somebody else's")
    loaded = save_and_load(network(), path, external=True)
    old = locations(loaded.proto)
    loaded.proto.graph.initializer.append(weight("more", 5))
    again = save_and_load(loaded.proto, path, folder=tmp_path)
    assert data_of(again.proto, tmp_path)[0] == network().graph.initializer[0].raw_data
    assert names(tmp_path) == {"m.onnx", "m.onnx.data", *locations(again.proto)}
    assert not old & names(tmp_path)
    save_model(network(), path)
    assert names(tmp_path) == {"m.onnx", "m.onnx.data"}


@pytest.mark.parametrize(
    ("external", "at"), [(False, 1), (False, 2), (True, 1), (True, 2), (True, 3), (True, 4)]
)
def test_a_failure_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool, at: int
) -> None:
    path = tmp_path / "m.onnx"
    save_model(network(), path, external=external)
    before = {n: (tmp_path / n).read_bytes() for n in names(tmp_path)}
    calls = []

    def failing(real: Any) -> Any:
        def call(*args: Any) -> Any:
            calls.append(real)
            if len(calls) == at:
                raise OSError(28, "No space left on device")
            return real(*args)

        return call

    monkeypatch.setattr(save.os, "fsync", failing(os.fsync))
    monkeypatch.setattr(save.os, "replace", failing(os.replace))
    with pytest.raises(BadUsage, match="No space left on device"):
        save_model(network(seed=1), path, external=external)
    assert {n: (tmp_path / n).read_bytes() for n in names(tmp_path)} == before


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_save import network
from conet_graph.ir.save import save_model
seed = 0
models = [network(1), network(2)]
print("ready", flush=True)
while True:
    seed = 1 - seed
    save_model(models[seed], Path(sys.argv[1]), external=True)
"""


def test_killed_at_any_moment_the_old_or_the_new_model_is_there(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_model(network(1), path, external=True)
    whole = [data_of(network(seed), None) for seed in (1, 2)]
    here = Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here.parent / "helpers")])
    }
    for attempt in range(4):
        command = [sys.executable, "-c", KILLED, str(path), str(here)]
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.05 + 0.0137 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert data_of(check_model(load_model(path)).proto, tmp_path) in whole


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="folder"):
        save_model(network(), tmp_path)
    with pytest.raises(BadUsage, match="No such file"):
        save_model(network(), tmp_path / "none" / "m.onnx")
    with pytest.raises(BadUsage, match="device"):
        atomic_write(Path(os.devnull), [b"x"])
    with pytest.raises(BadUsage, match="too long"):
        save_model(network(), tmp_path / ("m" * 300))
    assert names(tmp_path) == set()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadUsage, match="Permission denied"):
        save_model(network(), tmp_path / "m.onnx")
    tmp_path.chmod(0o700)


def test_lost_data_is_an_error_and_no_file(tmp_path: Path) -> None:
    loaded = save_and_load(network(), tmp_path / "m.onnx", external=True)
    (tmp_path / next(iter(locations(loaded.proto)))).unlink()
    with pytest.raises(InvalidModel, match="missing"):
        save_model(loaded.proto, tmp_path / "n.onnx", tmp_path)
    assert names(tmp_path) == {"m.onnx"}


def test_odd_file_names_can_be_read_again(tmp_path: Path) -> None:
    for name in ("a:b.onnx", "back\\slash.onnx", "[x]*.onnx", "模型.onnx"):
        loaded = save_and_load(network(), tmp_path / name, external=True)
        array = tensor_array(loaded.proto.graph.initializer[0], tmp_path)
        assert array.tobytes() == network().graph.initializer[0].raw_data


def test_serialising_in_pieces_gives_the_same_bytes() -> None:
    assert b"".join(serialised(network())) == network().SerializeToString(deterministic=True)
    newer = onnx.ModelProto.FromString(network().SerializeToString() + bytes([0xFA, 0x3F, 1, 7]))
    assert b"".join(serialised(newer)) == newer.SerializeToString(deterministic=True)
    empty = onnx.ModelProto()
    assert b"".join(serialised(empty)) == b""
    empty.graph.SetInParent()
    assert b"".join(serialised(empty)) == empty.SerializeToString()


def test_a_model_too_large_for_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wire, "LARGEST_MESSAGE", 3000)
    with pytest.raises(BadUsage, match="larger than one file"):
        save_model(network(), tmp_path / "m.onnx")
    assert names(tmp_path) == set()
    monkeypatch.undo()
    monkeypatch.setattr(save, "PROTOBUF_LIMIT", 3000)
    loaded = save_and_load(network(), tmp_path / "m.onnx")
    assert data_of(loaded.proto, tmp_path) == data_of(network(), None)
    assert len(names(tmp_path)) == 2
    with pytest.raises(BadUsage, match="larger than one file"):
        save_model(loaded.proto, tmp_path / "one.onnx", tmp_path, external=False)


@needs_corpus
@pytest.mark.parametrize("path", files("open", "exports"), ids=lambda p: p.stem)
def test_real_files_come_back_as_they_were(path: Path, tmp_path: Path) -> None:
    before = load_model(path).proto
    assert b"".join(serialised(before)) == before.SerializeToString(deterministic=True)
    save_model(before, tmp_path / "m.onnx")
    assert load_model(tmp_path / "m.onnx").proto == before
    beside = save_and_load(before, tmp_path / "beside.onnx", external=True)
    assert data_of(beside.proto, tmp_path) == data_of(before, None)
