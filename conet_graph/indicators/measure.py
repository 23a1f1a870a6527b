"""Rank, condition and knowledge gain of layers' weights, all layers at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from conet_graph.indicators.evbmf import Evbmf, Search, solve_evbmf
from conet_graph.indicators.unfold import Matrix, Weight, grams, normalised, place, spectra

# Numbers in one batch of Gram matrices, for the memory's sake.
BATCH = 2**24


@dataclass(frozen=True, slots=True)
class LayerIndicators:
    """What one weight says, on its output and on its input axis.

    Attributes:
        out_rank, in_rank: R = kept singular values over channels of that axis, 0 to 1.
        out_count, in_count: the kept singular values N'.
        out_condition, in_condition: largest over smallest kept shrunken singular value; 1 at rank
            0.
        out_noise_variance, in_noise_variance: of one weight.
        out_gain, in_gain: AdaS' knowledge gain, sum of d_h / d_1 over channels of that axis.

    """

    out_rank: float
    in_rank: float
    out_count: int
    in_count: int
    out_condition: float
    in_condition: float
    out_noise_variance: float
    in_noise_variance: float
    out_gain: float
    in_gain: float

    @property
    def gain(self) -> float:
        """The layer's knowledge gain: the mean of both axes'."""
        return (self.out_gain + self.in_gain) / 2


@dataclass(frozen=True, slots=True)
class _Axis:
    """One unfolding's answer."""

    rank: float = 0.0
    count: int = 0
    condition: float = 1.0
    noise_variance: float = 0.0
    gain: float = 0.0


@dataclass(frozen=True, slots=True)
class _Job:
    """A Gram matrix to solve, and whom it answers: axis of the weight -> channels there."""

    name: str
    gram: Matrix
    columns: int
    scale: float
    axes: dict[int, int]


def layer_indicators(
    weights: Mapping[str, Weight], *, input_first: Collection[str] = (), search: Search = "global"
) -> dict[str, LayerIndicators]:
    """Measure weights by empirical VBMF of both unfoldings (CONet, section 3).

    numpy arrays and tensors on the CPU are measured by numpy, without importing torch; tensors on a
    GPU by torch, there. Gram matrices are float64 and go in batches of one size.

    Rank 0, condition 1, gain 0 by definition: weights of one channel, all-zero, constant or
    noiseless low-rank ones (see `solve_evbmf`), ones with a NaN or an infinity (noise variance 0
    then), and empty ones. No weight raises.

    Args:
        weights: name -> weight, output channels first and input channels second, as Conv has them.
            A grouped convolution's second axis holds one group's inputs.
        input_first: names of weights that have the input channels first: ConvTranspose, MatMul.
        search: see `solve_evbmf`.

    Returns:
        The indicators, in the order of ``weights``.

    """
    batches: dict[tuple[str, int], list[_Job]] = {}
    for name, weight in weights.items():
        for job in _jobs(name, weight):
            batches.setdefault((place(job.gram), job.gram.shape[0]), []).append(job)
    answers: dict[tuple[str, int], _Axis] = {}
    for (_, side), jobs in batches.items():
        step = max(1, BATCH // side**2)
        for start in range(0, len(jobs), step):
            answers.update(_solved(jobs[start : start + step], search))
    flipped = set(input_first)
    layers = {}
    for name in weights:
        first, second = (answers.get((name, axis), _Axis()) for axis in (0, 1))
        layers[name] = _layer(second, first) if name in flipped else _layer(first, second)
    return layers


def _jobs(name: str, weight: Weight) -> Iterator[_Job]:
    values, scale = normalised(weight)
    shape = tuple(values.shape)
    size = math.prod(shape)
    if size == 0:
        return
    # Both unfoldings of a 1x1 kernel have the same singular values.
    pointwise = size == shape[0] * shape[1]
    parts = [dict(enumerate(shape[:2]))] if pointwise else [{0: shape[0]}, {1: shape[1]}]
    for axes, matrix in zip(parts, grams(values, [min(part) for part in parts]), strict=True):
        rows = shape[min(axes)]
        yield _Job(name, matrix, max(rows, size // rows), scale, axes)


def _solved(jobs: list[_Job], search: Search) -> Iterator[tuple[tuple[str, int], _Axis]]:
    columns = np.array([job.columns for job in jobs], np.int64)
    solution = solve_evbmf(spectra([job.gram for job in jobs]), columns, search)
    for row, job in enumerate(jobs):
        for axis, channels in job.axes.items():
            yield (job.name, axis), _axis(solution, row, channels, job.scale)


def _axis(solution: Evbmf, row: int, channels: int, scale: float) -> _Axis:
    count = int(solution.rank[row])
    kept = solution.shrunk[row, :count]
    return _Axis(
        rank=count / channels,
        count=count,
        condition=float(solution.condition[row]),
        noise_variance=float(solution.noise_variance[row]) * scale * scale,
        gain=float((kept / kept[0]).sum()) / channels if count else 0.0,
    )


def _layer(out: _Axis, into: _Axis) -> LayerIndicators:
    return LayerIndicators(
        out_rank=out.rank,
        in_rank=into.rank,
        out_count=out.count,
        in_count=into.count,
        out_condition=out.condition,
        in_condition=into.condition,
        out_noise_variance=out.noise_variance,
        in_noise_variance=into.noise_variance,
        out_gain=out.gain,
        in_gain=into.gain,
    )
