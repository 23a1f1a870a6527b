"""Seeded inputs that a network is run on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
# Of inputs whose sizes are free, by name.
Shapes = Mapping[str, Sequence[int]]

# Sizes to try for free dimensions that are not the batch: small first, then what big networks need, then
# multiples of 3 and of 5, for windows of so many pixels.
SIZES = (64, 224, 32, 16, 96, 160, 1)
# Inputs to try: kind of values, and their scale.
DRAWS = (("normal", 1.0), ("uniform", 1.0), ("normal", 0.1), ("normal", 8.0))


def random_inputs(
    session: Any,
    batch: int,
    size: int,
    kind: str = "normal",
    scale: float = 1.0,
    seed: int = 0,
    shapes: Shapes | None = None,
) -> Arrays:
    """Seeded inputs; free first axes become ``batch``, other free ones as in ``shapes``, else ``size``."""
    rng = np.random.default_rng(seed)
    named: dict[str, int] = {}
    feeds: Arrays = {}
    for entry in session.get_inputs():
        shape = []
        wanted = (shapes or {}).get(entry.name, ())
        for axis, dim in enumerate(entry.shape):
            if isinstance(dim, int):
                shape.append(dim)
            elif axis < len(wanted):
                shape.append(max(wanted[axis], batch if axis == 0 else 1))
            else:
                value = batch if axis == 0 else size
                shape.append(named.setdefault(dim, value) if isinstance(dim, str) else value)
        values = _values(rng, entry.type, shape, kind)
        feeds[entry.name] = values * values.dtype.type(scale) if values.dtype.kind == "f" else values
    return feeds


def _values(rng: np.random.Generator, element: str, shape: list[int], kind: str) -> NDArray[Any]:
    name = element.removeprefix("tensor(").removesuffix(")")
    if name == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if name.startswith(("int", "uint")):
        return rng.integers(0, 2 if name != "uint8" else 256, shape).astype(name)
    types = {"float": np.float32, "double": np.float64, "float16": np.float16}
    draw = rng.standard_normal(shape) if kind == "normal" else rng.uniform(0, 1, shape)
    return np.asarray(draw, types.get(name, np.float32))


def nudged(feeds: Arrays, seed: int) -> Arrays:
    """The inputs, each number changed by about a millionth of itself."""
    rng = np.random.default_rng(seed)
    return {
        name: (value * (1 + 1e-6 * rng.standard_normal(value.shape))).astype(value.dtype)
        if value.dtype in (np.float32, np.float64)
        else value
        for name, value in feeds.items()
    }


def drawn(session: Any, batch: int, size: int, draw: int, shapes: Shapes | None = None) -> Arrays:
    """The inputs of one of ``DRAWS``."""
    return random_inputs(session, batch, size, *DRAWS[draw], seed=draw, shapes=shapes)


def batch_is_free(session: Any) -> bool:
    """Whether a session takes inputs of any batch size."""
    shapes = [i.shape for i in session.get_inputs() if i.shape]
    return bool(shapes) and any(not isinstance(s[0], int) for s in shapes)
