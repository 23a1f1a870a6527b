"""Reading an ONNX file: one parse, weights left where they are."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.external import ExternalRange, resolve
from conet_graph.ir.raw_lengths import raw_lengths
from conet_graph.ir.tensors import inline_array, is_packed, stored_dtype

# What people point the tool at by mistake: where its mark is, the mark, what it is, what to do.
_MARKS = (
    (0, b"version https://git-lfs", "a Git LFS pointer", "run 'git lfs pull' to fetch the model itself"),
    (0, b"\x89PNG", "a PNG picture", "pass the ONNX file"),
    (0, b"\xff\xd8\xff", "a JPEG picture", "pass the ONNX file"),
    (0, b"PK\x03\x04", "a zip archive (a PyTorch checkpoint?)", "export the network to ONNX first"),
    (0, b"\x80\x02", "a Python pickle (a PyTorch checkpoint?)", "export the network to ONNX first"),
    (0, b"\x89HDF", "an HDF5 file (a Keras model?)", "convert the network to ONNX first"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"BZh", "a bzip2 archive", "unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", "unpack it first"),
    (4, b"TFL3", "a TensorFlow Lite model", "convert the network to ONNX first"),
    (4, b"ORTM", "a model in ONNX Runtime's own format", "pass the ONNX file it was made from"),
)
# The start of a file that is looked at before all of it is read.
_HEAD = 4096
# No protobuf message is larger.
_LARGEST_FILE = 2**31 - 1
# External data is read in pieces of this size.
_PIECE = 2**24


# What tells that a file is still the one that was read: when it was written, its length, its number.
Stamp = tuple[int, int, int]


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass
class LoadedModel:
    """An ONNX model as read; external tensors are still external. Its proto is not to be changed."""

    proto: onnx.ModelProto
    path: Path | None = None
    # Whether weights go beside the file when it is saved; None: if some lie outside the model now.
    external: bool | None = None
    # Whether ``check_model`` has found it in order: once is enough.
    checked: bool = False
    # What was assumed of it in reading, as a sentence for the user.
    assumed: str | None = None
    # SHA-256 of what it was read from, where that was no file.
    digest: str | None = None
    # The file that it was read from, as it was then; None for a model that was made.
    stamp: Stamp | None = None
    # Bytes of raw data of each initializer, where that is known from the file; see ``raw_lengths``.
    raw_lengths: Sequence[int | None] = ()

    @property
    def folder(self) -> Path | None:
        """The folder in which external data lies."""
        return None if self.path is None else self.path.parent

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file that it was read from; of a model that was made, of what would be written.

        Raises:
            InvalidModel: the file has changed since.

        """
        if self.digest is not None:
            return self.digest
        if self.stamp is None or self.path is None:
            return hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()
        try:
            with self.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                same = _stamp(os.fstat(file.fileno())) == self.stamp
        except OSError:
            same = False
        if not same:
            raise InvalidModel(f"{shown(str(self.path))} has changed since it was read: load it again.")
        return found


def load_model(path: str | Path) -> LoadedModel:
    """Read an ONNX file; the bytes are read once, and external data is not read at all.

    Raises:
        InvalidModel: there is no such file, or it is not an ONNX model with a graph.

    """
    path = Path(path)
    called = shown(str(path))
    try:
        stamp = _stamp(path.stat())
        data = _read(path, called)
    except FileNotFoundError:
        raise InvalidModel(f"There is no file {called}: check the path.") from None
    except OSError as error:
        raise InvalidModel(f"{called} cannot be read: {error.strerror or error}.") from None
    return LoadedModel(_parsed(data, called), path, stamp=stamp, raw_lengths=raw_lengths(data))


def load_bytes(stream: BinaryIO, called: str) -> LoadedModel:
    """Read a model from a pipe; external data, if it has any, cannot be found.

    Args:
        stream: read to its end.
        called: how messages call it.

    Raises:
        InvalidModel: what comes is not an ONNX model with a graph.

    """
    data = stream.read(_LARGEST_FILE + 1)
    called = called[:1].upper() + called[1:]
    if not data:
        raise InvalidModel(f"{called} is empty: fetch the model again.")
    _refuse_lookalikes(data[:_HEAD], called)
    _refuse_size(len(data), called)
    digest = hashlib.sha256(data).hexdigest()
    return LoadedModel(_parsed(data, called), digest=digest, raw_lengths=raw_lengths(data))


def _parsed(data: bytes | memoryview, called: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise InvalidModel(
            f"{called} is not an ONNX model, or it is truncated or damaged: fetch it again."
        ) from None
    if not proto.HasField("graph"):
        raise InvalidModel(f"{called} holds no graph: it is not an ONNX network.")
    return proto


def from_proto(proto: onnx.ModelProto) -> LoadedModel:
    """A model made in memory; its external data, if any, cannot be found.

    Raises:
        InvalidModel: it has no graph.

    """
    if not proto.HasField("graph"):
        raise InvalidModel("The model holds no graph: it is not an ONNX network.")
    return LoadedModel(proto)


def _read(path: Path, called: str) -> bytes | memoryview:
    """The bytes of a file that may be an ONNX model; what is plainly something else is not read.

    They are mapped where that is possible: reading takes as long as parsing does.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise InvalidModel(f"{called} is a folder: name the ONNX file in it.")
    if not stat.S_ISREG(mode):
        raise InvalidModel(f"{called} is a device or a pipe: write the model to a file first.")
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if not head:
            raise InvalidModel(f"{called} is empty: fetch the model again.")
        _refuse_lookalikes(head, called)
        _refuse_size(os.fstat(file.fileno()).st_size, called)
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (ValueError, OSError):  # a file system that does not map, or does not say how long a file is
            file.seek(0)
            return file.read(_LARGEST_FILE)


def _refuse_size(size: int, called: str) -> None:
    if size > _LARGEST_FILE:
        raise InvalidModel(
            f"{called} is larger than an ONNX file can be (2 GB): save its weights as external data."
        )


def _refuse_lookalikes(head: bytes, called: str) -> None:
    for at, mark, what, advice in _MARKS:
        if head.startswith(mark, at):
            raise InvalidModel(f"{called} is {what}, not an ONNX model: {advice}.")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:9].lower()
    if start.startswith((b"<!doctype", b"<html")):
        raise InvalidModel(f"{called} is an HTML page: download the model file itself.")
    if _is_text(head):
        raise InvalidModel(f"{called} is a text file: pass the ONNX file.")


def _is_text(head: bytes) -> bool:
    """Whether a file begins like a text (a model begins with its IR version, a control character)."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character may be cut in two at the end of what was looked at.
        if error.start < len(head) - 3 or len(head) < _HEAD:
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\t\n\r\f" for c in text.removeprefix("\ufeff"))


def tensor_array(tensor: onnx.TensorProto, folder: Path | None) -> np.ndarray[Any, Any]:
    """Value of a tensor, without a copy where that is possible (then read-only).

    Raises:
        InvalidModel: its external data is missing, too short or outside the model's folder.

    """
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return _inline(tensor, tensor.name)
    where = resolve(tensor, folder)
    if where.length == 0 or is_packed(tensor):
        inside = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims)
        inside.raw_data = b"".join(_pieces(where, tensor.name))
        return _inline(inside, tensor.name)
    shape = tuple(tensor.dims)
    return np.memmap(
        where.path, stored_dtype(tensor.data_type), "r", where.offset, shape if shape else (1,)
    ).reshape(shape)


def _inline(tensor: onnx.TensorProto, name: str) -> np.ndarray[Any, Any]:
    try:
        array = inline_array(tensor)
    except (ValueError, OverflowError, TypeError):
        raise InvalidModel(f"The data of tensor {shown(name)} does not fit its type and shape.") from None
    array.flags.writeable = False
    return array


def tensor_bytes(tensor: onnx.TensorProto, folder: Path | None) -> Iterator[bytes]:
    """A tensor's bytes as ``raw_data`` holds them, in pieces.

    Raises:
        InvalidModel: see ``tensor_array``; or the type has no such bytes (strings).

    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield from _pieces(resolve(tensor, folder), tensor.name)
    elif tensor.HasField("raw_data"):
        yield tensor.raw_data
    elif tensor.data_type == onnx.TensorProto.STRING:
        raise InvalidModel(f"Tensor {shown(tensor.name)} holds texts, which have no raw bytes.")
    else:
        yield numpy_helper.from_array(_inline(tensor, tensor.name)).raw_data


def _pieces(where: ExternalRange, name: str) -> Iterator[bytes]:
    left = where.length
    with where.path.open("rb") as file:
        file.seek(where.offset)
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                raise InvalidModel(f"The external data of tensor {shown(name)} ended while it was read.")
            left -= len(piece)
            yield piece
