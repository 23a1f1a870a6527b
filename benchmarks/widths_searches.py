"""The searches of the widths experiment, each at one equal budget: what compound scaling costs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conet_graph.ir.load import load_model
from conet_graph.search.begin import begin, go_on, network_in, searched_network
from conet_graph.search.rules import pairs, taper
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.runner import Search, Tools
from conet_graph.search.settings import RunSettings
from conet_graph.search.tools import standard_tools

BASELINES = ("compound", "flat", "random")


@dataclass(frozen=True)
class Kind:
    """One kind of search.

    Attributes:
        settings: of the search, beside those that all have.
        reversed: the loss that decides is taken with the other sign: the worst sizes are widened.

    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    reversed: bool = False


# Rank-slopes can settle in eight trials at this gamma; delta is what sizes of these widths can just show.
SLOPES = {"trials": 8, "epochs": 5, "gamma": 0.05, "schedule": "adas"}
WORTH = {
    "rule": "worth",
    "trials": 14,
    "epochs": 2,
    "schedule": "cosine",
    "learning_rate": 0.05,
    "gamma": 0.05,
}
# A hundred epochs, whatever the network: as many as eight of the experiment's trainings.
SURFACE = {"trials": 25, "epochs": 4, "schedule": "cosine", "phi": 0.35}
SEARCHES: Mapping[str, Kind] = {
    "conet": Kind({**SLOPES, "rule": "conet", "delta": 0.03}),
    "slopes": Kind({**SLOPES, "rule": "slopes"}),
    "conetv2": Kind({"rule": "conetv2", "trials": 16, "epochs": 2, "schedule": "adas"}),
    "worth": Kind(WORTH),
    "reversed": Kind(WORTH, reversed=True),
    # As many trials as one round takes.
    "pairs": Kind({"rule": "pairs", "epochs": 3, "schedule": "cosine", "phi": 0.3}),
    "surface": Kind({**SURFACE, "rule": "surface"}),
    "loose": Kind({**SURFACE, "rule": "loose"}),
    # Three turns of all powers: 150 epochs or so, whatever the network.
    "taper": Kind({"rule": "taper", "trials": taper.trials_of(3), "epochs": 8, "schedule": "cosine"}),
}


def found_shape(
    kind: str, model: Path, images: Path, folder: Path, draw: int, options: argparse.Namespace
) -> tuple[dict[str, float], int, float | None]:
    """Run a search within what the file's own widths cost, or go on with it.

    Returns:
        Size -> the width that was found; the epochs that it trained; the last trial's accuracy on the images
        held out.

    """
    run, wanted = RunFolder(folder), SEARCHES[kind]
    given = {
        "own_widths": True, "min_width": 2, "max_width": 1024, "multiple": 1,
        "max_parameters": None if options.match == "macs" else 1.0,
        "max_macs": None if options.match == "params" else 1.0,
        "augment": True, "batch": options.batch, "device": options.device, "seed": draw,
        **wanted.settings,
    }  # fmt: skip
    if given["rule"] == "pairs":
        given["trials"] = pairs.trials_of(len(searched_network(load_model(model)).sizes))
    settings = RunSettings(f"npz:{images}").changed(given)
    if not run.database.exists():
        begin(model, run, settings, "benchmarks/experiment_widths.py")
    with run.locked():
        store, settings = go_on(run, model, {})
        with closing(store):
            tools = standard_tools(settings)
            if wanted.reversed:
                tools = _reversed(tools)
            Search(run, store, settings, network_in(run), tools).run()
            last = store.trials()[-1]
            widths = {name: float(state.width) for name, state in store.states(last.trial).items()}
    return widths, (last.trial + 1) * settings.search.epochs, last.test_accuracy


def _reversed(tools: Tools) -> Tools:
    loss = tools.loss
    return tools if loss is None else replace(tools, loss=lambda module: -loss(module))
