"""Networks timed in ONNX Runtime: fixed threads, warm, several of them in turn."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from conet_graph.costs.input_shapes import InputShapes
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.ir.forked import doing
from conet_graph.ir.save import save_model
from conet_graph.verification.inputs import random_inputs
from conet_graph.verification.runtime import RUNTIME, first_line

CPU = "CPUExecutionProvider"
WARM = 3  # runs before any is timed
SIZE = 64  # of free dimensions other than the batch, which is 1
LEAST_ROUNDS, RACE_SECONDS = 15, 2.0  # of networks that are compared
MOST_ROUNDS = 200


@dataclass(frozen=True)
class Conditions:
    """Where and how networks are timed.

    One thread on the processor is timed by the processor time of that thread, which other programs on the
    machine disturb least; several threads, or another provider, by the clock on the wall.
    """

    provider: str = CPU
    threads: int = 1
    shapes: InputShapes = field(default_factory=dict)  # of inputs whose sizes are free

    @property
    def clock(self) -> str:
        """What is read: ``thread`` or ``wall``."""
        return "thread" if self.threads == 1 and self.provider == CPU else "wall"

    def to_json(self) -> dict[str, Any]:
        """The conditions as plain data."""
        told = {"provider": self.provider, "threads": self.threads, "clock": self.clock}
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {**told, "input_shapes": shapes} if shapes else told

    def now(self) -> float:
        """Seconds."""
        return time.thread_time() if self.clock == "thread" else time.perf_counter()


def conditions_of(provider: str | None, threads: int, shapes: InputShapes | None = None) -> Conditions:
    """The conditions that are asked for.

    Raises:
        BadUsage: ONNX Runtime has no such provider here.

    """
    import onnxruntime as ort

    # The processor unless another is asked for: a GPU build without a GPU lists providers it cannot start.
    where = provider or CPU
    if where not in ort.get_available_providers():
        known = ", ".join(ort.get_available_providers())
        raise BadUsage(f"ONNX Runtime has no provider {provider!r} here: choose one of {known}.")
    return Conditions(where, threads, shapes or {})


@dataclass(frozen=True)
class Times:
    """Milliseconds of a run: the median of many, and the distance between their quartiles."""

    median: float
    spread: float

    def to_json(self) -> dict[str, float]:
        """The summary as plain data."""
        return {"median": self.median, "spread": self.spread}

    @staticmethod
    def of(milliseconds: Sequence[float]) -> Times:
        """The summary of one or more measurements."""
        low, middle, high = np.percentile(milliseconds, [25, 50, 75])
        return Times(float(middle), float(high - low))


def rounds(least: int, seconds: float) -> Iterator[int]:
    """Counts while networks are timed: at least so often, and so long; quick networks a few hundred times."""
    begin = time.perf_counter()
    for done in range(max(least, MOST_ROUNDS)):
        if done >= least and time.perf_counter() - begin >= seconds:
            return
        yield done


class Timed:
    """A network, open and warm."""

    def __init__(self, path: Path, conditions: Conditions, configure: Callable[[Any], None] | None = None):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = conditions.threads
        options.inter_op_num_threads = 1
        if configure is not None:
            configure(options)
        self.conditions = conditions
        doing(RUNTIME, "timing a network")
        try:
            self.session = open_session(path, options, conditions.provider)
            self.feeds = random_inputs(self.session, 1, SIZE, shapes=conditions.shapes)
            for _ in range(WARM):
                self.session.run(None, self.feeds)
        except Exception as error:
            text = first_line(error)
            raise Refused(f"The latency cannot be measured, ONNX Runtime says: {text}") from None

    def run(self) -> float:
        """Milliseconds of one run."""
        start = self.conditions.now()
        self.session.run(None, self.feeds)
        return (self.conditions.now() - start) * 1e3


def open_session(path: Path, options: Any, provider: str) -> Any:
    """An ONNX Runtime session."""
    import onnxruntime as ort

    return ort.InferenceSession(str(path), options, providers=[provider])


def opened(proto: onnx.ModelProto, folder: Path | None, conditions: Conditions) -> Timed:
    """A model, open and warm; ``folder`` is where its external data lies."""
    with tempfile.TemporaryDirectory(prefix="conet-graph-") as temporary:
        path = Path(temporary) / "candidate.onnx"
        save_model(proto, path, folder)
        return Timed(path, conditions)


def raced(first: Timed, second: Timed) -> tuple[Times, Times, float]:
    """Times of two networks run in turn, and the ratio second to first.

    The ratio is the median over rounds: what slows the machine down slows both down.
    """
    pairs = [(first.run(), second.run()) for _ in rounds(LEAST_ROUNDS, RACE_SECONDS)]
    ones, twos = zip(*pairs, strict=True)
    ratio = statistics.median(two / one for one, two in pairs)
    return Times.of(ones), Times.of(twos), ratio
