"""What verification found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from conet_graph.ir.errors import OwnFault, VerificationFailed


@dataclass
class Report:
    """What verification found, as one JSON object."""

    ok: bool = True
    checker: str = "passed"
    shape_inference: str = "passed"
    runs: list[dict[str, Any]] = field(default_factory=list)
    equality: str = "not checked"
    exact: bool = True
    inexact_because: list[str] = field(default_factory=list)
    largest_difference: float | None = None
    tolerance: float | None = None
    sensitivity: float = 0.0
    intermediate: int = 0
    outputs_error: float | None = None
    failures: list[str] = field(default_factory=list)
    original_is_sound: bool = True  # False: it fails the same, or the check itself did

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def fail(self, what: str) -> None:
        """Note a failure."""
        self.ok = False
        self.failures.append(what)


def require(report: Report) -> None:
    """Raise when verification failed.

    Raises:
        OwnFault: the original is sound and what was made of it is not.
        VerificationFailed: the original cannot be run either, or a library crashed.

    """
    told = "the rewritten network failed verification: " + "; ".join(report.failures)
    if not report.ok and report.original_is_sound:
        raise OwnFault.of(told)
    if not report.ok:
        raise VerificationFailed(f"T{told[1:]}.")
