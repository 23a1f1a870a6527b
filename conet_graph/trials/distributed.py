"""Several processes that train one network: who takes part, and what they tell each other.

`torchrun` sets RANK, WORLD_SIZE, LOCAL_RANK and where to meet. Without them there is one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed as dist
from torch import nn

from conet_graph.ir.errors import BadUsage, shown

Plain = TypeVar("Plain")


@dataclass(frozen=True, slots=True)
class Processes:
    """One process among all: its number, how many there are, its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether it is the one that writes files and shows progress."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over all processes; itself where there is one."""
        if self.world == 1:
            return module
        ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids)

    def summed(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def from_first(self, value: Plain) -> Plain:
        """What the first process has."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0, device=self.device)
        return box[0]

    def as_first(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers: each has averaged BatchNorm over its own images."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def is_first() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def chosen_device(name: str) -> torch.device:
    """The device of that name; 'auto' is a GPU if there is one, under torchrun the process's own.

    Raises:
        BadUsage: there is no such device here.

    """
    try:
        if name != "auto":
            device = torch.device(name)
        elif torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        else:
            device = torch.device("cpu")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise BadUsage(f"There is no device {shown(name)} here: take 'auto' or 'cpu'.") from None
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started; the group that begins here ends with the block."""
    if "WORLD_SIZE" not in os.environ or not dist.is_available():
        yield Processes(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if ours:
            dist.destroy_process_group()
