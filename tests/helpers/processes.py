"""Whether a process that a test started by way of another has ended."""

from __future__ import annotations

import time
from pathlib import Path


def gone(process: int, seconds: float = 10.0) -> bool:
    """Whether a process ends within a time; a zombie, that nobody asks about, has ended."""
    end = time.monotonic() + seconds
    while True:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
