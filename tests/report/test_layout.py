"""Layout: nodes do not overlap, edges lead downwards, chains are straight, dense networks stay cheap."""

from __future__ import annotations

import itertools
import random

import pytest

from conet_graph.report.layout import Box, Edge, Placement, place, separated


def overlaps(boxes: list[Box], placed: Placement) -> list[tuple[int, int]]:
    found = []
    for (i, a), (j, b) in itertools.combinations(enumerate(placed.centers), 2):
        aside = abs(a[0] - b[0]) < (boxes[i].width + boxes[j].width) / 2 - 1e-6
        beside = abs(a[1] - b[1]) < (boxes[i].height + boxes[j].height) / 2 - 1e-6
        if aside and beside:
            found.append((i, j))
    return found


def random_dag(seed: int, count: int) -> tuple[list[Box], list[Edge]]:
    rng = random.Random(seed)
    edges = {(rng.randrange(max(0, k - 6), k), k) for k in range(1, count)}
    edges |= {
        (a, b) for a, b in zip(rng.choices(range(count), k=count), itertools.count(), strict=False) if a < b
    }
    return [Box(rng.choice((22, 60, 150)), rng.choice((20, 40))) for _ in range(count)], sorted(edges)


@pytest.mark.parametrize("seed", range(8))
def test_no_two_nodes_overlap_and_all_lie_within(seed: int) -> None:
    boxes, edges = random_dag(seed, 40)
    placed = place(boxes, edges)
    assert overlaps(boxes, placed) == []
    for box, (x, y) in zip(boxes, placed.centers, strict=True):
        assert box.width / 2 - 1e-6 <= x <= placed.width - box.width / 2 + 1e-6
        assert box.height / 2 - 1e-6 <= y <= placed.height - box.height / 2 + 1e-6
    for route in placed.routes:
        assert all(-1e-6 <= x <= placed.width + 50 and -1e-6 <= y <= placed.height + 1e-6 for x, y in route)


def test_an_overlap_is_seen() -> None:
    boxes = [Box(10, 10), Box(10, 10)]
    assert overlaps(boxes, Placement(((5, 5), (9, 9)), (), 20, 20)) == [(0, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_routes_end_at_their_nodes(seed: int) -> None:
    boxes, edges = random_dag(seed, 30)
    placed = place(boxes, edges)
    tops = [(x, y - box.height / 2) for box, (x, y) in zip(boxes, placed.centers, strict=True)]
    bottoms = [(x, y + box.height / 2) for box, (x, y) in zip(boxes, placed.centers, strict=True)]
    drawn: dict[int, set[tuple[float, float]]] = {k: {bottom} for k, bottom in enumerate(bottoms)}
    for (source, target), route in zip(edges, placed.routes, strict=True):
        assert route[-1] == tops[target]
        # It begins at the source, or where an earlier edge of the source has led.
        assert route[0] in drawn[source]
        drawn[source].update(route)


def test_a_short_chain_is_one_straight_column() -> None:
    placed = place([Box(60, 20)] * 5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    columns = {round(x) for x, _ in placed.centers}
    assert len(columns) <= 2
    first = [y for x, y in placed.centers if round(x) == min(columns)]
    assert first == sorted(first)


def test_a_long_chain_is_folded_into_the_pages_shape() -> None:
    count = 60
    placed = place([Box(150, 40)] * count, [(k, k + 1) for k in range(count - 1)])
    assert 0.8 < placed.width / placed.height < 3
    assert len({round(x) for x, _ in placed.centers}) > 4


def test_residual_blocks_do_not_drift_aside() -> None:
    """Sums of blocks in one column lie under each other."""
    edges, boxes, last = [], [Box(150, 40)], 0
    sums = []
    for _ in range(3):
        a, b, total = len(boxes), len(boxes) + 1, len(boxes) + 2
        boxes += [Box(150, 40), Box(150, 40), Box(22, 22)]
        edges += [(last, a), (a, b), (b, total), (last, total)]
        sums.append(total)
        last = total
    placed = place(boxes, sorted(edges))
    by_column: dict[bool, set[int]] = {}
    for k in sums:
        by_column.setdefault(placed.centers[k][0] > placed.width / 2, set()).add(round(placed.centers[k][0]))
    assert all(len(xs) == 1 for xs in by_column.values())


def test_a_densely_connected_block_is_drawn_in_few_segments() -> None:
    count = 60
    edges = [(a, b) for b in range(count) for a in range(b)]
    placed = place([Box(60, 20)] * count, edges)
    assert sum(len(route) for route in placed.routes) < 4 * len(edges) + 60 * count


def test_nothing_and_one_node() -> None:
    assert place([], []).centers == ()
    assert place([Box(10, 6)], []).centers[0][0] == pytest.approx(5)


def test_separated_keeps_order_and_distance_and_moves_least() -> None:
    assert separated([5.0, 5.0], [1.0, 1.0], [0.0, 4.0]) == [3.0, 7.0]
    assert separated([0.0, 9.0], [1.0, 1.0], [0.0, 4.0]) == [0.0, 9.0]
    assert separated([5.0, 5.0], [3.0, 1.0], [0.0, 4.0]) == [4.0, 8.0]
