"""What trials of one network on the same inputs teach the next ones, which only compare widths."""

from __future__ import annotations

from dataclasses import dataclass, field

from conet_graph.calibration.gram import Doubles

# Multiply-adds of a solution from which a layer takes the strength that an earlier fit found best.
LEAST_WORK = 1e8


@dataclass
class Learned:
    """Found by earlier trials.

    Attributes:
        covariances: of the classes of channels of the original's values, by the value and the axis.
        strengths: by the weight of a large layer, which start its fit was pulled towards, and how strongly
            (None: no fit helped); None where every trial is to look for itself.

    """

    covariances: dict[tuple[str, int], Doubles] = field(default_factory=dict)
    strengths: dict[str, tuple[int, float | None]] | None = None

    @staticmethod
    def is_large(matrix: Doubles) -> bool:
        """Whether trying strengths for a layer of such a matrix [b, F, O] takes long."""
        blocks, features, outputs = matrix.shape
        return bool(blocks * features**2 * (features / 3 + 4 * outputs) >= LEAST_WORK)
