"""Settings of a search: stored and read again, readable as TOML, compared on resume."""

from __future__ import annotations

import tomllib

import pytest

from conet_graph.ir.errors import BadUsage
from conet_graph.search.settings import RunSettings, require_same, settings_from

SETTINGS = RunSettings(data='npz:a "strange"\nname\x7f.npz', warm=True, max_hours=2.5)


def test_stored_settings_come_back() -> None:
    assert settings_from(SETTINGS.flat()) == SETTINGS


def test_toml_says_what_is_stored() -> None:
    read = tomllib.loads(SETTINGS.to_toml())
    assert read == {name: value for name, value in SETTINGS.flat().items() if value is not None}


def test_other_settings_are_refused_by_name_but_how_far_and_where_may_change() -> None:
    require_same(SETTINGS, SETTINGS.changed({"trials": 99, "max_hours": 9.0, "device": "cuda"}))
    with pytest.raises(BadUsage, match=r"began with delta 0\.01, not 0\.02"):
        require_same(SETTINGS, SETTINGS.changed({"delta": 0.02}))
    with pytest.raises(BadUsage, match="began with batch 128, not 64"):
        require_same(SETTINGS, SETTINGS.changed({"batch": 64}))


def test_unknown_and_impossible_settings_are_refused() -> None:
    with pytest.raises(BadUsage, match="setting 'colour'"):
        SETTINGS.changed({"colour": "red"})
    with pytest.raises(BadUsage, match="max_hours is 0: give a number above 0"):
        SETTINGS.changed({"max_hours": 0})
    with pytest.raises(BadUsage, match="The seed is -1"):
        SETTINGS.changed({"seed": -1})
    with pytest.raises(BadUsage, match="damaged"):
        settings_from({"trials": 3})
