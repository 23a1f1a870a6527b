"""How far a long piece of work is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from conet_graph.cli.steps import covered, is_quiet

STDERR = 2
BAR = 30  # characters
EVERY = 10.0  # seconds between lines where there is no terminal


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """What tells how far something is: what is done now, and a share from 0 to 1.

    On a terminal's stderr a bar that vanishes when done, elsewhere a line every ten seconds. A forked child
    may tell it, too: its own stderr leads nowhere.
    """
    if is_quiet():
        yield lambda what, share: None
        return
    try:
        terminal = os.dup(STDERR)
    except OSError:  # closed
        yield lambda what, share: None
        return
    bar, last = os.isatty(terminal), time.monotonic()

    def tell(what: str, share: float) -> None:
        nonlocal last
        share = min(max(share, 0.0), 1.0)
        if bar:
            done = round(BAR * share)
            os.write(terminal, f"\r\x1b[K{what} {'━' * done}{' ' * (BAR - done)}".encode())
        elif time.monotonic() - last >= EVERY:
            last = time.monotonic()
            os.write(terminal, f"conet-graph: {what}, {100 * share:.0f} % done\n".encode())

    try:
        with covered():
            yield tell
    finally:
        if bar:
            os.write(terminal, b"\r\x1b[K")
        os.close(terminal)
