"""Widths that a search found, taken over by the names of the zoo's sizes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from conet_graph.ir.errors import BadUsage
from conet_graph.ir.load import load_model
from conet_graph.models import export_onnx, sizes
from conet_graph.search.network import Network, layer_widths
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.transfer import zoo_widths


def searched(tmp_path: Path, name: str) -> tuple[RunFolder, dict[str, int]]:
    """A folder as a search leaves it, with widths drawn at random; and these by layer."""
    folder = RunFolder(tmp_path / name)
    folder.make()
    export_onnx(name, folder.original, width=8)
    network = Network(load_model(folder.original))
    rng = np.random.default_rng(3)
    widths = {size.name: 2 * int(rng.integers(2, 12)) for size in network.sizes}
    by_layer = layer_widths(network.at(widths, 0))
    folder.save_widths(by_layer)
    return folder, by_layer


@pytest.mark.parametrize("name", ["resnet8", "darts7"])
def test_a_network_built_with_them_has_the_found_widths(name: str, tmp_path: Path) -> None:
    folder, by_layer = searched(tmp_path, name)
    found = zoo_widths(folder.path, name)
    assert set(found) == set(sizes(name))
    export_onnx(name, tmp_path / "again.onnx", widths=found)
    assert layer_widths(load_model(tmp_path / "again.onnx")) == by_layer
    if name == "darts7":
        large = zoo_widths(folder.path, name, image=224)
        assert large == {size: width for size, width in found.items() if size != "stem"}


def test_a_search_of_another_network_or_none_is_refused(tmp_path: Path) -> None:
    folder, _ = searched(tmp_path, "resnet8")
    with pytest.raises(BadUsage, match="searched another network than vgg11"):
        zoo_widths(folder.path, "vgg11")
    with pytest.raises(BadUsage, match="no network 'lenet' in the zoo"):
        zoo_widths(folder.path, "lenet")
    shutil.rmtree(tmp_path / "resnet8")
    with pytest.raises(BadUsage, match=r"holds no widths\.json"):
        zoo_widths(folder.path, "resnet8")
