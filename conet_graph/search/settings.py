"""Everything that decides how a search runs, as data; readable as TOML, comparable on resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.search.algorithm import SearchSettings
from conet_graph.trials.settings import TrainSettings

# What makes the next widths; `conet_graph.search.rules` has the rules.
RULES = ("conet", "slopes", "conetv2", "worth", "pairs", "surface", "loose", "taper")
# These may differ when a search goes on: they say how far it goes and where, not what it finds.
MAY_CHANGE = ("trials", "max_hours", "device", "compile", "checkpoint_seconds")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The settings of one search.

    Attributes:
        data: what to train on, as `conet_graph.trials.data.open_data` takes it.
        search: of Algorithm 2.
        training: of a trial.
        rule: one of `RULES`.
        augment: vary the training images.
        cutout: cut small images out, too; the published searches do not.
        image: the side that images are scaled to; their own if None.
        own_widths: start with the file's own widths, not with the search's start width.
        warm: each trial goes on with the last one's weights; otherwise with fresh ones (the paper).
        seed: of everything random.
        device: where trials run: 'auto', 'cpu', 'cuda', ...
        max_parameters, max_macs: budgets of every network that is tried: fractions of the original
            file's up to 1, absolute numbers above.
        max_hours: of training, over all sessions of the search.

    """

    data: str
    search: SearchSettings = field(default_factory=SearchSettings)
    training: TrainSettings = field(default_factory=TrainSettings)
    rule: str = "conet"
    augment: bool = False
    cutout: bool = False
    image: int | None = None
    own_widths: bool = False
    warm: bool = False
    seed: int = 0
    device: str = "auto"
    max_parameters: float | None = None
    max_macs: float | None = None
    max_hours: float | None = None

    def __post_init__(self) -> None:
        """Refuse budgets and seeds that no search can have."""
        if self.rule not in RULES:
            raise BadUsage(f"There is no rule {shown(self.rule)}: choose one of {', '.join(RULES)}.")
        if self.seed < 0:
            raise BadUsage(f"The seed is {self.seed}: give 0 or more.")
        for name in ("max_parameters", "max_macs", "max_hours"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise BadUsage(f"{name} is {value}: give a number above 0.")

    def flat(self) -> dict[str, Any]:
        """All settings by name, as they are stored."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("search", "training")}
        return {**own, **asdict(self.search), **asdict(self.training)}

    def changed(self, given: Mapping[str, Any]) -> RunSettings:
        """These settings with some replaced by name.

        Raises:
            BadUsage: a value is out of its range, or a name is unknown.

        """
        return settings_from({**self.flat(), **given})

    def to_toml(self) -> str:
        """The settings as a TOML document; those that are off stand in it as comments."""
        lines = ["# Settings of this search, for people and scripts; it resumes by those in run.sqlite."]
        for name, value in self.flat().items():
            # A TOML string is written as JSON's, but for the character DEL.
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{name} = {text}" if value is not None else f"# {name} is not set")
        return "\n".join(lines) + "\n"


def settings_from(flat: Mapping[str, Any]) -> RunSettings:
    """Settings from their stored form.

    Raises:
        BadUsage: a value is out of its range, or a name is unknown or missing.

    """
    parts: dict[str, dict[str, Any]] = {"search": {}, "training": {}, "": {}}
    place = {f.name: "search" for f in fields(SearchSettings)}
    place |= {f.name: "training" for f in fields(TrainSettings)}
    known = {f.name for f in fields(RunSettings)} | place.keys()
    for name, value in flat.items():
        if name not in known:
            raise BadUsage(f"The search has a setting {shown(name)} that this version does not know.")
        parts[place.get(name, "")][name] = value
    try:
        search, training = SearchSettings(**parts["search"]), TrainSettings(**parts["training"])
        return RunSettings(search=search, training=training, **parts[""])
    except TypeError as error:
        raise BadUsage(f"The settings of the search are damaged: {error}.") from None


def require_same(stored: RunSettings, wanted: RunSettings) -> None:
    """Refuse to go on with settings other than those that a search began with.

    Raises:
        BadUsage: they differ in something that decides what is found; the first is named.

    """
    before = stored.flat()
    for name, value in wanted.flat().items():
        if before[name] != value and name not in MAY_CHANGE:
            raise BadUsage(
                f"The search began with {name} {before[name]}, not {value}: leave it out to go on, or search"
                " into another folder."
            )
