"""Algorithm 2, trace by trace; every expected number was computed by hand."""

from dataclasses import replace

import pytest

from conet_graph.indicators import SizeIndicators
from conet_graph.ir.errors import BadUsage
from conet_graph.search import (
    SearchSettings,
    SizeState,
    finished,
    rounded_width,
    start_state,
    step,
    step_all,
)
from conet_graph.search.algorithm import ANY, Grain, within_budget

SETTINGS = SearchSettings(delta=0.01)


Trace = list[SizeState]


def said(slope: float, condition: float = 2.0) -> SizeIndicators:
    return SizeIndicators((0.0, slope), condition, slope, 1)


GROW, FADE = said(0.05), said(0.001)


def trace(start: int, words: str, settings: SearchSettings = SETTINGS, grain: Grain = ANY) -> Trace:
    """States after each trial; a word a trial: + learns fast, - does not."""
    state = start_state(settings, start)
    states = []
    for trial, word in enumerate(words):
        state = step(state, GROW if word == "+" else FADE, settings, trial == 0, grain)
        states.append(state)
    return states


def widths(states: list[SizeState]) -> list[int]:
    return [state.width for state in states]


def test_expansion_multiplies_by_one_plus_phi() -> None:
    states = trace(32, "++++")
    # 38.4, 45.6, 55.2, 67.2
    assert widths(states) == [38, 46, 56, 68]
    assert {(state.action, state.phi, state.stopped) for state in states} == {(1, 0.2, False)}


def test_shrinkage_multiplies_by_one_minus_phi() -> None:
    states = trace(64, "---")
    # 51.2, 41.6, 33.6
    assert widths(states) == [52, 42, 34]
    assert {(state.action, state.phi) for state in states} == {(-1, 0.2)}


def test_at_the_minimum_a_size_expands_instead() -> None:
    states = trace(22, "----")
    # 17.6; 14.4 clamped to 16; at 16 up by 0.1: 17.6; down by 0.05: 17.1
    assert widths(states) == [18, 16, 18, 18]
    assert [state.action for state in states] == [-1, -1, 1, -1]
    assert [state.phi for state in states] == [0.2, 0.2, 0.1, 0.05]


def test_oscillation_halves_the_step_until_the_size_stops() -> None:
    states = trace(100, "+-+-+-+")
    # 120; 108; 113.4; 111.15; 113.4; 113.29; stopped
    assert widths(states) == [120, 108, 114, 112, 114, 114, 114]
    halves = [0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125]
    assert [s.phi for s in states] == pytest.approx(halves)
    assert [s.action for s in states] == [1, -1, 1, -1, 1, -1, 0]
    assert [s.stopped for s in states] == [False] * 6 + [True]


def test_a_small_step_goes_on_as_long_as_the_direction_holds() -> None:
    state = SizeState(200, 1, 0.009, False)
    assert step(state, GROW, SETTINGS, False) == SizeState(202, 1, 0.009, False)
    assert step(state, FADE, SETTINGS, False) == SizeState(200, 0, 0.0045, True)


def test_a_step_equal_to_gamma_does_not_stop() -> None:
    after = step(SizeState(200, 1, 0.01, False), FADE, SETTINGS, False)
    assert after == SizeState(200, -1, 0.005, False)


def test_the_first_trial_never_halves_or_stops() -> None:
    tiny = SizeState(200, 1, 0.001, False)
    assert step(tiny, FADE, SETTINGS, True) == SizeState(200, -1, 0.001, False)


def test_a_stopped_size_stays_as_it_is() -> None:
    stopped = SizeState(50, 0, 0.003, True)
    assert step(stopped, GROW, SETTINGS, False) == stopped


@pytest.mark.parametrize(
    ("slope", "condition", "action"),
    [
        (0.01, 9.99, 1),
        (0.0099, 9.99, -1),
        (0.01, 10.0, -1),
        (0.5, 1000.0, -1),
        (-0.2, 1.0, -1),
        (0.0, 1.0, -1),
    ],
)
def test_low_slope_or_high_condition_shrinks(slope: float, condition: float, action: int) -> None:
    after = step(start_state(SETTINGS, 100), said(slope, condition), SETTINGS, True)
    assert (after.action, after.width) == (action, 100 + 20 * action)


def test_widths_stay_under_the_maximum() -> None:
    assert widths(trace(220, "+++")) == [256, 256, 256]


def test_over_the_maximum_even_a_fast_learner_shrinks() -> None:
    # 300 x 0.8 = 240; 400 x 0.8 = 320, clamped
    assert trace(300, "+")[0] == SizeState(240, -1, 0.2, False)
    assert trace(400, "+")[0] == SizeState(256, -1, 0.2, False)


def test_under_the_minimum_a_size_comes_up_to_it() -> None:
    assert trace(4, "-")[0] == SizeState(16, 1, 0.2, False)


def test_widths_are_multiples() -> None:
    eights = replace(SETTINGS, multiple=8)
    # 38.4; 48; 57.6; down by 0.1: 50.4
    assert widths(trace(32, "+++-", eights)) == [40, 48, 56, 48]


def test_a_grouped_size_moves_by_whole_groups() -> None:
    # Multiples of 32: 153.6; 192; 230.4; down by 0.1: 201.6
    assert widths(trace(128, "+++-", grain=Grain(32))) == [160, 192, 224, 192]
    # Even multiples of 3: 38.4
    assert widths(trace(32, "+", grain=Grain(3))) == [36]


def test_every_part_of_a_size_keeps_its_channels() -> None:
    narrow = replace(SETTINGS, min_width=2, multiple=1)
    assert rounded_width(1, narrow, Grain(1, 3)) == 3
    assert rounded_width(1, narrow, Grain(4, 2)) == 8
    assert widths(trace(5, "-", narrow, Grain(1, 4))) == [4]
    with pytest.raises(BadUsage, match=r"no multiple of 32 .* \(its 9 parts take 288\)"):
        rounded_width(300, SETTINGS, Grain(32, 9))


def test_rounding_can_swallow_a_step_but_not_the_action() -> None:
    assert trace(32, "+", replace(SETTINGS, multiple=16))[0] == SizeState(32, 1, 0.2, False)


@pytest.mark.parametrize(
    ("width", "multiple", "rounded"),
    [(32.9, 1, 32), (33.0, 1, 34), (35.0, 1, 36), (17, 12, 24), (255, 12, 252), (1e9, 1, 256)],
)
def test_rounding(width: float, multiple: int, rounded: int) -> None:
    assert rounded_width(width, SETTINGS, Grain(multiple)) == rounded


def test_bounds_without_a_multiple_between_them_are_refused() -> None:
    with pytest.raises(BadUsage, match=r"no multiple of 64 .* min_width 70 and max_width 100"):
        SearchSettings(min_width=70, max_width=100, multiple=64)
    with pytest.raises(BadUsage, match="no multiple of 512"):
        step(start_state(SETTINGS, 512), GROW, SETTINGS, True, Grain(512))


@pytest.mark.parametrize(
    ("name", "value"),
    [("trials", 0), ("multiple", 0), ("delta", float("nan")), ("mu", -1.0), ("phi", 1.0)],
)
def test_settings_that_no_search_can_run_with(name: str, value: float) -> None:
    with pytest.raises(BadUsage, match=f"^{name} is "):
        SearchSettings(**{name: value})  # type: ignore[arg-type]


def test_the_defaults_are_the_papers() -> None:
    plain = SearchSettings()
    assert (plain.trials, plain.epochs, plain.start_width) == (25, 20, 32)
    assert (plain.mu, plain.gamma, plain.phi) == (10, 0.01, 0.2)
    assert (plain.min_width, plain.max_width, plain.multiple) == (16, 256, 2)
    assert 0.0025 <= plain.delta <= 0.025
    assert start_state(plain) == SizeState(32, 0, 0.2, False)


def test_all_sizes_step_at_once() -> None:
    states = {name: start_state(SETTINGS, 64) for name in ("up", "down", "groups", "mute")}
    indicators = {"up": GROW, "down": FADE, "groups": GROW}
    after = step_all(states, indicators, SETTINGS, True, {"groups": Grain(16)})
    assert list(after) == list(states)
    # 76.8; 51.2; 76.8 in sixteens
    assert [state.width for state in after.values()] == [76, 52, 80, 64]
    assert [state.stopped for state in after.values()] == [False, False, False, True]


def test_a_size_without_a_width_is_named() -> None:
    with pytest.raises(BadUsage, match="Size 'wide': no multiple of 512"):
        step_all({"wide": start_state(SETTINGS)}, {"wide": GROW}, SETTINGS, True, {"wide": Grain(512)})


def test_the_search_ends_when_all_stopped_or_trials_are_over() -> None:
    going, stopped = SizeState(32, 1, 0.2, False), SizeState(32, 0, 0.005, True)
    assert not finished([going, stopped], 24, SETTINGS)
    assert finished([going, stopped], 25, SETTINGS)
    assert finished([stopped, stopped], 3, SETTINGS)


def test_a_budget_makes_room_at_the_lowest_slopes() -> None:
    settings = SearchSettings(delta=0.01, min_width=8)
    states = {name: start_state(settings, 64) for name in "abc"}
    slopes = {"a": 0.05, "b": 0.02, "c": 0.09}
    measured = {name: SizeIndicators((0.0, slope), 1.0, slope, 1) for name, slope in slopes.items()}

    def after(delta: float) -> dict[str, SizeState]:
        return step_all(states, measured, replace(settings, delta=delta), True, {})

    def fits(limit: int) -> dict[str, int]:
        found = within_budget(
            after, 0.01, slopes.values(), lambda tried: sum(s.width for s in tried.values()) <= limit
        )
        return {name: state.width for name, state in found.items()}

    assert fits(1000) == {"a": 76, "b": 76, "c": 76}
    assert fits(210) == {"a": 76, "b": 52, "c": 76}
    assert fits(190) == {"a": 52, "b": 52, "c": 76}
    assert fits(10) == {"a": 52, "b": 52, "c": 52}
