"""Tables of text: as wide as they need to be, folded at 100 columns, fast for 100,000 rows.

(rich lays out its own tables at a third of a millisecond a row, which for a network of 20,000 nodes
takes longer than all the rest.)
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TextIO

from conet_graph.cli.steps import is_quiet

GAP = "  "
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


@dataclass(frozen=True)
class Column:
    """One column: its title, its side, and how much of the line it may take at most."""

    title: str
    right: bool = False
    widest: int = 36


def write_table(out: TextIO, title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Write a table; a cell may hold several lines, and lines too long for a column are folded."""
    if is_quiet():
        return
    cells = [[cell.split("\n") for cell in row] for row in rows]
    widths = []
    for k, column in enumerate(columns):
        needed = max((len(line) for row in cells for line in row[k]), default=0)
        widths.append(min(column.widest, max(needed, len(column.title))))
    bold, plain = (BOLD, PLAIN) if out.isatty() else ("", "")
    out.write(f"{bold}{title}{plain}\n")
    heads = [_padded(c.title, w, c.right) for c, w in zip(columns, widths, strict=True)]
    out.write(f"{bold}{GAP.join(heads).rstrip()}{plain}\n")
    out.write("-" * (sum(widths) + len(GAP) * (len(widths) - 1)) + "\n")
    for row in cells:
        folded = [_folded(lines, width) for lines, width in zip(row, widths, strict=True)]
        for line in zip_longest(*folded, fillvalue=""):
            padded = map(_padded, line, widths, (c.right for c in columns))
            out.write(GAP.join(padded).rstrip() + "\n")
    out.write("\n")


def _padded(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def _folded(lines: Iterable[str], width: int) -> list[str]:
    """Lines cut to a width: sentences between words, names wherever the width ends."""
    found: list[str] = []
    for line in lines:
        found.extend([line] if len(line) <= width else textwrap.wrap(line, width))
    return found
