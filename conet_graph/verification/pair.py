"""The two networks that are compared, open in ONNX Runtime: the reference and the rewritten one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from conet_graph.ir.errors import ConetGraphError
from conet_graph.ir.forked import doing
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import load_model, tensor_array
from conet_graph.ir.save import save_scratch
from conet_graph.verification.inputs import DRAWS, SIZES, Arrays, Shapes, drawn
from conet_graph.verification.reference import Reference, the_file
from conet_graph.verification.report import Report
from conet_graph.verification.runtime import RUNTIME, first_line, lacks_an_operator, open_session

Left = dict[str, dict[int, NDArray[np.int64]]]
OURS = "a fault of conet-graph, please report it"


@dataclass(frozen=True)
class Agreement:
    """How far a value lies apart in two networks, how far it may, and what rounding does to it: as shares."""

    apart: float
    allowed: float
    spread: float


@dataclass(frozen=True)
class ComparedRun:
    """Inputs, and what the reference makes of them, output by output.

    ``agreed`` holds those that were compared and found equal.
    """

    batch: int
    feeds: Arrays
    outputs: dict[str, Any]
    agreed: dict[str, Agreement] = field(default_factory=dict)
    # What the rewritten network made of them, once it was run.
    found: dict[str, Any] = field(default_factory=dict)


@dataclass
class Lazily:
    """A network that becomes a file when somebody needs one."""

    made: Reference
    place: Path
    folder: Path | None

    @cached_property
    def path(self) -> Path:
        """Where it lies."""
        self.made.save(self.place, self.folder)
        return self.place


@dataclass
class OpenPair:
    """The open sessions, and where their files lie.

    ``size`` is one of free axes at which the reference runs; ``left`` says of values inside, which both give
    out, what channels the rewritten network has of them: for each axis, the old position of each new one.
    ``noisy`` are the numbers of the operators that noise is put before.
    """

    reference: Any
    rewritten: Any
    reference_file: Lazily
    rewritten_file: Path
    size: int | None = None
    shapes: Shapes = field(default_factory=dict)
    left: Left = field(default_factory=dict)
    noisy: frozenset[int] = frozenset()

    def run_reference(self, batch: int, draws: range = range(len(DRAWS))) -> ComparedRun | str:
        """Run the reference on the first of some draws that it runs on; else what ONNX Runtime says."""
        told = "no inputs"
        sizes = SIZES if self.size is None else (self.size,)
        for size, feeds in _feeds(self.reference, batch, draws, sizes, self.shapes):
            try:
                outputs = run_original(self.reference, feeds)
            except Exception as error:
                told = first_line(error) if told == "no inputs" else told
                continue
            self.size = size
            return ComparedRun(batch, feeds, named(self.reference, outputs))
        return told

    def run_rewritten(self, feeds: Arrays) -> dict[str, Any]:
        """Run the rewritten network.

        Raises:
            Exception: whatever ONNX Runtime raises.

        """
        doing(RUNTIME, "running the rewritten network")
        mine = {name: self.narrowed(name, value) for name, value in feeds.items()}
        return named(self.rewritten, self.rewritten.run(None, mine))

    def narrowed(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """A value of the reference as the rewritten network has it: inputs and outputs stay as they are."""
        for axis, index in self.left.get(name, {}).items():
            value = np.take(value, index, axis=axis)
        return value


def _feeds(
    session: Any, batch: int, draws: range, sizes: Iterable[int], shapes: Shapes | None
) -> Iterator[tuple[int, Arrays]]:
    """Inputs of each draw at each size, where the session leaves the size open; else once."""
    for draw in draws:
        tried: set[tuple[tuple[int, ...], ...]] = set()
        for size in sizes:
            feeds = drawn(session, batch, size, draw, shapes)
            form = tuple(value.shape for value in feeds.values())
            if form not in tried:
                tried.add(form)
                yield size, feeds


def run_original(session: Any, feeds: Arrays) -> list[Any]:
    """Run a session of the user's network, or of what it should compute; a crash is told as one of it.

    Raises:
        Exception: whatever ONNX Runtime raises.

    """
    doing(RUNTIME, "running the original network")
    outputs: list[Any] = session.run(None, feeds)
    return outputs


def named(session: Any, outputs: list[Any]) -> dict[str, Any]:
    """Outputs by name."""
    return {entry.name: value for entry, value in zip(session.get_outputs(), outputs, strict=True)}


def opened(
    graph: Graph, made: Reference, path: Path, report: Report, temporary: Path, left: Left
) -> OpenPair | None:
    """Open both networks, the values of ``left`` given out too.

    None where that fails, and the report says why.
    """
    try:
        doing(RUNTIME, "loading the original network")
        give_out(graph, made.model, left)
        file = Lazily(made, temporary / "reference.onnx", graph.folder)
        reference = session_of(file)
    except ConetGraphError:
        raise
    except Exception as error:
        if file_session(graph, temporary) is not None:
            report.fail(f"the original with channels silenced does not load ({OURS}): {first_line(error)}")
            return None
        report.runs.append({"skipped": f"ONNX Runtime does not load the original: {first_line(error)}"})
        _load_alone(path, report)
        return None
    doing(RUNTIME, "loading the rewritten network")
    try:
        if left:
            model = onnx.ModelProto()
            model.CopyFrom(load_model(path).proto)
            give_out(graph, model, left)
            path = path.with_name("watched.onnx")
            save_scratch(model, path, path.parent)
        return OpenPair(reference, open_session(path, fused=False), file, path, left=left)
    except Exception as error:
        report.fail(f"ONNX Runtime does not load it: {first_line(error)}")
        return None


def session_of(file: Lazily) -> Any:
    """A reference in ONNX Runtime: from memory, or from its file where that is not taken."""
    made = file.made
    if made.held:
        arrays = {name: np.asarray(tensor_array(tensor, file.folder)) for name, tensor in made.held.items()}
        with suppress(Exception):
            return open_session(made.model, fused=False, weights=arrays)
    return open_session(file.path, fused=False)


def give_out(graph: Graph, model: onnx.ModelProto, names: Iterable[str]) -> None:
    """Make values of a network outputs of a model of it."""
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, graph.dtypes[name], None))


def open_file(graph: Graph, temporary: Path) -> Any:
    """The user's own file in a session.

    Raises:
        Exception: ONNX Runtime does not load it; whatever it raises.

    """
    place = temporary / "original.onnx"
    doing(RUNTIME, "loading the original network")
    save_scratch(the_file(graph), place, graph.folder)
    return open_session(place, fused=False)


def file_session(graph: Graph, temporary: Path) -> Any | None:
    """The user's own file in a session; None where ONNX Runtime does not load it."""
    try:
        return open_file(graph, temporary)
    except ConetGraphError:
        raise
    except Exception:
        return None


def runs(session: Any, batch: int) -> bool:
    """Whether a session of the original runs on some draw, at some size."""
    for _, feeds in _feeds(session, batch, range(len(DRAWS)), SIZES, None):
        try:
            run_original(session, feeds)
        except Exception:
            continue
        return True
    return False


def _load_alone(path: Path, report: Report) -> None:
    """Load the rewritten network where the original cannot be loaded."""
    doing(RUNTIME, "loading the rewritten network")
    report.equality = "not checked: ONNX Runtime does not load the original"
    try:
        open_session(path, fused=False)
        report.runs.append({"loaded": True})
    except Exception as error:
        if not lacks_an_operator(error):
            report.fail(f"ONNX Runtime refuses it, and the original too: {first_line(error)}")
        report.equality = "not checked: ONNX Runtime loads neither network"
        report.original_is_sound = False
