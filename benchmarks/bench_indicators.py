"""Indicators of all layers of a ResNet-34, against EVBMF from full SVDs of both unfoldings.

Weights are random float32 with the network's shapes and a low-rank signal. The SVD ways take one
unfolding at a time, without our Gram matrices and batches, and end in the same EVBMF, so that the
ratio is that of the spectra's cost alone: on a CPU, and where there is a GPU also there, each beside the
SVD of its own device. Ways alternate within a round; times are medians over the rounds.
Last, the share of an epoch: the indicators are measured once in each, of 5,000 images of 32 x 32 in
batches of 128, whose time is that of its median step, of 10 that are timed, times the number of steps.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from bench_training_step import DEVICE, ON_GPU, step

from conet_graph.indicators import LayerIndicators, layer_indicators, solve_evbmf
from conet_graph.indicators.unfold import unfold
from conet_graph.models import build

Weights = Mapping[str, np.ndarray]
Counts = dict[str, tuple[int, int]]

IMAGES, SIDE, BATCH, TIMED_STEPS = 5000, 32, 128, 10

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


def resnet34_weights(seed: int) -> dict[str, np.ndarray]:
    """Weights of the 36 convolutions."""
    shapes: list[tuple[int, int, int]] = [(64, 3, 7)]
    previous = 64
    for width, blocks in STAGES:
        for block in range(blocks):
            shapes += [(width, previous, 3), (width, width, 3)]
            if block == 0 and previous != width:
                shapes.append((width, previous, 1))
            previous = width
    random = np.random.default_rng(seed)
    weights = {}
    for number, (outputs, inputs, kernel) in enumerate(shapes):
        columns = inputs * kernel * kernel
        rank = max(1, outputs // 8)
        signal = random.standard_normal((outputs, rank)) @ random.standard_normal((rank, columns))
        noise = random.standard_normal((outputs, columns))
        values = (noise + 0.3 * signal) * (2 / columns) ** 0.5
        values = values.reshape(outputs, inputs, kernel, kernel)
        weights[f"conv{number}"] = values.astype(np.float32)
    return weights


def by_svd(weights: Mapping[str, Any], singular_values: Callable[[Any], Any]) -> Counts:
    """Ranks N' of both axes from an SVD of each unfolding, of arrays or tensors, in their precision."""
    counts = {}
    for name, weight in weights.items():
        ranks = []
        for axis in (0, 1):
            matrix = unfold(weight, axis)
            squares = np.asarray(singular_values(matrix), np.float64)[None] ** 2
            ranks.append(int(solve_evbmf(squares, np.array([max(matrix.shape)])).rank[0]))
        counts[name] = (ranks[0], ranks[1])
    return counts


def with_vectors(matrix: np.ndarray) -> np.ndarray:
    """Singular values by the SVD that gives vectors too."""
    return np.linalg.svd(matrix, full_matrices=False)[1]


def values_only(matrix: np.ndarray) -> np.ndarray:
    """Singular values alone."""
    return np.linalg.svd(matrix, compute_uv=False)


def with_vectors_on_gpu(matrix: torch.Tensor) -> torch.Tensor:
    """Singular values by the SVD that gives vectors too."""
    return torch.linalg.svd(matrix, full_matrices=False)[1].cpu()


def values_only_on_gpu(matrix: torch.Tensor) -> torch.Tensor:
    """Singular values alone."""
    return torch.linalg.svdvals(matrix).cpu()


def counts_of(layers: Mapping[str, LayerIndicators]) -> Counts:
    """Ranks N' of both axes as this package measures them."""
    return {name: (layer.out_count, layer.in_count) for name, layer in layers.items()}


def step_seconds() -> float:
    """Median time of a training step of ResNet-34, laid out and in the precision of a trial."""
    module = build("resnet34", classes=10, image=SIDE).to(DEVICE, memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, SIDE, SIDE).to(DEVICE, memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,)).to(DEVICE)
    once = step(module, images, labels)
    seconds = []
    for _ in range(TIMED_STEPS + 1):
        start = time.perf_counter()
        once()
        if ON_GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    weights = resnet34_weights(0)
    in_float64 = {name: weight.astype(np.float64) for name, weight in weights.items()}
    tensors = {name: torch.from_numpy(weight) for name, weight in weights.items()}
    ways: dict[str, Callable[[], Counts]] = {
        "SVD with vectors, float64": lambda: by_svd(in_float64, with_vectors),
        "SVD with vectors, float32": lambda: by_svd(weights, with_vectors),
        "SVD values only, float64": lambda: by_svd(in_float64, values_only),
        "layer_indicators, numpy": lambda: counts_of(layer_indicators(weights)),
        "layer_indicators, torch": lambda: counts_of(layer_indicators(tensors)),
    }
    if ON_GPU:
        there = {name: tensor.to(DEVICE) for name, tensor in tensors.items()}
        doubles = {name: tensor.double() for name, tensor in there.items()}
        ways["GPU: SVD with vectors, float64"] = lambda: by_svd(doubles, with_vectors_on_gpu)
        ways["GPU: SVD with vectors, float32"] = lambda: by_svd(there, with_vectors_on_gpu)
        ways["GPU: SVD values only, float64"] = lambda: by_svd(doubles, values_only_on_gpu)
        ways["GPU: layer_indicators"] = lambda: counts_of(layer_indicators(there))
        layer_indicators({"warm-up": there["conv0"]})
        torch.linalg.svd(doubles["conv0"].flatten(1))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counts: dict[str, Counts] = {}
    layer_indicators({"warm-up": weights["conv0"], "tensor": tensors["conv0"]})
    for _ in range(parser.parse_args().rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            counts[name] = way()
            seconds[name].append(time.perf_counter() - start)
    full = "SVD with vectors, float64"
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{len(weights)} convolutions of ResNet-34, threads: {torch.get_num_threads()}\n")
    print("| way | seconds | full SVD takes | layers with other ranks |\n|---|---:|---:|---:|")
    for name, median in medians.items():
        others = sum(counts[name][layer] != counts[full][layer] for layer in weights)
        ratio = medians[f"GPU: {full}" if name.startswith("GPU") else full] / median
        print(f"| {name} | {median:.3f} | {ratio:.1f} times as long | {others} |")
    steps = math.ceil(IMAGES / BATCH)
    epoch = steps * step_seconds()
    ours = "GPU: layer_indicators" if ON_GPU else "layer_indicators, torch"
    share = medians[ours] / epoch
    print(
        f"\nAn epoch of {IMAGES:,} images of {SIDE} x {SIDE}: {epoch:.0f} s ({steps} steps of {BATCH}, scaled"
    )
    print(f"from {TIMED_STEPS}); {ours}, once in an epoch: {share:.2%} of that.")


if __name__ == "__main__":
    main()
