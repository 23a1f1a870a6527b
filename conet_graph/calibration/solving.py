"""Symmetric systems that are taken apart once, and then solved for whatever is asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Solver = Callable[[Doubles], Doubles]


def solver_of(left: Doubles) -> Solver:
    """What finds x [b, F, n] in ``left @ x = right``, for any right side [b, F, n].

    Args:
        left: symmetric, and positive definite but for rounding [b, F, F].

    """
    if len(left) == 1:
        from scipy.linalg import cho_factor, cho_solve

        try:
            factor = cho_factor(left[0], lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            pass  # rounding left it indefinite
        else:
            return lambda right: np.asarray(cho_solve(factor, right[0], check_finite=False))[None]
    return lambda right: np.asarray(np.linalg.solve(left, right))
