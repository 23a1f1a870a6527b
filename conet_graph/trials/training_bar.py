"""The progress bar of an epoch: on a terminal's stderr, once two seconds have passed, gone when done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from conet_graph.trials.learner import Learner

if TYPE_CHECKING:
    from rich.progress import TaskID

AFTER_SECONDS = 2.0
# Reading the sums waits for the device: not at every step.
REFRESH_SECONDS = 0.5


@contextmanager
def training_bar(learner: Learner, epochs: int, enabled: bool) -> Iterator[Callable[[], None]]:
    """A function to call after each step."""
    if not enabled or not sys.stderr.isatty():
        yield lambda: None
        return
    with ExitStack() as stack:
        yield _Bar(learner, epochs, stack).show


class _Bar:
    def __init__(self, learner: Learner, epochs: int, stack: ExitStack) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.learner, self.epochs, self.stack = learner, epochs, stack
        self.begun = self.shown_at = time.perf_counter()
        self.first_step = learner.progress.epoch * learner.steps_per_epoch + learner.progress.batch
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("accuracy {task.fields[accuracy]:.1%}  loss {task.fields[loss]:.3f}"),
            TextColumn("{task.fields[left]} left"),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.task: TaskID | None = None

    def show(self) -> None:
        """Bring it up to date, if it is time."""
        now = time.perf_counter()
        if now - self.begun < AFTER_SECONDS or now - self.shown_at < REFRESH_SECONDS:
            return
        self.shown_at = now
        sums, progress = self.learner.sums, self.learner.progress
        done = progress.epoch * self.learner.steps_per_epoch + progress.batch
        rest = self.epochs * self.learner.steps_per_epoch - done
        fields: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "epochs": self.epochs,
            "accuracy": int(sums.right.item()) / sums.seen,
            "loss": sums.losses.item() / sums.seen,
            "left": clock((now - self.begun) / (done - self.first_step) * rest),
        }
        if self.task is None:
            self.task = self.bar.add_task("", total=self.learner.steps_per_epoch, **fields)
            self.stack.enter_context(self.bar)
        self.bar.update(self.task, completed=progress.batch, **fields)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
