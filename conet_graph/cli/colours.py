"""Options that say which colours are taken off the pixels of images."""

from __future__ import annotations

from typing import Annotated

import typer

from conet_graph.ir.errors import BadUsage, shown

Mean = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Subtracted from pixels of 0 to 1; for folders ImageNet's."),
]
Std = Annotated[str | None, typer.Option(metavar="R,G,B", help="What they are divided by then.")]
Colours = tuple[tuple[float, ...], tuple[float, ...]]


def colours_of(mean: str | None, std: str | None) -> Colours | None:
    """Both options as numbers; None where neither is given."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise BadUsage("--mean and --std go together.")
    return _numbers(mean, "--mean"), _numbers(std, "--std")


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadUsage(f"{option} {shown(text)} is not a list of numbers, as in 0.5,0.5,0.5.") from None
