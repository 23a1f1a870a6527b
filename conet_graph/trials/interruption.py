"""Ctrl-C and SIGTERM within an epoch: noticed after the step under way, then passed on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Which signal has come, if any."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        """Whether one has come."""
        return self.signal is not None


@contextmanager
def noticed_stop(enabled: bool) -> Iterator[Stop]:
    """Note signals while a step runs; at the end put the handlers back and raise what was noted.

    A second signal is not held back. Only the main thread may set handlers: in any other, and where
    `enabled` is False, nothing changes.
    """
    stop = Stop()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            # None is a handler that was not set from Python, and cannot be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        if stop:
            restore()
            signal.raise_signal(number)
        stop.signal = number

    handler: Callable[[int, FrameType | None], None] = note
    for number in SIGNALS:
        signal.signal(number, handler)
    try:
        yield stop
    finally:
        restore()
    if stop.signal is not None:
        signal.raise_signal(stop.signal)
