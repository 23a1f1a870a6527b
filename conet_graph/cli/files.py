"""The files a command reads and writes: outputs are looked at before any work begins, '-' is a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from conet_graph.cli.common import say
from conet_graph.ir.errors import BadUsage, InvalidModel, shown

if TYPE_CHECKING:
    from conet_graph.ir.load import LoadedModel

PIPE = Path("-")
# What an input is called in messages, and where it lies.
Input = tuple[str, Path]


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Input]) -> None:
    """Refuse outputs that cannot be written, or whose writing would destroy an input or another output.

    Links are resolved, so that one file under two names is one file.

    Args:
        outputs: by their option; None where it is not given.
        inputs: what the command reads; of a folder, all that lies in it.

    Raises:
        BadUsage: with the first output that is wrong.

    """
    from conet_graph.ir.save import data_files, require_writable

    read = list(inputs)
    written: list[tuple[str, Path]] = []
    for option, path in outputs.items():
        if path is None:
            continue
        if path == PIPE:
            raise BadUsage(f"{option} takes no pipe: name a file (one that is called '-' by its full path).")
        require_writable(path)
        for what, other in read:
            if _same(path, other) or _holds(other, path):
                raise BadUsage(
                    f"{option} would overwrite {what}, {shown(str(other))}: name another file to write."
                )
        for earlier, other in written:
            if _same(path, other):
                raise BadUsage(f"{option} and {earlier} both name {shown(str(path))}: name two files.")
        written.append((option, path))
        # With a model that is replaced, the data file that belongs to it goes.
        for stale in data_files(path):
            for what, other in read:
                if _same(path.with_name(stale), other):
                    raise BadUsage(
                        f"{option} replaces a model that shares {shown(stale)} with {what}, which needs it:"
                        " name another file to write."
                    )


def model_files(loaded: LoadedModel, what: str) -> Iterator[Input]:
    """A model's own file and the data files beside it."""
    from conet_graph.ir.scopes import all_tensors

    if loaded.path is None:
        return
    yield what, loaded.path
    places = dict.fromkeys(
        entry.value
        for tensor in all_tensors(loaded.proto)
        for entry in tensor.external_data
        if entry.key == "location"
    )
    for place in places:
        yield f"{what}'s data", loaded.path.parent / place


def named_inputs(inputs: Mapping[str, Path | None]) -> Iterator[Input]:
    """Inputs by what they are called; ONNX files bring the data files beside them."""
    from conet_graph.ir.load import load_model

    for what, path in inputs.items():
        if path is None:
            continue
        yield what, path
        if path.suffix == ".onnx" and path.is_file():
            try:
                yield from model_files(load_model(path), what)
            except InvalidModel:
                continue  # told by whoever reads it


def data_input(spec: str | None) -> Path | None:
    """The file or folder that a plain path or ``KIND:PATH`` names; None for data that come with a package."""
    for path in (spec or "", (spec or "").partition(":")[2]):
        if path and Path(path).exists():
            return Path(path)
    return None


def _same(a: Path, b: Path) -> bool:
    if os.path.realpath(a) == os.path.realpath(b):
        return True
    try:
        return os.path.samefile(a, b)
    except (OSError, ValueError):
        return False


def _holds(folder: Path, path: Path) -> bool:
    """Whether a folder that is read holds a file that is there already."""
    real = os.path.realpath(folder)
    return (
        os.path.isdir(real) and path.exists() and os.path.commonpath([real, os.path.realpath(path)]) == real
    )


def load_given(path: Path) -> LoadedModel:
    """Read a model from a file, or from stdin where the path is '-'; what has to be assumed of it is said.

    Raises:
        InvalidModel: it is no model.
        BadUsage: stdin is a terminal.

    """
    from conet_graph.ir.assumed_opset import assume_opset
    from conet_graph.ir.load import load_bytes, load_model

    if path != PIPE:
        loaded = load_model(path)
    elif sys.stdin is None or sys.stdin.isatty():
        raise BadUsage("'-' reads the model from a pipe, and stdin is none: name a file.")
    else:
        loaded = load_bytes(sys.stdin.buffer, "what came through the pipe")
    assume_opset(loaded)
    if loaded.assumed is not None:
        say(loaded.assumed)
    return loaded


def require_pipe_out() -> None:
    """Refuse to write a model to a terminal.

    Raises:
        BadUsage: stdout is one.

    """
    if sys.stdout.isatty():
        raise BadUsage("-o - writes the model to a pipe, and stdout is a terminal: name a file.")


def write_to_pipe(parts: Iterable[bytes]) -> None:
    """Write a file's content to stdout."""
    sys.stdout.flush()
    sys.stdout.buffer.writelines(parts)
    sys.stdout.buffer.flush()
