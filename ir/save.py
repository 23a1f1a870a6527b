"""Writing files: beside the target, then renamed, so that a reader sees the old file or the new one.

A model with external data is two files. The data file is named after its content, so it never
takes the place of the data that the old model file still refers to; the model file is renamed into
place after it, and old data of ours goes last. Killed at any moment, the path holds the old model
with its data or the new one with its data (and at worst an unused file lies beside).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import onnx

from conet_graph.ir.errors import BadUsage, InvalidModel, shown
from conet_graph.ir.load import load_model, tensor_bytes
from conet_graph.ir.scopes import all_tensors
from conet_graph.ir.tensors import nbytes
from conet_graph.ir.wire import copy_without, serialised

# One protobuf message cannot exceed 2 GiB; stay clear of it.
PROTOBUF_LIMIT = 2**31 - 2**20
# Tensors smaller than this stay inside the model file.
EXTERNAL_FROM = 1024
# Every tensor in a data file starts at a multiple of this.
ALIGNMENT = 64
# Whoever runs as root may write to files that nobody may: their mode counts, not what the system allows.
_ANY_WRITER = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def atomic_write(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file in one step as seen from outside.

    Raises:
        BadUsage: the folder does not exist, cannot be written or is full, or the path is no file.

    """
    with _one_sentence(path):
        made = [_staged(path, parts)]
        _publish(made, {made[0]: path})


def save_model(
    proto: onnx.ModelProto, path: str | Path, folder: Path | None = None, external: bool | None = None
) -> None:
    """Write a model; weights go beside it when the source had them there or 2 GB are passed.

    Args:
        proto: the model; left as it is.
        path: where to write.
        folder: where the model's external data lies now.
        external: True puts the weights beside the model in any case, False puts them into it.

    Raises:
        BadUsage: the folder cannot be written, or the model is too large for one file.
        InvalidModel: external data of the model is missing or damaged.

    """
    path = Path(path)
    had = has_external(proto)
    with _one_sentence(path):
        stale = data_files(path)
        if external or (external is None and (had or _too_large(proto))):
            kept = _save_beside(proto, path, folder)
        else:
            whole = _whole(proto, folder) if had else proto
            made = [_staged(path, serialised(whole))]
            _publish(made, {made[0]: path})
            kept = ""
        for name in stale - {kept}:
            path.with_name(name).unlink(missing_ok=True)


def one_file(proto: onnx.ModelProto, folder: Path | None = None) -> Iterator[bytes]:
    """The bytes of a model with all its weights inside, as for a pipe.

    Raises:
        BadUsage: it is too large for that.
        InvalidModel: external data of the model is missing or damaged.

    """
    if _too_large(proto):
        raise BadUsage("The model is larger than one file can be (2 GB): write it to a file, not to a pipe.")
    return serialised(_whole(proto, folder) if has_external(proto) else proto)


def save_scratch(proto: onnx.ModelProto, path: Path, folder: Path | None = None) -> None:
    """Write a model that is soon thrown away: it may be lost in a crash, so nothing waits for the disk.

    Raises:
        BadUsage, InvalidModel: see ``save_model``.

    """
    if has_external(proto) or _too_large(proto):
        save_model(proto, path, folder)
        return
    with _one_sentence(path), path.open("wb") as file:
        file.writelines(serialised(proto))


def has_external(proto: onnx.ModelProto) -> bool:
    """Whether some of a model's weights lie outside it."""
    return any(_is_external(t) for t in all_tensors(proto))


def require_writable(path: Path) -> None:
    """Look at an output before the work for it begins.

    Raises:
        BadUsage: nothing can be written there: its folder is missing or closed, it is a folder or a device,
            or a file that may not be changed.

    """
    with _one_sentence(path):
        if not stat.S_ISDIR(os.stat(path.parent).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if sys.platform != "win32" and os.statvfs(path.parent).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a clear error about ``path``."""
    try:
        if path.is_dir():
            raise BadUsage(f"{shown(str(path))} is a folder: name a file in it.")
        if path.exists() and not path.is_file():
            raise BadUsage(f"{shown(str(path))} is a device or a pipe: name a regular file.")
        if _is_own_file(path) and (not path.stat().st_mode & _ANY_WRITER or not os.access(path, os.W_OK)):
            raise BadUsage(f"{shown(str(path))} is read-only: make it writable, or name another file.")
        yield
    except OSError as error:
        raise BadUsage(f"{shown(str(path))} cannot be written: {error.strerror or error}.") from None


def _is_own_file(path: Path) -> bool:
    """Whether a file lies there itself: a link is replaced, and what it leads to is left alone."""
    return path.is_file() and not path.is_symlink()


def _staged(path: Path, parts: Iterable[bytes]) -> Path:
    """Write a complete file beside ``path`` under a name of its own."""
    staged = path.with_name(f".{_stem(path)[:60]}.{os.urandom(8).hex()}.tmp")
    try:
        with staged.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return staged


def _publish(made: list[Path], targets: dict[Path, Path]) -> None:
    """Rename staged files to their targets, in order; whatever fails, nothing staged is left."""
    try:
        for staged, target in targets.items():
            fresh = not target.exists()
            if _is_own_file(target):
                os.chmod(staged, stat.S_IMODE(target.stat().st_mode))
            os.replace(staged, target)
            if fresh:
                made.append(target)
        made.clear()
    finally:
        for leftover in made:
            leftover.unlink(missing_ok=True)
    _sync(next(iter(targets.values())).parent)


def _sync(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can sync folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _too_large(proto: onnx.ModelProto) -> bool:
    """Whether the weights alone fill a protobuf message (by their shapes: no byte is touched)."""
    inside = (t for t in all_tensors(proto) if t.data_type != onnx.TensorProto.STRING)
    return sum(nbytes(t) for t in inside) >= PROTOBUF_LIMIT


def _save_beside(proto: onnx.ModelProto, path: Path, folder: Path | None) -> str:
    """Write the model with its larger weights in a data file, and return that file's name."""
    small, moved = _with_references(proto, folder)
    digest = hashlib.sha256()
    made = [_staged(path, _hashed(_aligned([source for source, _ in moved], folder), digest))]
    try:
        name = f"{_stem(path)}.{digest.hexdigest()[:16]}.data"
        for _, tensor in moved:
            tensor.external_data.add(key="location", value=name)
        made.append(_staged(path, serialised(small)))
    except BaseException:
        made[0].unlink(missing_ok=True)
        raise
    _publish(made, {made[0]: path.with_name(name), made[1]: path})
    return name


def _with_references(
    proto: onnx.ModelProto, folder: Path | None
) -> tuple[onnx.ModelProto, list[tuple[onnx.TensorProto, onnx.TensorProto]]]:
    """A copy without the larger weights, and which tensor of it stands for which of the model."""
    small = onnx.ModelProto()
    copy_light(proto, small)
    moved: list[tuple[onnx.TensorProto, onnx.TensorProto]] = []
    weights, offset = len(proto.graph.initializer), 0
    for index, (source, tensor) in enumerate(zip(all_tensors(proto), all_tensors(small), strict=True)):
        is_text = source.data_type == onnx.TensorProto.STRING
        large = index < weights and not is_text and nbytes(source) >= EXTERNAL_FROM
        if not large and not _is_external(source):
            if index < weights:
                tensor.CopyFrom(source)
            continue
        length = nbytes(source)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        moved.append((source, tensor))
        offset += length + -length % ALIGNMENT
    return small, moved


def _aligned(tensors: list[onnx.TensorProto], folder: Path | None) -> Iterator[bytes]:
    """The bytes of all tensors, each starting at a multiple of ``ALIGNMENT``."""
    for tensor in tensors:
        yield from tensor_bytes(tensor, folder)
        yield b"\0" * (-nbytes(tensor) % ALIGNMENT)


def _hashed(parts: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for part in parts:
        digest.update(part)
        yield part


def _whole(proto: onnx.ModelProto, folder: Path | None) -> onnx.ModelProto:
    """A copy with all external tensors inside."""
    if _too_large(proto):
        raise BadUsage("The model is larger than one file can be (2 GB): keep its weights beside it.")
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    for tensor in all_tensors(whole):
        if _is_external(tensor):
            tensor.raw_data = b"".join(tensor_bytes(tensor, folder))
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    return whole


def copy_light(proto: onnx.ModelProto, into: onnx.ModelProto) -> None:
    """Copy a model, of each weight of the main graph everything but its data."""
    copy_without(proto, into, "graph")
    copy_without(proto.graph, into.graph, "initializer")
    for tensor in proto.graph.initializer:
        light = into.graph.initializer.add(
            name=tensor.name,
            data_type=tensor.data_type,
            dims=tensor.dims,
            metadata_props=tensor.metadata_props,
        )
        if tensor.doc_string:
            light.doc_string = tensor.doc_string


def _stem(path: Path) -> str:
    """What data files beside ``path`` are called after: its name, without what a location may not hold."""
    return re.sub(r"[^\w.-]", "_", path.name)[:100]


def data_files(path: Path) -> set[str]:
    """Data files of ours that the model at ``path`` (about to be replaced) refers to: they go with it."""
    ours = re.compile(re.escape(_stem(path)) + r"\.[0-9a-f]{16}\.data")
    beside = {name for name in os.listdir(path.parent) if ours.fullmatch(name)}
    if not beside or not path.is_file():
        return set()
    try:
        old = load_model(path).proto
        return {e.value for t in all_tensors(old) for e in t.external_data if e.value in beside}
    except (InvalidModel, UnicodeDecodeError):
        return set()  # not a model: nothing of it to tidy
