"""A search with a trial of one's own, from Python."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from conet_graph.bridge import from_torch, trainable, weights_by_name
from conet_graph.search.begin import begin, go_on, network_in
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.runner import Search, Tools
from conet_graph.search.settings import RunSettings
from conet_graph.search.watch import Watch
from conet_graph.trials.protocol import Trial

# What stands for the data set in the folder: only the trial knows it.
DATA = "the trial's own"


def search_with(
    trial: Trial, model: str | Path, out: str | Path, watch: Watch | None = None, **settings: Any
) -> Path:
    """Search with a trial of one's own, or go on with such a search where the folder holds one.

    Args:
        trial: trains a module and yields after each epoch; see `conet_graph.trials.protocol`.
        model: an ONNX file.
        out: the folder of the search.
        watch: is told how it goes; nobody if not given.
        settings: by name, as `RunSettings.flat` lists them: trials, epochs, delta, ...; those of training are
            the trial's business.

    Returns:
        The network that was found: ``final.onnx`` in the folder, ``widths.json`` beside it.

    Raises:
        BadUsage: the folder holds another search, or a setting makes no sense.
        TrialFailed: the trial has said twice that it diverges.

    """
    folder, model = RunFolder(Path(out)), Path(model)
    given = {"data": DATA, **settings}
    if not folder.database.exists():
        begin(model, folder, RunSettings(DATA).changed(given), " ".join(sys.argv))
    with folder.locked():
        store, found = go_on(folder, model, given)
        with closing(store):
            tools = Tools(trainable, from_torch, weights_by_name, lambda share: trial)
            Search(folder, store, found, network_in(folder), tools, watch).run()
    return folder.final
