"""A search's folder: where everything lies in it, and that only one process works there at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.save import atomic_write

CHECKPOINT_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one search."""

    path: Path

    @property
    def database(self) -> Path:
        """Everything that was measured and decided; it is there as soon as the search has begun."""
        return self.path / "run.sqlite"

    @property
    def config(self) -> Path:
        """All settings, to read."""
        return self.path / "config.toml"

    @property
    def original(self) -> Path:
        """The network that is searched."""
        return self.path / "original.onnx"

    @property
    def final(self) -> Path:
        """The network that was found."""
        return self.path / "final.onnx"

    @property
    def widths(self) -> Path:
        """Its widths by layer; `rewrite --widths` takes the file."""
        return self.path / "widths.json"

    def trial(self, trial: int) -> Path:
        """The trained network of a trial."""
        return self.path / "trials" / f"{trial:03d}.onnx"

    def checkpoint(self, name: str) -> Path:
        """Where what is being trained keeps its state."""
        return self.path / "checkpoints" / f"{name}{CHECKPOINT_SUFFIX}"

    def make(self) -> None:
        """Make the folders.

        Raises:
            BadUsage: they cannot be made.

        """
        try:
            for folder in (self.path, self.path / "trials", self.path / "checkpoints"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = error.strerror or str(error)
            raise BadUsage(f"The folder {shown(str(self.path))} cannot be made: {what}.") from None

    def require_empty(self) -> None:
        """Refuse to begin where a search lies.

        Raises:
            BadUsage: there is one.

        """
        if self.database.exists():
            raise BadUsage(
                f"{shown(str(self.path))} holds a search already: go on with --resume, or name another"
                " folder."
            )

    def save_widths(self, widths: Mapping[str, int]) -> None:
        """Write the widths by layer."""
        atomic_write(self.widths, [(json.dumps(dict(widths), indent=1) + "\n").encode()])

    def drop_checkpoint(self, name: str) -> None:
        """Remove what a finished training kept."""
        for file in (self.path / "checkpoints").glob(f"{name}.*"):
            file.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder; the lock ends with the process, whatever ends it.

        Raises:
            BadUsage: another process works there.

        """
        if not self.path.is_dir():
            raise BadUsage(f"{shown(str(self.path))} holds no search: check the path.")
        try:
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            what = error.strerror or str(error)
            raise BadUsage(f"The folder {shown(str(self.path))} cannot be written: {what}.") from None
        try:
            if not _take(handle):
                raise BadUsage(
                    f"Another process is at work in {shown(str(self.path))}: wait for it, or stop it."
                )
            yield
        finally:
            os.close(handle)


def _take(handle: int) -> bool:
    """Lock an open file without waiting; False if another process holds it."""
    try:
        import fcntl
    except ImportError:
        return True  # not on Windows: there nothing but the user keeps two searches apart
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True
