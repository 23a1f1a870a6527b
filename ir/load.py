"""Reading an ONNX file: one parse, weights left where they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.external import resolve
from conet_graph.ir.tensors import inline_array, is_packed

# What people point the tool at by mistake: first bytes, what it is, what to do.
_MAGIC = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer",
        "run 'git lfs pull' to fetch the model itself",
    ),
    (b"\x89PNG", "a PNG picture", "pass the ONNX file"),
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint?)", "export the network to ONNX first"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"<!DOCTYPE", "an HTML page", "download the model file itself"),
    (b"<html", "an HTML page", "download the model file itself"),
)


@dataclass
class LoadedModel:
    """An ONNX model as read; external tensors are still external."""

    proto: onnx.ModelProto
    path: Path | None = None

    @property
    def folder(self) -> Path | None:
        """The folder in which external data lies."""
        return None if self.path is None else self.path.parent

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file (of the deterministic serialisation where there is no file)."""
        if self.path is None:
            return hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(path: str | Path) -> LoadedModel:
    """Read an ONNX file.

    Raises:
        InvalidModel: there is no such file, or it is not an ONNX model with a graph.

    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InvalidModel(f"There is no file {shown(str(path))}: check the path.") from None
    except IsADirectoryError:
        raise InvalidModel(f"{shown(str(path))} is a folder: name the ONNX file in it.") from None
    except OSError as error:
        raise InvalidModel(f"{shown(str(path))} cannot be read: {error.strerror}.") from None
    if not data:
        raise InvalidModel(f"{shown(str(path))} is empty: fetch the model again.")
    for magic, what, advice in _MAGIC:
        if data.startswith(magic):
            raise InvalidModel(f"{shown(str(path))} is {what}, not an ONNX model: {advice}.")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        if _is_text(data[:4096]):
            raise InvalidModel(f"{shown(str(path))} is a text file: pass the ONNX file.") from None
        raise InvalidModel(
            f"{shown(str(path))} is not an ONNX model, or it is truncated or damaged: fetch it again."
        ) from None
    if not proto.HasField("graph"):
        raise InvalidModel(f"{shown(str(path))} holds no graph: it is not an ONNX network.")
    return LoadedModel(proto, path)


def _is_text(start: bytes) -> bool:
    """Whether a file begins like a text."""
    try:
        return start.decode("utf-8", "strict").replace("\n", "").replace("\t", "").isprintable()
    except UnicodeDecodeError as error:
        # A character may be cut in two at the end of what was looked at.
        return error.start > len(start) - 4 and len(start) == 4096


def tensor_array(tensor: onnx.TensorProto, folder: Path | None) -> np.ndarray[Any, Any]:
    """Value of a tensor, without a copy where that is possible (then read-only).

    Raises:
        InvalidModel: its external data is missing, too short or outside the model's folder.

    """
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return inline_array(tensor)
    where = resolve(tensor, folder)
    if where.length == 0 or is_packed(tensor):
        inside = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims)
        with where.path.open("rb") as file:
            file.seek(where.offset)
            inside.raw_data = file.read(where.length)
        return inline_array(inside)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = tuple(tensor.dims)
    return np.memmap(where.path, dtype, "r", where.offset, shape if shape else (1,)).reshape(shape)
