"""Calibration inputs: a few hundred, without labels, as the network takes them; no torch is needed.

Each input of the network gets an array; a run of the network (a *feed*) takes some rows of each.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.calibration.images import Colours, images_of_folder, normalised
from conet_graph.calibration.stages import Array, Feeds
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.graph import FLOATS, Graph

# Inputs of one run, where the network leaves that free: of large ones fewer, so that a few inputs are still
# several runs, some of which can be kept aside.
BATCH, LEAST_BATCH, NUMBERS = 16, 4, 2**19
# Runs that there should be at least, so that some can be kept aside.
LEAST_FEEDS = 12
LEAST_SAMPLES = 8
# Samples that are drawn where nobody says how many.
DRAWN = 256
# One input in so many is kept aside to measure on.
ASIDE = 5
MOST_ASIDE = 100


@dataclass(frozen=True)
class Calibration:
    """Inputs to fit on, and others to measure on, which no fit sees; both in runs of a few."""

    fit: list[dict[str, Array]]
    aside: list[dict[str, Array]]
    count: int

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input in the first run."""
        return {name: array.shape for name, array in self.fit[0].items()}


def open_calibration(
    spec: str, graph: Graph, samples: int, seed: int = 0, colours: Colours | None = None
) -> Calibration:
    """Read calibration inputs for a network.

    Args:
        spec: a folder of images; an .npz file with an array for each input of the network by its name, with
            a single array for a single input, or with uint8 ``images`` (or ``x_train``) [N, H, W, C]; an
            .npy file with the array of a single input; or ``digits``.
        graph: the analysed network.
        samples: how many are taken at most, drawn without order.
        seed: of the draw.
        colours: mean and standard deviation that are taken off images, in place of ImageNet's (a folder) or
            their own (uint8 images).

    Raises:
        BadUsage: there are no such inputs, they do not fit the network, are fewer than eight, all the same,
            or hold numbers that are not finite.

    """
    if samples < LEAST_SAMPLES:
        raise BadUsage(f"--samples is {samples}: it takes at least {LEAST_SAMPLES}.")
    wanted = _wanted(graph)
    arrays = _arrays(spec, wanted, samples, seed, colours)
    return calibration_of(arrays, graph, samples, seed, shown(spec))


def calibration_of(
    arrays: Mapping[str, Array], graph: Graph, samples: int = 256, seed: int = 0, spec: str = "the data"
) -> Calibration:
    """Calibration inputs from arrays by the names of the network's inputs; see ``open_calibration``."""
    wanted = _wanted(graph)
    lacking = [name for name in wanted if name not in arrays]
    if lacking:
        raise BadUsage(f"{spec} has no array for the network's input {shown(lacking[0])}.")
    fitted = {name: _fitting(name, arrays[name], value, spec) for name, value in wanted.items()}
    counts = {name: array.shape[0] for name, array in fitted.items()}
    count = min(counts.values())
    if count < LEAST_SAMPLES:
        raise BadUsage(f"{spec} holds {count} inputs: it takes at least {LEAST_SAMPLES}.")
    if len(set(counts.values())) > 1:
        raise BadUsage(f"{spec}: the arrays of the network's inputs differ in length.")
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:samples])
    picked = {name: np.asarray(array[chosen]) for name, array in fitted.items()}
    _refuse_empty(picked, spec)
    feeds = _feeds(picked, wanted, len(chosen))
    every = max(ASIDE, -(-len(chosen) // MOST_ASIDE))
    aside = feeds[every - 1 :: every]
    return Calibration([f for k, f in enumerate(feeds) if k % every != every - 1], aside, len(chosen))


@dataclass(frozen=True)
class _Wanted:
    """An input of the network: sizes (None where free) and element type."""

    shape: tuple[int | None, ...]
    kind: int

    @property
    def dtype(self) -> Any:
        return (
            np.dtype(np.float32)
            if self.kind in FLOATS and self.kind != onnx.TensorProto.DOUBLE
            else np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.kind))
        )


def _wanted(graph: Graph) -> dict[str, _Wanted]:
    found: dict[str, _Wanted] = {}
    for value in graph.skeleton.graph.input:
        if value.name in graph.constants:
            continue
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise BadUsage(f"The network's input {shown(value.name)} has no known shape: it cannot be fed.")
        dims = value.type.tensor_type.shape.dim
        shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims)
        found[value.name] = _Wanted(shape, value.type.tensor_type.elem_type)
    if not found:
        raise BadUsage("The network has no inputs: there is nothing to calibrate with.")
    return found


# -- reading -----------------------------------------------------------------------------------------


def _arrays(
    spec: str, wanted: Mapping[str, _Wanted], samples: int, seed: int, colours: Colours | None
) -> dict[str, Array]:
    path = Path(spec.removeprefix("npz:").removeprefix("folder:"))
    if path.is_dir():
        name = _single(wanted, spec)
        return {name: images_of_folder(path, wanted[name].shape, samples, seed, colours)}
    found = _stored(path, spec, wanted)
    name = next(iter(wanted))
    if len(wanted) == 1 and found[name].dtype == np.uint8 and wanted[name].kind in FLOATS:
        return {name: normalised(found[name], wanted[name].shape, spec, colours)}
    if colours is not None:
        raise BadUsage(f"--mean and --std are for images: {shown(spec)} is taken as it is.")
    return found


def _stored(path: Path, spec: str, wanted: Mapping[str, _Wanted]) -> dict[str, Array]:
    """Arrays by the names of the network's inputs, as they are stored."""
    if spec == "digits":
        return {_single(wanted, spec): _digits()}
    if path.suffix == ".npy":
        return {_single(wanted, spec): _read(path)[""]}
    if path.suffix != ".npz":
        raise BadUsage(f"{shown(spec)} is no folder of images, no .npz and no .npy file.")
    arrays = _read(path)
    if any(name in arrays for name in wanted):
        return arrays
    pixels = next((key for key in ("images", "x_train") if key in arrays), None)
    if pixels is None and len(arrays) > 1:
        names = ", ".join(shown(n) for n in list(wanted)[:4])
        raise BadUsage(f"{shown(spec)} has no array for the network's inputs: name its arrays {names}.")
    if not arrays:
        raise BadUsage(f"{shown(spec)} holds no array.")
    return {_single(wanted, spec): arrays[pixels] if pixels else next(iter(arrays.values()))}


def _single(wanted: Mapping[str, _Wanted], spec: str) -> str:
    if len(wanted) != 1:
        names = ", ".join(shown(n) for n in list(wanted)[:4])
        raise BadUsage(
            f"The network has {len(wanted)} inputs: give an .npz file with an array for each ({names})"
            f" in place of {shown(spec)}."
        )
    return next(iter(wanted))


def _read(path: Path) -> dict[str, Array]:
    where = shown(str(path))
    try:
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if isinstance(file, np.ndarray):
                return {"": file}
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise BadUsage(f"There is no file {where}.") from None
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error):
        raise BadUsage(f"{where} is not a readable file of plain NumPy arrays.") from None


def _digits() -> NDArray[np.float32]:
    from conet_graph.models import digits

    return digits.load().train_images


# -- checking ----------------------------------------------------------------------------------------


def _fitting(name: str, array: Array, wanted: _Wanted, spec: str) -> Array:
    """An array [samples, ...] for an input: one row of its first axis, or the whole input, a sample."""
    dtype, shape = wanted.dtype, wanted.shape
    same_kind = array.dtype.kind == dtype.kind or (array.dtype.kind in "iu" and dtype.kind in "iu")
    if not same_kind:
        hint = ": scale it as the network takes it" if dtype.kind == "f" else ""
        raise BadUsage(f"{spec}: {shown(name)} holds {array.dtype}, the network takes {dtype}{hint}.")
    rest = array.shape[1:]
    sizes = shape if len(rest) == len(shape) else shape[1:]
    if len(rest) != len(sizes) or any(
        want not in (None, have) for want, have in zip(sizes, rest, strict=True)
    ):
        takes = " x ".join("any" if d is None else str(d) for d in shape)
        have = " x ".join(map(str, array.shape))
        raise BadUsage(f"{spec}: {shown(name)} has the shape {have}, the network takes {takes}.")
    return array.astype(dtype, copy=False)


def _refuse_empty(arrays: Mapping[str, Array], spec: str) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadUsage(f"{spec}: {shown(name)} holds numbers that are not finite.")
    if all(bool((array == array[:1]).all()) for array in arrays.values()):
        raise BadUsage(f"{spec}: all calibration inputs are the same: they say nothing.")


def _feeds(arrays: Mapping[str, Array], wanted: Mapping[str, _Wanted], count: int) -> list[dict[str, Array]]:
    """Runs of a few samples; whole inputs are a run each."""
    if any(array.ndim > len(wanted[name].shape) for name, array in arrays.items()):
        return [
            {
                # An entry for an input without axes is a number of numpy's, which ONNX Runtime does not take.
                name: np.asarray(array[k]) if array.ndim > len(wanted[name].shape) else array[k : k + 1]
                for name, array in arrays.items()
            }
            for k in range(count)
        ]
    fixed = {wanted[name].shape[0] for name in arrays if wanted[name].shape} - {None}
    if len(fixed) > 1:
        raise BadUsage("The network's inputs have different fixed batch sizes: give a whole input a sample.")
    size = max(sum(array[0].size for array in arrays.values()), 1)
    most = min(BATCH, max(NUMBERS // size, LEAST_BATCH))
    batch = fixed.pop() if fixed else min(most, max(count // LEAST_FEEDS, 1))
    assert batch is not None
    starts = range(0, count - batch + 1, batch)
    if len(starts) < 2:
        raise BadUsage(f"The network takes {batch} inputs at once: calibration takes at least {2 * batch}.")
    return [{name: array[k : k + batch] for name, array in arrays.items()} for k in starts]


def some(feeds: Feeds, samples: int) -> Feeds:
    """So many samples of feeds at most, spread over them."""
    each = max(len(next(iter(feeds[0].values()))), 1)
    return spread(feeds, max(samples // each, 2))


def spread(feeds: Feeds, count: int) -> list[dict[str, Array]]:
    """So many feeds at most, from first to last."""
    count = min(len(feeds), count)
    return [feeds[k] for k in np.unique(np.linspace(0, len(feeds) - 1, count).round().astype(int))]
