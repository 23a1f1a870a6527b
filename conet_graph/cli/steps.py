"""The steps of a command: timed with ``--verbose`` and ``--debug``, and told while they take long.

On a terminal the step that goes on for more than two seconds stands on stderr until it ends; elsewhere a line
comes every ten seconds. A timer's signal tells them: a thread would keep ``apart`` from forking.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

# Seconds between two looks at the clock, and between two lines where there is no terminal.
TICK, EVERY = 2.0, 10.0


@dataclass
class Steps:
    """What a command is at.

    Attributes:
        quiet: nothing is told.
        timed: how long each step took is said.
        covered: another display tells how far the step is.

    """

    quiet: bool = False
    timed: bool = False
    covered: bool = False
    name: str = ""
    began: float = field(default_factory=time.monotonic)
    told: float = 0.0
    shown: bool = False

    def next(self, name: str) -> None:
        """End the step that goes on, and begin another; '' begins none."""
        now = time.monotonic()
        self.clear()
        if self.timed and self.name:
            print(f"{self.name}: {1000 * (now - self.began):.1f} ms", file=sys.stderr)
        self.name, self.began, self.told = name, now, now

    def tick(self, number: int, frame: FrameType | None) -> None:
        """Tell the step that goes on."""
        if not self.name or self.quiet or self.covered:
            return
        now = time.monotonic()
        seconds = f"{now - self.began:.0f} s"
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{self.name} ... {seconds}")
            sys.stderr.flush()
            self.shown = True
        elif now - self.told >= EVERY:
            self.told = now
            print(f"conet-graph: {self.name}, {seconds} so far", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take away what stands on the terminal."""
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self.shown = False


_now = Steps()


def step(name: str) -> None:
    """Say what the command does from here on, as in 'verifying'; '' when it only prints its results."""
    _now.next(name)


def is_quiet() -> bool:
    """Whether nothing but results and errors is to be printed."""
    return _now.quiet


@contextmanager
def covered() -> Iterator[None]:
    """While this lasts the step that goes on is not told: another display does."""
    told = _now
    told.clear()
    told.covered = True
    try:
        yield
    finally:
        told.covered = False


@contextmanager
def steps(*, quiet: bool, timed: bool) -> Iterator[None]:
    """Time and tell the steps of a command while it runs."""
    global _now
    outer, _now = _now, Steps(quiet, timed)
    try:
        with _ticking(_now):
            yield
    finally:
        _now.next("")
        _now = outer


@contextmanager
def _ticking(told: Steps) -> Iterator[None]:
    """Look at the clock every ``TICK`` seconds, where that is possible and nobody else does."""
    possible = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not possible or sys.stderr is None or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGALRM, told.tick)
    signal.siginterrupt(signal.SIGALRM, False)  # what waits in a library goes on waiting
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
