"""Ranks of layers become the rank, condition and slope of a size."""

from dataclasses import replace

import pytest

from conet_graph.indicators import LayerIndicators, Voice, rank_slope
from conet_graph.indicators.slope import mean_condition, mean_rank

BLANK = LayerIndicators(0.0, 0.0, 0, 0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("ranks", "slope", "peak"),
    [
        ([0.1, 0.3, 0.2], 0.2, 1),
        ([0.1, 0.1, 0.4], 0.15, 2),
        ([0.5, 0.4, 0.3], 0.0, 0),
        ([0.2], 0.0, 0),
        ([0.1, 0.3, 0.3], 0.2, 1),
        ([0.0, 0.0, 0.0], 0.0, 0),
    ],
)
def test_slope_up_to_the_first_peak(ranks: list[float], slope: float, peak: int) -> None:
    found, epoch = rank_slope(ranks)
    assert found == pytest.approx(slope)
    assert epoch == peak


def test_producers_speak_by_output_consumers_by_input() -> None:
    layers = {
        "a": replace(BLANK, out_rank=0.2, in_rank=0.9, out_condition=2.0, in_condition=50.0),
        "b": replace(BLANK, out_rank=0.8, in_rank=0.4, out_condition=60.0, in_condition=4.0),
    }
    voices = [Voice("out", ("a",)), Voice("in", ("b",))]
    assert mean_rank(voices, layers) == pytest.approx(0.3)
    assert mean_condition(voices, layers) == pytest.approx(3.0)


def test_two_halves_are_one_voice() -> None:
    ranks = {"l": 0.2, "r": 0.4, "c": 0.9}
    layers = {name: replace(BLANK, out_rank=rank) for name, rank in ranks.items()}
    assert mean_rank([Voice("out", ("l", "r")), Voice("out", ("c",))], layers) == pytest.approx(0.6)
