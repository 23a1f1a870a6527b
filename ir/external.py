"""External data: where a tensor's bytes lie, held inside the model's folder and checked for size."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx

from conet_graph.ir.errors import InvalidModel, shown
from conet_graph.ir.tensors import nbytes


@dataclass(frozen=True)
class ExternalRange:
    """A run of bytes in a file beside the model."""

    path: Path
    offset: int
    length: int


def resolve(tensor: onnx.TensorProto, folder: Path | None) -> ExternalRange:
    """Find the bytes of an external tensor.

    Raises:
        InvalidModel: the location leaves the model's folder or is no regular file, or offset and
            length are no numbers, lie outside the file, or contradict the tensor's shape.

    """
    where = f"external data of tensor {shown(tensor.name)}"
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    path = _contained(location, folder, where)
    offset = _number(entries.get("offset", "0"), "offset", where)
    expected = nbytes(tensor)
    length = _number(entries.get("length", str(expected)), "length", where)
    size = path.stat().st_size
    if length != expected:
        raise InvalidModel(f"The {where} has {length} bytes, but its shape needs {expected}.")
    if offset + length > size:
        raise InvalidModel(
            f"The {where} ends at byte {offset + length}, but {shown(location)} has only {size}:"
            " fetch the whole data file."
        )
    return ExternalRange(path, offset, length)


def _contained(location: str, folder: Path | None, where: str) -> Path:
    if folder is None:
        raise InvalidModel(f"The {where} cannot be found: the model was not read from a file.")
    parts = location.split("/")
    unsafe = not location or "\\" in location or ":" in location or "\0" in location
    if unsafe or location.startswith("/") or ".." in parts:
        raise InvalidModel(
            f"The {where} is at {shown(location)}, which is not a plain path inside the model's folder."
        )
    path = folder / location
    root = os.path.realpath(folder)
    if os.path.commonpath([root, os.path.realpath(path)]) != root:
        raise InvalidModel(
            f"The {where} leads out of the model's folder through a link: put the file itself there."
        )
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InvalidModel(f"The {where} is missing: put {shown(location)} beside the model.") from None
    except OSError as error:
        raise InvalidModel(f"The {where} cannot be read: {error.strerror or error}.") from None
    if not stat.S_ISREG(mode):
        raise InvalidModel(f"The {where} is at {shown(location)}, which is not a regular file.")
    return path


def _number(text: str, key: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidModel(f"The {where} has the {key} {shown(text)}, which is not a size in bytes.")
    return int(text)
