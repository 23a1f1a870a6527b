"""Rows of measurements in a CSV file, written as they come, so that a stopped run goes on where it was."""

from __future__ import annotations

import csv
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

DATA = Path(__file__).parents[1] / "docs" / "data"
# What every row says of itself: the version that measured it, with its commit, and when.
STAMP = ("version", "made")

Row = dict[str, str]


class Rows:
    """The rows of one file. Those that agree in the ``key`` columns belong together: one measurement."""

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str]) -> None:
        self.path, self.key = path, tuple(key)
        self.columns = (*columns, *STAMP)
        self.rows: list[Row] = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                self.rows = list(csv.DictReader(file))

    def has(self, key: Sequence[str], before: str = "") -> bool:
        """Whether there are rows of a measurement, none of them made before that date."""
        made = [row["made"] for row in self.rows if self._key(row) == tuple(key)]
        return bool(made) and min(made) >= before

    def put(self, measured: Sequence[Mapping[str, object]]) -> list[Row]:
        """Write the rows of one measurement, and give them; they take the place of older ones."""
        now = stamp()
        new = [{name: _text(({**row, **now}).get(name, "")) for name in self.columns} for row in measured]
        keys = {self._key(row) for row in new}
        old = [k for k, row in enumerate(self.rows) if self._key(row) in keys]
        if old:
            kept = [row for row in self.rows if self._key(row) not in keys]
            self.rows = [*kept[: old[0]], *new, *kept[old[0] :]]
            beside = self.path.with_suffix(".new")
            self._write(beside, self.rows, "w")
            beside.replace(self.path)
        else:
            self.rows += new
            self._write(self.path, new, "a")
        return new

    def _key(self, row: Row) -> tuple[str, ...]:
        return tuple(row[name] for name in self.key)

    def _write(self, path: Path, rows: list[Row], mode: str) -> None:
        begins = mode == "w" or not path.exists()
        with path.open(mode, encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if begins:
                writer.writeheader()
            writer.writerows(rows)


def _text(value: object) -> str:
    """A cell: one line."""
    return " ".join(f"{value:.3g}".split() if isinstance(value, float) else str(value).split())


def stamp() -> Row:
    """The version, with the commit where there is one, and the time."""
    command = ["git", "-C", str(DATA.parent), "rev-parse", "--short=7", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    told = "+".join(filter(None, (version("conet-graph"), found.stdout.strip())))
    return dict(zip(STAMP, (told, time.strftime("%Y-%m-%d %H:%M")), strict=True))


def put_summary(page: Path, script: str, told: str) -> None:
    """Write what a script says of its rows into a page, between the two comments that name the script."""
    opening, closing = f"<!-- {script} -->\n", "<!-- end -->\n"
    before, _, rest = page.read_text("utf-8").partition(opening)
    _, _, after = rest.partition(closing)
    page.write_text(f"{before}{opening}\n{told}\n\n{closing}{after}", "utf-8")
