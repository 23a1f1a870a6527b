"""``--help`` of every command: defaults are shown, and in one way."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer

from conet_graph.cli import COMMANDS, app_for, run

# What has nothing to do with an option's own default, or says it as typer does.
FINE = re.compile(r"  \[default: [^\]]+\]$|kept by default|'default'")
ELSEWHERE = re.compile(r"\bdefault|if not given", re.IGNORECASE)


def options(command: str) -> list[Any]:
    group: Any = typer.main.get_command(app_for([command]))
    found = group.commands[command] if hasattr(group, "commands") else group
    return [p for p in found.params if p.param_type_name == "option" and p.name != "help"]


def has_default(option: Any) -> bool:
    """Whether an option has a value when it is not given, that is worth saying."""
    is_switch = option.is_flag and not option.secondary_opts
    return option.default not in (None, (), [], "") and not is_switch and not option.required


def said_elsewhere(text: str) -> bool:
    """Whether a help text speaks of its default other than behind it in brackets."""
    return bool(ELSEWHERE.search(FINE.sub("", text)))


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_are_shown_in_one_style(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    page = " " + " ".join(capsys.readouterr().out.split()).partition(" Options: ")[2]
    for option in options(command):
        assert not said_elsewhere(option.help or ""), option.opts
        if has_default(option):
            start = page.index(f" {option.opts[-1]} ")
            assert "[default: " in page[start : start + 400], option.opts


def test_another_style_is_found() -> None:
    assert said_elsewhere("Which channels stay: l2 (the default) or l1.")
    assert said_elsewhere("The provider; the CPU's if not given.")
    assert not said_elsewhere("The most trials  [default: 25]")
    assert not said_elsewhere("Free channels kept by default.")
    assert sum(has_default(option) for option in options("rewrite")) >= 5
