"""How far a network's outputs are from the original's, in units of the original's variance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx

from conet_graph.calibration.float32 import in_float32
from conet_graph.calibration.stages import Array, Feeds, answers, opened, plain, whole
from conet_graph.ir.errors import Refused, shown
from conet_graph.ir.graph import Graph


class Judge:
    """The original's outputs on some inputs, and the error of other networks on them."""

    def __init__(
        self,
        graph: Graph,
        original: onnx.ModelProto,
        values: Mapping[str, int | None],
        feeds: Feeds | Callable[[Any], Feeds],
    ) -> None:
        """Run the original.

        Args:
            graph: the network.
            original: its model.
            values: those that are compared, as ``judged_values`` finds them.
            feeds: the inputs, or what draws them for a session of the original.

        Raises:
            Refused: its outputs are the same for all inputs, or none of them is a float.

        """
        if not values:
            raise Refused("The network gives out no floating-point numbers: there is nothing to compare.")
        self.values, self.axes = list(values), list(values.values())
        self.folder = graph.folder
        session = self._opened(original)
        self.feeds = feeds(session) if callable(feeds) else feeds
        self.wanted = self._answers(session)
        self.spreads = spreads(self.wanted)
        if not all(np.isfinite(spread) for spread in self.spreads):
            raise Refused(
                "The network's outputs on the calibration inputs are not finite: nothing can be fitted."
            )
        if not any(spread > 0 for spread in self.spreads):
            names = ", ".join(shown(v) for v in self.values[:3]) or "none is a number"
            raise Refused(
                f"The network's outputs ({names}) are the same for all calibration inputs: they say nothing."
            )

    def error(self, model: onnx.ModelProto) -> float:
        """Mean square difference over the outputs' variance, the mean over outputs."""
        return self.difference(self._answers(self._opened(model)))

    def difference(self, have: list[list[Array]]) -> float:
        """The same for outputs that are there already: a list of arrays for each feed."""
        return relative_error(self.wanted, have, self.spreads)

    def _opened(self, model: onnx.ModelProto) -> Any:
        model = in_float32(whole(model, self.folder))
        with _giving(model, self.values):
            return opened(model)

    def _answers(self, session: Any) -> list[list[Array]]:
        names = {i.name for i in session.get_inputs()}
        return [
            centred(
                answers(session, self.values, {n: plain(v) for n, v in feed.items() if n in names}), self.axes
            )
            for feed in self.feeds
        ]


def centred(values: Sequence[Array], axes: Sequence[int | None]) -> list[Array]:
    """Values of one run, without what may be added to them along an axis without a difference."""
    return [
        a if axis is None else a - a.mean(axis, keepdims=True) for a, axis in zip(values, axes, strict=True)
    ]


def spreads(runs: Sequence[Sequence[Array]]) -> list[float]:
    """Of each value, the sum of squares about its mean over all runs."""
    return [_spread(arrays) for arrays in zip(*runs, strict=True)]


def relative_error(
    wanted: Sequence[Sequence[Array]], have: Sequence[Sequence[Array]], spread: Sequence[float]
) -> float:
    """Square differences over what the wanted values spread, the mean over those that do; or infinite.

    It is infinite, too, where shapes differ: what depends on the values themselves cannot be compared.

    Args:
        wanted: the values of each run.
        have: those that should equal them.
        spread: of each value, as ``spreads`` gives it; one at least is not 0.

    """
    pairs = [pair for run in zip(wanted, have, strict=True) for pair in zip(*run, strict=True)]
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    errors = []
    for k, about_mean in enumerate(spread):
        if about_mean > 0:
            errors.append(sum(_square(a[k] - b[k]) for a, b in zip(wanted, have, strict=True)) / about_mean)
    found = float(np.mean(errors))
    return found if np.isfinite(found) else float("inf")


def asked(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """A model with other outputs."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _set_outputs(made, values)
    return made


@contextmanager
def _giving(model: onnx.ModelProto, values: Sequence[str]) -> Iterator[None]:
    """Let a model have other outputs for a while: a copy would hold its weights twice."""
    own = list(model.graph.output)
    _set_outputs(model, values)
    try:
        yield
    finally:
        del model.graph.output[:]
        model.graph.output.extend(own)


def _set_outputs(model: onnx.ModelProto, values: Sequence[str]) -> None:
    known = {o.name: o for o in model.graph.output}
    wanted = [known.get(v) or onnx.ValueInfoProto(name=v) for v in values]
    del model.graph.output[:]
    model.graph.output.extend(wanted)


def _square(array: Array) -> float:
    return float(np.square(array, dtype=np.float64).sum())


def _spread(arrays: Sequence[Array]) -> float:
    """The sum of squares about the mean: of each entry where all inputs give equal shapes, else of all."""
    if len({a.shape[1:] for a in arrays if a.ndim}) == 1 and sum(len(a) for a in arrays) > 1:
        count = sum(len(a) for a in arrays)
        mean = sum(a.sum(0, dtype=np.float64) for a in arrays) / count
    else:
        mean = sum(a.sum(dtype=np.float64) for a in arrays) / max(sum(a.size for a in arrays), 1)
    total = sum(_square(a - mean) for a in arrays)
    size = sum(_square(a) for a in arrays)
    if not np.isfinite(size):
        return size
    return total if total > 1e-9 * size else 0.0
