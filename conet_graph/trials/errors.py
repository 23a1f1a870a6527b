"""What a trial says when training goes wrong."""

from __future__ import annotations

from conet_graph.ir.errors import Refused


class TrialFailed(Refused):
    """Training diverged: the loss is not finite, or has exploded. The last checkpoint is untouched."""


class TrialBroke(Refused):
    """A trial's data, code or device failed; once that is mended, the trial may go on."""
