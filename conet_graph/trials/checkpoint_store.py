"""Where a trial keeps what it needs to go on: one safetensors file an epoch, another within an epoch.

The file of the last complete epoch is never touched by what happens within the next one, so that whoever
resumes gets that epoch's weights first, and a file damaged within an epoch costs that epoch only.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.rewriting.checkpoint_file import SAFE_SUFFIX, as_torch, read_checkpoint, write_checkpoint

FORMAT = "conet-graph.checkpoint/1"
MODULE, MOMENTUM = "module.", "momentum."


@dataclass(slots=True)
class Progress:
    """How far a trial is: plain numbers that fit in JSON.

    Attributes:
        epoch: epochs that are complete.
        batch: batches done of the epoch after them.
        losses, right, seen: sums over those batches: loss times images, right answers, images.
        seconds: spent on those batches.
        first_loss: of the first steps of the training; what an exploding loss is measured by.
        metrics: of the last complete epoch.
        schedule: the state of the learning rates.

    """

    epoch: int = 0
    batch: int = 0
    losses: float = 0.0
    right: int = 0
    seen: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Progress, the module's state and the optimiser's momentum by the parameters' names."""

    progress: Progress
    module: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The two files of one trial.

    Attributes:
        path: the file of the last complete epoch; ends in .safetensors.
        made_with: everything that decides what the trial learns; a file that was made with something
            else is not continued.

    """

    path: Path
    made_with: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse a file of another kind."""
        if self.path.suffix != SAFE_SUFFIX:
            raise BadUsage(f"The checkpoint {shown(str(self.path))} must end in {SAFE_SUFFIX}.")

    @property
    def within(self) -> Path:
        """The file written within an epoch."""
        return self.path.with_suffix(f".within{SAFE_SUFFIX}")

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint of a complete epoch, or of the middle of one.

        Raises:
            BadUsage: the folder cannot be written.

        """
        middle = checkpoint.progress.batch > 0
        tensors = {MODULE + name: value for name, value in checkpoint.module.items()}
        tensors |= {MOMENTUM + name: value for name, value in checkpoint.momentum.items()}
        state = json.dumps({"made_with": self.made_with, "progress": asdict(checkpoint.progress)})
        metadata = {"conet_graph": FORMAT, "state": state, "crc32": _checksum(tensors, state)}
        write_checkpoint(tensors, self.within if middle else self.path, metadata)
        if not middle:
            self.within.unlink(missing_ok=True)

    def last_epoch(self) -> Checkpoint | None:
        """The last complete epoch, or None where there is none yet.

        Raises:
            BadUsage: the file is damaged, or belongs to another training.

        """
        return self._read(self.path) if self.path.exists() else None

    def within_epoch(self, complete: int) -> Checkpoint | None:
        """The middle of the epoch after so many complete ones, if it was kept and is intact."""
        if not self.within.exists():
            return None
        try:
            found = self._read(self.within)
        except BadUsage:
            # Only the epoch under way is lost: it begins again.
            return None
        return found if found.progress.epoch == complete else None

    def _read(self, path: Path) -> Checkpoint:
        name = shown(str(path))
        try:
            held, metadata = read_checkpoint(path)
            tensors = as_torch(held)
            state = json.loads(metadata["state"])
            progress, made_with = Progress(**state["progress"]), dict(state["made_with"])
            intact = metadata["crc32"] == _checksum(tensors, metadata["state"])
        except (BadUsage, KeyError, TypeError, ValueError):
            intact = False
        if not intact:
            raise BadUsage(f"The checkpoint {name} is damaged: remove it, and the training begins again.")
        self._require_same(made_with, name)
        return Checkpoint(progress, _part(tensors, MODULE), _part(tensors, MOMENTUM))

    def _require_same(self, made_with: Mapping[str, Any], name: str) -> None:
        # Through JSON, as the file went: tuples are lists there.
        now = json.loads(json.dumps(self.made_with))
        for key in sorted(made_with.keys() | now.keys()):
            before, wanted = made_with.get(key), now.get(key)
            if before != wanted:
                raise BadUsage(
                    f"The checkpoint {name} was made with {key.replace('_', ' ')} {before}, not {wanted}:"
                    " give the same again, or another file."
                )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _checksum(tensors: Mapping[str, Tensor], state: str) -> str:
    """Over all bytes: the format itself notices a file cut short, but no flipped bit."""
    total = zlib.crc32(state.encode())
    for name in sorted(tensors):
        flat = tensors[name].detach().cpu().contiguous().flatten()
        data: Any = flat.view(torch.uint8).numpy()
        total = zlib.crc32(data, zlib.crc32(name.encode(), total))
    return f"{total:08x}"
