"""A network run stage by stage on all inputs, so that a layer can change before anything reads its output.

A stage begins at a layer and ends before the next one. Values are kept, for all inputs, only until the last
stage that reads them has run: memory is bounded by what lives at one place of the network, not by its depth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from conet_graph.calibration.float32 import in_float32
from conet_graph.calibration.side_by_side import own_threads
from conet_graph.ir.errors import ConetGraphError, Refused
from conet_graph.ir.forked import doing
from conet_graph.ir.graph import read_inside
from conet_graph.ir.load import tensor_array
from conet_graph.ir.overridable import FIRST_FREE_IR
from conet_graph.ir.save import has_external

Array = NDArray[Any]
Feeds = Sequence[dict[str, Array]]


class Stages:
    """A model cut into stages, and the values that live between them: a list of arrays, one a feed."""

    def __init__(
        self,
        model: onnx.ModelProto,
        starts: Iterable[int],
        feeds: Feeds,
        folder: Path | None = None,
        wanted: Iterable[str] = (),
    ) -> None:
        """Cut a model.

        Args:
            model: valid but for empty nodes, which do nothing; left as it is.
            starts: indices of the nodes at which stages begin.
            feeds: the graph's inputs, a dict for each run.
            folder: where external weights lie.
            wanted: values that are kept until they are let go, as often as they are named here, in addition
                to what later stages read.

        """
        self.model = in_float32(whole(model, folder))
        self.feeds = feeds
        # Copies: a layer that gets a bias gets another input.
        self.nodes = nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in self.model.graph.node]
        cuts = sorted({0, *(s for s in starts if s < len(nodes))})
        self.spans = [
            [node for node in nodes[a:b] if node.op_type]
            for a, b in zip(cuts, [*cuts[1:], len(nodes)], strict=True)
        ]
        self.stage_of = {
            index: k
            for k, (a, b) in enumerate(zip(cuts, [*cuts[1:], len(nodes)], strict=True))
            for index in range(a, b)
        }
        self.weights = {t.name: t for t in self.model.graph.initializer}
        self.sparse = {s.values.name: s for s in self.model.graph.sparse_initializer}
        self.folder = folder
        self.reads = [_reads(span) for span in self.spans]
        self.makes = [{o for n in span for o in n.output if o} for span in self.spans]
        self.maker = {name: k for k, made in enumerate(self.makes) for name in made}
        self.left = Counter(name for reads in self.reads for name in reads)
        self.left.update(o.name for o in self.model.graph.output)
        self.left.update(wanted)
        self.done = [False] * len(self.spans)
        self.peak = 0  # bytes of all values that were kept at once
        names = {v.name for v in self.model.graph.input}
        self.values: dict[str, list[Array]] = {
            name: [plain(feed[name]) for feed in feeds] for name in names if feeds and name in feeds[0]
        }

    def ready(self, value: str) -> None:
        """Run the stages that a value comes from, and no others."""
        if value in self.maker and not self.done[self.maker[value]]:
            self.run(self.maker[value])

    def needs(self, number: int) -> set[str]:
        """The values that a stage reads and an earlier one makes."""
        return {name for name in self.reads[number] if name in self.maker}

    def before(self, value: str) -> set[int]:
        """The stages that must run before a value is there, those that have run left out."""
        found: set[int] = set()
        pending = [value]
        while pending:
            number = self.maker.get(pending.pop())
            if number is None or number in found or self.done[number]:
                continue
            found.add(number)
            pending.extend(self.needs(number))
        return found

    def run(self, number: int) -> None:
        """Run a stage, after those it needs, on every feed."""
        if self.done[number]:
            return
        for name in self.needs(number):
            self.ready(name)
        self.done[number] = True
        wanted = [name for name in sorted(self.makes[number]) if self.left[name] > 0]
        if wanted:
            self._execute(number, wanted)
        for name in self.reads[number]:
            self.let_go(name)

    def can_run_again(self, number: int) -> bool:
        """Whether a stage has run, and all that it reads and what it made is still there."""
        reads = {name for name in self.reads[number] if name in self.maker or self._is_input(name)}
        return self.done[number] and reads <= self.values.keys()

    def run_again(self, number: int) -> None:
        """Run a stage whose weights have changed; nothing but values that are kept is made anew."""
        self._execute(number, [name for name in sorted(self.makes[number]) if name in self.values])

    def _is_input(self, name: str) -> bool:
        return any(name == i.name for i in self.model.graph.input) and name not in self.weights

    def let_go(self, name: str) -> None:
        """Forget a value once its last reader has had it."""
        self.left[name] -= 1
        if self.left[name] <= 0 and name in self.maker:
            self.values.pop(name, None)

    def set_weight(self, name: str, array: Array) -> None:
        """Give an initializer another value, or make a new one."""
        self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)

    def weight(self, name: str) -> Array:
        """The value of an initializer."""
        return tensor_array(self.weights[name], self.folder)

    def _execute(self, number: int, wanted: list[str]) -> None:
        reads = [name for name in sorted(self.reads[number]) if name in self.values]
        session = self._session(number, reads, wanted)
        doing("ONNX Runtime", "running the network on the calibration inputs")
        found: dict[str, list[Array]] = {name: [] for name in wanted}
        for k in range(len(self.feeds)):
            outputs = answers(session, wanted, {name: self.values[name][k] for name in reads})
            for name, value in zip(wanted, outputs, strict=True):
                found[name].append(value)
        self.values.update(found)
        self.peak = max(self.peak, sum(_nbytes(v) for values in self.values.values() for v in values))

    def _session(self, number: int, reads: list[str], wanted: list[str]) -> Any:
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(self.values[n][0].dtype), None)
            for n in reads
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
        held = [self.weights[n] for n in sorted(self.reads[number]) if n in self.weights and n not in reads]
        graph = helper.make_graph(self.spans[number], "stage", inputs, outputs)
        graph.initializer.extend(held)
        graph.sparse_initializer.extend(s for n, s in self.sparse.items() if n in self.reads[number])
        return opened(
            helper.make_model(
                graph,
                opset_imports=self.model.opset_import,
                ir_version=max(self.model.ir_version, FIRST_FREE_IR),
            )
        )


def whole(model: onnx.ModelProto, folder: Path | None) -> onnx.ModelProto:
    """A model that holds all its weights itself."""
    if not has_external(model):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(np.array(tensor_array(tensor, folder)), tensor.name))
    return made


def opened(model: onnx.ModelProto) -> Any:
    """A quiet ONNX Runtime session of a model that is held in memory."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = own_threads()
    # Threads that wait for the next run spin, and take the cores from what is computed in between.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    doing("ONNX Runtime", "loading the network to calibrate it")
    with _refusing():
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answers(session: Any, wanted: Sequence[str], feed: dict[str, Array]) -> list[Array]:
    """What a session gives.

    Raises:
        Refused: ONNX Runtime does not run the network on this input.

    """
    with _refusing():
        # A scalar comes as a number of numpy's, which a later run would not take.
        return [np.asarray(v) if isinstance(v, np.generic) else v for v in session.run(list(wanted), feed)]


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what ONNX Runtime raises into a sentence."""
    try:
        yield
    except (MemoryError, ConetGraphError):
        raise
    except Exception as error:
        text = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise Refused(f"The network cannot be calibrated, ONNX Runtime says: {text}") from None


def _nbytes(value: Any) -> int:
    """Bytes of an array; 0 for a sequence or a map, which are rare and small."""
    return value.nbytes if isinstance(value, np.ndarray) else 0


def _reads(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """What nodes read that none of them makes."""
    made = {o for n in nodes for o in n.output}
    return {name for n in nodes for name in (*n.input, *read_inside(n)) if name} - made


def plain(array: Array) -> Array:
    """Half floats as float32."""
    return array.astype(np.float32) if array.dtype == np.float16 else array
