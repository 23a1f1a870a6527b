"""Metrics of each epoch as TensorBoard scalars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from conet_graph.ir.errors import BadUsage, shown


class Log(Protocol):
    """Takes the metrics of an epoch."""

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Write them down."""
        ...


@contextmanager
def scalar_log(folder: Path | None) -> Iterator[Log]:
    """What writes an epoch's metrics for TensorBoard; nothing where there is no folder.

    `train_loss` becomes the scalar `loss/train`, and so on, so that curves that belong together are
    drawn together. Each epoch is on disk when the call returns.

    Raises:
        BadUsage: TensorBoard is not installed, or the folder cannot be written.

    """
    if folder is None:
        yield lambda metrics: None
        return
    try:
        from torch.utils.tensorboard.writer import SummaryWriter

        writer = SummaryWriter(str(folder))
    except ImportError:
        raise BadUsage("TensorBoard is not installed: pip install tensorboard, or leave it out.") from None
    except OSError as error:
        raise BadUsage(f"{shown(str(folder))} cannot be written: {error.strerror or error}.") from None

    def log(metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name != "epoch":
                writer.add_scalar(_curve(name), value, int(metrics["epoch"]))
        writer.flush()

    try:
        yield log
    finally:
        writer.close()


def _curve(name: str) -> str:
    split, _, what = name.partition("_")
    return f"{what}/{split}" if split in ("train", "test") else name
