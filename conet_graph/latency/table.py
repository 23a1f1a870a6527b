"""Latency tables: how long each layer takes at which widths (format ``conet-graph.latency/1``)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.save import atomic_write
from conet_graph.regular_file import read_text

FORMAT = "conet-graph.latency/1"
# Widths and milliseconds: (first, second, median).
Point = tuple[float, float, float]


@dataclass
class Row:
    """The times of all operators of one shape.

    A point is (first, second, milliseconds). For a layer these are the lengths of its weight's first two
    axes (output channels, and input channels of one group, of a Conv); for any other operator the length
    of what it writes along its channels, and 1.
    """

    shape: str
    names: list[str] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


@dataclass
class Table:
    """A latency table: the rows, and under what conditions they were measured.

    ``between_ms`` is what a run takes beside its operators; ``original_ms`` the median run of the network as
    it is, None in a table that does not say. ``measured`` of ``asked`` networks of other widths are in it.
    ``wholes`` has the times of whole networks that a goal was met with, as shares of the original's, by the
    widths that ``named`` spells: the next goal starts from what is known.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    between_ms: float = 0.0
    original_ms: float | None = None
    measured: int = 0
    asked: int = 0
    wholes: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The table as plain data."""
        return {
            "format": FORMAT,
            "source": {"sha256": self.sha256},
            "runtime": self.runtime,
            "networks": {"measured": self.measured, "asked": self.asked},
            "original_ms": self.original_ms,
            "between_ms": self.between_ms,
            "layers": [
                {"shape": row.shape, "names": row.names, "points": [list(p) for p in row.points]}
                for row in self.rows.values()
            ],
            "wholes": self.wholes,
        }

    def write(self, path: Path) -> None:
        """Write the table."""
        atomic_write(path, [(json.dumps(self.to_json()) + "\n").encode()])

    @staticmethod
    def read(path: Path) -> Table:
        """Read a table.

        Raises:
            BadUsage: it cannot be read, or is no table of a version that is understood.

        """
        try:
            data = json.loads(read_text(path, "latency table"))
        except (ValueError, RecursionError):
            raise BadUsage(f"{shown(str(path))} is not JSON: write it with 'conet-graph profile'.") from None
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise BadUsage(f"{shown(str(path))} has the format {shown(str(found))}, not '{FORMAT}'.")
        try:
            return _table(data)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BadUsage(f"{shown(str(path))} is damaged near {shown(str(error))}.") from None


def _table(data: dict[str, Any]) -> Table:
    rows = [
        Row(str(row["shape"]), [str(name) for name in row["names"]], [_point(p) for p in row["points"]])
        for row in data["layers"]
    ]
    networks, original = data.get("networks", {}), data.get("original_ms")
    return Table(
        rows={row.shape: row for row in rows},
        runtime=dict(data.get("runtime", {})),
        sha256=str(data.get("source", {}).get("sha256", "")),
        between_ms=float(data.get("between_ms", 0.0)),
        original_ms=None if original is None else float(original),
        measured=int(networks.get("measured", 0)),
        asked=int(networks.get("asked", 0)),
        wholes={str(widths): _share(share) for widths, share in data.get("wholes", {}).items()},
    )


def named(counts: Iterable[int]) -> str:
    """The widths of a network as a name: the classes that each group keeps."""
    return ",".join(map(str, counts))


def _share(entry: Any) -> float:
    share = float(entry)
    if not 0 < share < float("inf"):
        raise ValueError(f"share {entry}")
    return share


def _point(entry: Any) -> Point:
    first, second, milliseconds = (float(number) for number in entry)
    if not (first > 0 and second > 0 and 0 <= milliseconds < float("inf")):
        raise ValueError(f"point {entry}")
    return first, second, milliseconds
