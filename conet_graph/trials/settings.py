"""How a network is trained, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from conet_graph.ir.errors import BadUsage, shown

SCHEDULES = ("adas", "step", "cosine", "one-cycle", "constant")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Options of training; the defaults are those of the paper's search trials, but for the schedule.

    Attributes:
        batch: images in one step of one process.
        learning_rate: of SGD: where a schedule starts, or the peak of 'one-cycle'.
        momentum, weight_decay, nesterov: of SGD; the decay holds for every parameter.
        schedule: one of `SCHEDULES`; see `conet_graph.trials.schedules`.
        step_epochs, step_factor: schedule 'step' multiplies the rate by the factor every so many epochs.
        adas_beta: how much of its rate a layer keeps from epoch to epoch under 'adas'.
        label_smoothing: share of the target that is spread over all classes.
        clip: largest norm of the gradient, or None.
        auxiliary: weight of the loss of auxiliary outputs, where a network has them in training.
        drop_path: probability of dropping an operation of a cell, reached linearly in the last epoch.
        amp: bfloat16 autocast; None means on GPUs.
        channels_last: memory layout; None means wherever the weights allow it (no 3-D convolutions).
        compile: run the module through torch.compile.
        sparsify: draw channels to exact zeros by 'bn' or 'group' (`conet_graph.trials.sparsify`); None: not.
        sparsity: how strongly.
        checkpoint_seconds: how often a checkpoint is written within an epoch.

    Raises:
        BadUsage: a number out of its range, or an unknown schedule.

    """

    batch: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    schedule: str = "cosine"
    step_epochs: int = 25
    step_factor: float = 0.5
    adas_beta: float = 0.8
    label_smoothing: float = 0.0
    clip: float | None = None
    auxiliary: float = 0.4
    drop_path: float = 0.0
    amp: bool | None = None
    channels_last: bool | None = None
    compile: bool = False
    sparsify: str | None = None
    sparsity: float = 1e-3
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        if self.schedule not in SCHEDULES:
            raise BadUsage(
                f"There is no schedule {shown(self.schedule)}: choose one of {', '.join(SCHEDULES)}."
            )
        # Name, value, lowest, highest; the highest is allowed only where it says so.
        ranges = (
            ("batch", self.batch, self.batch >= 1, "at least 1"),
            ("learning rate", self.learning_rate, self.learning_rate > 0, "above 0"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "from 0 to below 1"),
            ("weight decay", self.weight_decay, self.weight_decay >= 0, "at least 0"),
            ("step epochs", self.step_epochs, self.step_epochs >= 1, "at least 1"),
            ("step factor", self.step_factor, 0 < self.step_factor <= 1, "above 0 and at most 1"),
            ("AdaS beta", self.adas_beta, 0 <= self.adas_beta < 1, "from 0 to below 1"),
            ("label smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "from 0 to below 1"),
            ("clip", self.clip or 0.0, self.clip is None or self.clip > 0, "above 0"),
            ("auxiliary weight", self.auxiliary, self.auxiliary >= 0, "at least 0"),
            ("drop path", self.drop_path, 0 <= self.drop_path < 1, "from 0 to below 1"),
            (
                "seconds between checkpoints",
                self.checkpoint_seconds,
                self.checkpoint_seconds >= 0,
                "at least 0",
            ),
        )
        for name, value, fits, allowed in ranges:
            if not fits or not math.isfinite(value):
                raise BadUsage(f"The {name} is {value}: it must be {allowed}.")
        if self.nesterov and not self.momentum:
            raise BadUsage("Nesterov's step needs momentum: give a momentum above 0.")

    def that_decide(self) -> dict[str, Any]:
        """The settings that decide what is learned: those under which a checkpoint may be continued."""
        free = ["checkpoint_seconds", "compile"]
        if self.sparsify is None:
            free += ["sparsify", "sparsity"]
        return {name: value for name, value in asdict(self).items() if name not in free}
