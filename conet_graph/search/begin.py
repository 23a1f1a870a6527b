"""Beginning a search in a folder, and going on with one."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conet_graph.ir.errors import BadUsage, InvalidModel, shown
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.ir.save import atomic_write
from conet_graph.passes.insert_batchnorm import insert_batchnorm, was_inserted
from conet_graph.rewriting.rewriting import save
from conet_graph.search.network import Network
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.run_store import RunStore
from conet_graph.search.settings import RunSettings, require_same, settings_from
from conet_graph.version import own_version


def begin(model: Path, folder: RunFolder, settings: RunSettings, command: str) -> None:
    """Begin a search: the folder with the network, the settings and an empty database.

    Raises:
        BadUsage: the folder holds a search already, or cannot be written.
        InvalidModel: the model cannot be read.
        Refused: nothing in it may change.

    """
    folder.require_empty()
    loaded = load_model(model)
    sizes = searched_network(loaded).sizes
    about = {
        "model": str(model),
        "sha256": loaded.sha256,
        "data": settings.data,
        "settings": json.dumps(settings.flat()),
        "status": "running",
        "command": command,
        "version": own_version(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    folder.make()
    with folder.locked():
        folder.require_empty()
        save(loaded, folder.original)
        atomic_write(folder.config, [settings.to_toml().encode()])
        RunStore.create(folder.database, about, sizes)


def go_on(folder: RunFolder, model: Path | None, given: Mapping[str, Any]) -> tuple[RunStore, RunSettings]:
    """Open a search to go on with it.

    Args:
        folder: where it is.
        model: the network that it is thought to search; None takes the folder's.
        given: settings by name that must be the same, or may change (`MAY_CHANGE`).

    Raises:
        BadUsage: there is no search, it is damaged, or it searches something else or otherwise.

    """
    store = RunStore(folder.database)
    about = store.about()
    stored = stored_settings(about)
    if model is not None and load_model(model).sha256 != about.get("sha256"):
        raise BadUsage(
            f"{shown(str(folder.path))} is the search of another network than {shown(str(model))}: give that"
            " one, or another folder."
        )
    wanted = stored.changed(given)
    require_same(stored, wanted)
    if wanted != stored:
        store.tell("settings", json.dumps(wanted.flat()))
        atomic_write(folder.config, [wanted.to_toml().encode()])
    return store, wanted


def stored_settings(about: Mapping[str, str]) -> RunSettings:
    """The settings that a search began with.

    Raises:
        BadUsage: they are damaged.

    """
    try:
        return settings_from(json.loads(about["settings"]))
    except (KeyError, ValueError, AttributeError) as error:
        raise BadUsage(f"The settings in the search's database are damaged: {error}.") from None


def searched_network(model: LoadedModel) -> Network:
    """The network that trials train: the model's own, with the BatchNorms that an export folded put back."""
    whole = insert_batchnorm(model)
    return Network(whole, was_inserted(model, whole))


def network_in(folder: RunFolder) -> Network:
    """The network of a search's folder.

    Raises:
        BadUsage: it is not there, or damaged.

    """
    try:
        return searched_network(load_model(folder.original))
    except InvalidModel as error:
        raise BadUsage(f"The search's own copy of the network is damaged: {error}") from None
