"""Writing files: beside the target, then renamed, so that a reader sees the old file or the new one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.load import tensor_array

# One protobuf message cannot exceed 2 GiB; stay clear of it.
PROTOBUF_LIMIT = 2**31 - 2**20
# Tensors smaller than this stay inside the model file.
EXTERNAL_FROM = 1024


def atomic_write(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file in one step as seen from outside.

    Raises:
        BadUsage: the folder does not exist, cannot be written or is full.

    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:60]}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise BadUsage(f"{shown(str(path))} cannot be written: {error.strerror}.") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_model(proto: onnx.ModelProto, path: str | Path, folder: Path | None = None) -> None:
    """Write a model; weights go beside it when the source had them there or 2 GB are passed.

    The data file's name holds its process and time, so the old model keeps its old data until the
    new model file has replaced it.

    Args:
        proto: the model; left as it is.
        path: where to write.
        folder: where the model's external data lies now.

    Raises:
        BadUsage: the folder cannot be written.
        InvalidModel: external data of the model is missing or damaged.

    """
    path = Path(path)
    external = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if not external and proto.ByteSize() < PROTOBUF_LIMIT:
        atomic_write(path, [proto.SerializeToString(deterministic=True)])
        return
    previous = _data_files(path)
    small = onnx.ModelProto()
    tensors = list(proto.graph.initializer)
    small.CopyFrom(proto) if external and len(external) == len(tensors) else copy_light(proto, small)
    data_name, number = f"{path.name}.data", 0
    while (path.parent / data_name).exists():
        number += 1
        data_name = f"{path.name}.{number}.data"
    offset = 0
    chunks: list[onnx.TensorProto] = []
    for source, tensor in zip(tensors, small.graph.initializer, strict=True):
        if source.data_location != onnx.TensorProto.EXTERNAL and source.ByteSize() < EXTERNAL_FROM:
            tensor.CopyFrom(source)
            continue
        length = tensor_array(source, folder).nbytes
        offset = -(-offset // 64) * 64
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", data_name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        chunks.append(source)
        offset += length
    atomic_write(path.parent / data_name, _aligned(chunks, folder))
    atomic_write(path, [small.SerializeToString(deterministic=True)])
    for old in previous - {data_name}:
        (path.parent / old).unlink(missing_ok=True)


def _aligned(tensors: list[onnx.TensorProto], folder: Path | None) -> Iterable[bytes]:
    """The bytes of all tensors, each starting at a multiple of 64."""
    at = 0
    for tensor in tensors:
        yield b"\0" * (-at % 64)
        at += -at % 64
        array = tensor_array(tensor, folder)
        at += array.nbytes
        yield array.tobytes()


def copy_light(proto: onnx.ModelProto, into: onnx.ModelProto) -> None:
    """Copy a model, of each weight only name, type and shape."""
    for descriptor, value in proto.ListFields():
        if descriptor.name != "graph":
            _assign(into, descriptor.name, value)
    for descriptor, value in proto.graph.ListFields():
        if descriptor.name != "initializer":
            _assign(into.graph, descriptor.name, value)
    for tensor in proto.graph.initializer:
        into.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _assign(message: object, name: str, value: object) -> None:
    """Set a field of a protobuf message, whatever its kind."""
    target = getattr(message, name)
    if hasattr(target, "extend"):
        target.extend(value)
    elif hasattr(target, "CopyFrom"):
        target.CopyFrom(value)
    else:
        setattr(message, name, value)


def _data_files(path: Path) -> set[str]:
    """Data files of ours that the model at ``path`` (about to be replaced) refers to."""
    if not path.is_file():
        return set()
    try:
        old = onnx.load(path, load_external_data=False)
    except Exception:
        return set()  # not a model of ours: nothing to tidy
    names = {e.value for t in old.graph.initializer for e in t.external_data if e.key == "location"}
    return {n for n in names if n.startswith(path.name + ".") and n.endswith(".data") and "/" not in n}
