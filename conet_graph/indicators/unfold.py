"""Weights as matrices: unfoldings, Gram matrices and their spectra, in numpy or in torch.

Arrays and tensors on the CPU are worked on by numpy, tensors elsewhere by torch on their own device.
This module never imports torch; whoever holds a tensor has it loaded already.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Float64s: TypeAlias = NDArray[np.float64]
Weight: TypeAlias = "NDArray[Any] | torch.Tensor"
Matrix: TypeAlias = "Float64s | torch.Tensor"
AnyMatrix = TypeVar("AnyMatrix", "Float64s", "torch.Tensor")

# numpy notices that a matrix times its own transpose is symmetric, and computes half of it: torch does not.
# Apple's GPUs have no float64.
BY_NUMPY = ("cpu", "mps")


def normalised(weight: Weight) -> tuple[Matrix, float]:
    """The weight over its largest magnitude, in float64 with two axes or more; and that magnitude.

    Dividing keeps squares of very small and very large weights in range. A weight that is all zero,
    or has a NaN or an infinity, comes back as zeros with magnitude 0: there is nothing to measure
    in it. A vector of n entries counts as n outputs of one input.
    """
    if isinstance(weight, np.ndarray):
        return _normalised_array(weight)
    torch = sys.modules["torch"]
    if weight.device.type in BY_NUMPY:
        return _normalised_array(weight.detach().cpu().to(torch.float64).numpy())
    values = weight.detach().to(torch.float64)
    values = values.reshape(_at_least_two(tuple(values.shape)))
    largest = float(values.abs().amax()) if values.numel() else 0.0
    if not 0 < largest < math.inf:
        return torch.zeros_like(values), 0.0
    return values / largest, largest


def _normalised_array(weight: NDArray[Any]) -> tuple[Float64s, float]:
    values = np.asarray(weight, np.float64)
    values = values.reshape(_at_least_two(values.shape))
    largest = float(max(values.max(), -values.min())) if values.size else 0.0
    # NaN fails the comparisons: numpy's max and min are NaN where one value is.
    if not 0 < largest < math.inf:
        return np.zeros_like(values), 0.0
    return values / largest, largest


def _at_least_two(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) > 1 else (math.prod(shape), 1)


def unfold(weight: AnyMatrix, axis: int) -> AnyMatrix:
    """The matrix with one row a channel of the axis; columns run over all other axes, in any order.

    >>> unfold(np.zeros((64, 32, 3, 3)), 1).shape
    (32, 576)
    """
    rows = weight.shape[axis]
    columns = math.prod(weight.shape[:axis]) * math.prod(weight.shape[axis + 1 :])
    return weight.swapaxes(0, axis).reshape((rows, columns))


def gram(matrix: AnyMatrix) -> AnyMatrix:
    """The Gram matrix of the shorter side: its eigenvalues are the squared singular values."""
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix


def grams(weight: Matrix, axes: Sequence[int]) -> list[Matrix]:
    """Gram matrices of the unfoldings on these axes."""
    # Twice the same line: the type variable wants to know which of the two it is.
    if isinstance(weight, np.ndarray):
        return [gram(unfold(weight, axis)) for axis in axes]
    return [gram(unfold(weight, axis)) for axis in axes]


def place(matrix: Matrix) -> str:
    """Where a matrix lives: 'numpy', or the torch device."""
    return "numpy" if isinstance(matrix, np.ndarray) else str(matrix.device)


def spectra(matrices: Sequence[Matrix]) -> Float64s:
    """Eigenvalues of Gram matrices of one size and one place, in one call.

    Returns:
        One row a matrix, largest first, none below zero, in numpy wherever the matrices were.

    """
    if isinstance(matrices[0], np.ndarray):
        ascending = np.linalg.eigvalsh(np.stack(cast("Sequence[Float64s]", matrices)))
    else:
        torch = sys.modules["torch"]
        ascending = torch.linalg.eigvalsh(torch.stack(list(matrices))).cpu().numpy()
    return np.maximum(ascending[:, ::-1], 0.0)
