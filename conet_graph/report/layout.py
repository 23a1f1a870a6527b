"""Places for the nodes of a DAG: layers from top to bottom (Sugiyama), folded into columns.

Sources with long edges send one chain of waypoints down, which all their edges share: a DenseNet's
many edges become a few lines, and the work stays linear in the nodes of real networks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import networkx as nx

Point = tuple[float, float]
Edge = tuple[int, int]

ROW_GAP = 26.0
SIDE_GAP = 18.0
COLUMN_GAP = 46.0
LANE = 7.0
_WAYPOINT = 6.0
_SWEEPS = 8
# Beyond this many waypoints long edges are drawn straight.
MOST_WAYPOINTS = 30_000
# Folding into columns passes neither this width to height nor this width.
_SHAPE = 2.0
_WIDEST = 1600.0
_MOST_COLUMNS = 40
# How strongly an item keeps its line, against a node's 1: long edges are to be straight.
_WAYPOINT_WEIGHT = 2.0


@dataclass(frozen=True, slots=True)
class Box:
    """Width and height of a node."""

    width: float
    height: float


@dataclass(frozen=True)
class Placement:
    """Centres of the nodes, a line of points for each edge, and the size of the whole.

    An edge that shares the first part of its way with another edge of its source begins where it
    leaves it.
    """

    centers: tuple[Point, ...]
    routes: tuple[tuple[Point, ...], ...]
    width: float
    height: float


def place(boxes: Sequence[Box], edges: Sequence[Edge]) -> Placement:
    """Lay out a DAG whose edges all lead from a lower to a higher node number."""
    if not boxes:
        return Placement((), (), 0.0, 0.0)
    rows = _Rows(boxes, edges)
    return _Folding(rows, _positions(rows)).placement()


class _Rows:
    """The nodes and waypoints of each row, in order, and the segments between neighbouring rows."""

    def __init__(self, boxes: Sequence[Box], edges: Sequence[Edge]) -> None:
        self.boxes = list(boxes)
        self.row = _ranks(len(boxes), edges)
        self.paths: list[list[int]] = []
        self._waypoints(edges)
        self.above: list[list[int]] = [[] for _ in self.boxes]
        self.below: list[list[int]] = [[] for _ in self.boxes]
        segments = {pair for path in self.paths for pair in pairwise(path)}
        for upper, lower in sorted(segments):
            if self.row[lower] == self.row[upper] + 1:
                self.above[lower].append(upper)
                self.below[upper].append(lower)
        self.rows: list[list[int]] = [[] for _ in range(max(self.row) + 1)]
        for item in range(len(self.boxes)):
            self.rows[self.row[item]].append(item)
        self._order()

    def _waypoints(self, edges: Sequence[Edge]) -> None:
        """Give every edge its path; one chain of waypoints serves all edges of a node.

        A path begins where it leaves what earlier edges of its node have drawn already.
        """
        self.real = len(self.boxes)
        reach = [0] * self.real
        for source, target in edges:
            reach[source] = max(reach[source], self.row[target] - self.row[source] - 1)
        direct = sum(reach) > MOST_WAYPOINTS
        chains: list[list[int]] = [[] for _ in range(self.real)]
        for source, target in edges:
            between = 0 if direct else self.row[target] - self.row[source] - 1
            chain = chains[source]
            drawn = min(between, len(chain))
            while len(chain) < between:
                chain.append(len(self.boxes))
                self.boxes.append(Box(_WAYPOINT, 0.0))
                self.row.append(self.row[source] + len(chain))
            start = chain[drawn - 1] if drawn else source
            self.paths.append([start, *chain[drawn:between], target])

    def _order(self) -> None:
        """Fewer crossings: each row by the mean place of its neighbours, down and up in turn."""
        place = {item: float(k) for row in self.rows for k, item in enumerate(row)}
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            near = self.above if down else self.below
            for row in self.rows if down else reversed(self.rows):
                wanted = {i: _mean([place[n] for n in near[i]], place[i]) for i in row}
                row.sort(key=wanted.__getitem__)
                for k, item in enumerate(row):
                    place[item] = float(k)

    def is_waypoint(self, item: int) -> bool:
        return item >= self.real


def _ranks(count: int, edges: Sequence[Edge]) -> list[int]:
    """The row of each node: below all that it hangs on; one that hangs on nothing, above its reader."""
    rank = [0] * count
    for row, nodes in enumerate(nx.topological_generations(nx.DiGraph(edges))):
        for node in nodes:
            rank[node] = row
    feeds: dict[int, int] = {}
    fed = {target for _, target in edges}
    for source, target in edges:
        feeds[source] = min(feeds.get(source, rank[target]), rank[target])
    return [r if n in fed or n not in feeds else max(0, feeds[n] - 1) for n, r in enumerate(rank)]


def _mean(numbers: Sequence[float], default: float) -> float:
    return sum(numbers) / len(numbers) if numbers else default


def _positions(rows: _Rows) -> list[float]:
    """X of every item: near its neighbours, in the row's order, without overlap.

    An item weighs the same in its row and in its neighbours' means: otherwise chains of residual
    blocks would drift aside.
    """
    weights = [_WAYPOINT_WEIGHT if rows.is_waypoint(i) else 1.0 for i in range(len(rows.boxes))]
    xs = [0.0] * len(rows.boxes)
    for row in rows.rows:
        offsets = _offsets(rows, row)
        for item, offset in zip(row, offsets, strict=True):
            xs[item] = offset - offsets[-1] / 2
    for sweep in range(2 * _SWEEPS):
        near = (rows.above, rows.below)[sweep % 2]
        for row in rows.rows if sweep % 2 == 0 else reversed(rows.rows):
            wanted = [_balanced(near[i], xs, weights, xs[i]) for i in row]
            placed = separated(wanted, [weights[i] for i in row], _offsets(rows, row))
            for item, x in zip(row, placed, strict=True):
                xs[item] = x
    return xs


def _balanced(items: Sequence[int], xs: Sequence[float], weights: Sequence[float], default: float) -> float:
    mass = sum(weights[i] for i in items)
    return sum(xs[i] * weights[i] for i in items) / mass if items else default


def _offsets(rows: _Rows, row: Sequence[int]) -> list[float]:
    """Places of a row's items packed side by side."""
    found, x = [], 0.0
    for k, item in enumerate(row):
        half = rows.boxes[item].width / 2
        if k:
            before = row[k - 1]
            narrow = rows.is_waypoint(item) and rows.is_waypoint(before)
            x += rows.boxes[before].width / 2 + half + (LANE if narrow else SIDE_GAP)
        found.append(x)
    return found


def separated(wanted: Sequence[float], weights: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """Places nearest to the wanted ones (least squares) that keep order and distances.

    With the distances taken off this is isotonic regression; pool adjacent violators solves it.
    """
    blocks: list[tuple[float, float, int]] = []
    for target, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, mass, count = target - offset, weight, 1
        while blocks and blocks[-1][0] > mean:
            other, other_mass, other_count = blocks.pop()
            mean = (mean * mass + other * other_mass) / (mass + other_mass)
            mass, count = mass + other_mass, count + other_count
        blocks.append((mean, mass, count))
    means = [mean for mean, _, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


class _Folding:
    """Cuts the rows into columns side by side, where few lines cross the cut."""

    def __init__(self, rows: _Rows, xs: list[float]) -> None:
        self.rows, self.xs = rows, xs
        self.heights = [max(rows.boxes[i].height for i in row) + ROW_GAP for row in rows.rows]
        self.row_spans = [self._row_span(row) for row in rows.rows]
        self.crossing = [self._crossing(r) if r else 0 for r in range(len(rows.rows))]
        self.cuts = self._best_cuts()
        self.column = [sum(cut <= r for cut in self.cuts) for r in range(len(rows.rows))]
        # Nodes and waypoints whose lines lead into the next column: each has a lane of its own.
        self.leaving = [[i for i in rows.rows[cut - 1] if rows.below[i]] for cut in self.cuts]
        self.lane = {item: lane for items in self.leaving for lane, item in enumerate(items)}
        self.lanes = max(map(len, self.leaving), default=0)
        self.shifts, self.edges, self.width = self._columns()
        self.head = ROW_GAP / 2 + LANE * self.lanes if self.cuts else 0.0
        self.tops = self._tops()
        self.bottom = max(y + h for y, h in zip(self.tops, self.heights, strict=True)) - ROW_GAP

    def placement(self) -> Placement:
        """Where everything goes."""
        rows = self.rows
        centers = [self._center(item) for item in range(len(rows.boxes))]
        routes = tuple(self._route(path, centers) for path in rows.paths)
        foot = ROW_GAP / 2 + LANE * self.lanes if self.cuts else 0.0
        return Placement(tuple(centers[: rows.real]), routes, self.width, self.bottom + foot)

    def _row_span(self, row: Sequence[int]) -> tuple[float, float]:
        """Left and right edge of a row."""
        half = [self.rows.boxes[i].width / 2 for i in row]
        return (
            min(self.xs[i] - h for i, h in zip(row, half, strict=True)),
            max(self.xs[i] + h for i, h in zip(row, half, strict=True)),
        )

    def _spans(self, cuts: Sequence[int]) -> list[tuple[float, float]]:
        """Left and right edge of each column."""
        columns = [self.row_spans[a:b] for a, b in pairwise([0, *cuts, len(self.row_spans)])]
        return [(min(low for low, _ in rows), max(high for _, high in rows)) for rows in columns]

    def _best_cuts(self) -> list[int]:
        """Rows that begin a new column: as many columns as the page's width and shape allow."""
        starts = [0.0, *accumulate(self.heights)]
        for columns in range(min(_MOST_COLUMNS, len(self.heights)), 1, -1):
            cuts = self._cuts(columns, starts)
            width = sum(high - low + COLUMN_GAP for low, high in self._spans(cuts))
            ends = [starts[r] for r in (0, *cuts, len(self.heights))]
            height = max(b - a for a, b in pairwise(ends))
            if width <= min(_WIDEST, _SHAPE * height):
                return cuts
        return []

    def _cuts(self, columns: int, starts: Sequence[float]) -> list[int]:
        """Rows that begin a new column, near equal heights, where few lines lead across."""
        cuts: list[int] = []
        for k in range(1, columns):
            ideal, slack = starts[-1] * k / columns, 0.4 * starts[-1] / columns
            first, last = bisect_left(starts, ideal - slack), bisect_left(starts, ideal + slack)
            allowed = range(max(first, 1, cuts[-1] + 1 if cuts else 1), min(last, len(self.heights)))
            if allowed:
                cuts.append(min(allowed, key=lambda r: (self.crossing[r], abs(starts[r] - ideal))))
        return cuts

    def _crossing(self, row: int) -> int:
        """How many lines lead into a row from the one above it."""
        return sum(1 for i in self.rows.rows[row - 1] if self.rows.below[i])

    def _columns(self) -> tuple[list[float], list[float], float]:
        """How far each column moves, its right edge, and the width of all."""
        shifts, edges, x = [], [], 0.0
        for k, (low, high) in enumerate(self._spans(self.cuts)):
            shifts.append(x - low)
            edges.append(x + high - low)
            lanes = len(self.leaving[k]) if k < len(self.cuts) else 0
            x = edges[-1] + (COLUMN_GAP + LANE * lanes if lanes else 0.0)
        return shifts, edges, edges[-1]

    def _tops(self) -> list[float]:
        tops, y = [], self.head
        for r, height in enumerate(self.heights):
            y = self.head if r in self.cuts else y
            tops.append(y)
            y += height
        return tops

    def _center(self, item: int) -> Point:
        row = self.rows.row[item]
        x = self.xs[item] + self.shifts[self.column[row]]
        return x, self.tops[row] + (self.heights[row] - ROW_GAP) / 2

    def _route(self, path: Sequence[int], centers: Sequence[Point]) -> tuple[Point, ...]:
        """From below each item to above the next; into another column around the edge."""
        points: list[Point] = []
        for upper, lower in pairwise(path):
            (x1, y1), (x2, y2) = centers[upper], centers[lower]
            points.append((x1, y1 + self.rows.boxes[upper].height / 2))
            columns = self.column[self.rows.row[upper]], self.column[self.rows.row[lower]]
            if columns[0] != columns[1]:
                aside = LANE * self.lane.get(upper, 0)
                low = self.bottom + ROW_GAP / 2 + aside
                high = self.head - ROW_GAP / 2 - aside
                gutter = self.edges[columns[1] - 1] + COLUMN_GAP / 2 + aside
                points += [(x1, low), (gutter, low), (gutter, high), (x2, high)]
            points.append((x2, y2 - self.rows.boxes[lower].height / 2))
        return tuple(points)
