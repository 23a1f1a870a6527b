"""Found widths for other forms of a network: by the names of the zoo's sizes (the paper's Table 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from conet_graph.analysis.analysis import analyze
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.models import build, default_image, sizes
from conet_graph.search.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

# Far apart, so that no size is as wide as another one or as half of another one.
_FIRST, _STEP = 10_000, 4


def zoo_widths(run: Path, name: str, image: int | None = None) -> dict[str, int]:
    """The widths that a search of a zoo network found, by the names of the zoo's sizes.

    Args:
        run: the folder of the search.
        name: the network that was searched, in whatever form.
        image: side of the images that the widths are for; the default of the network if not given.
            The ImageNet form of a network of cells has another stem: sizes that only one of the forms has
            are left out.

    Returns:
        Size -> width, as `conet_graph.models.build` takes them.

    Raises:
        BadUsage: there is no finished search in the folder, or it searched another network.

    """
    side = default_image(name) if image is None else image
    try:
        wanted = sizes(name, image=side)
        found = _searched_widths(RunFolder(run), name)
    except ValueError as error:
        raise BadUsage(f"The widths cannot be taken over: {error}.") from None
    return {size: width for size, width in found.items() if size in wanted}


def _searched_widths(folder: RunFolder, name: str) -> dict[str, int]:
    """The widths by size, in the form of the network that was searched."""
    by_layer = _read_widths(folder)
    analysis = analyze(folder.original)
    weight_of = {layer.name: layer.weight for layer in analysis.layers}
    size_of, share_of = _size_of_weight(name, _image_side(folder, name))
    whole: dict[str, int] = {}
    parts: dict[str, dict[str, int]] = {}
    for layer, width in by_layer.items():
        weight = weight_of.get(layer, "")
        size = size_of.get(weight)
        if size is None:
            raise BadUsage(
                f"{shown(str(folder.path))} searched another network than {name}: {name} has no layer"
                f" {shown(layer)}."
            )
        if share_of[weight] == 1:
            whole[size] = width
        else:
            parts.setdefault(size, {})[weight] = width
    return {**{size: _together(halves) for size, halves in parts.items()}, **whole}


def _together(halves: Mapping[str, int]) -> int:
    """The width of a size that is known by its concatenated halves only."""
    return sum(list(halves.values())[:2])


def _read_widths(folder: RunFolder) -> dict[str, int]:
    try:
        data = json.loads(folder.widths.read_text("utf-8"))
    except OSError:
        raise BadUsage(
            f"{shown(str(folder.path))} holds no {folder.widths.name}: give the folder of a finished search."
        ) from None
    except ValueError:
        data = None
    if not isinstance(data, dict) or not all(type(width) is int for width in data.values()):
        raise BadUsage(f"{shown(str(folder.widths))} is damaged: --resume the search to write it again.")
    return data


def _image_side(folder: RunFolder, name: str) -> int:
    """The side of the images of the network that was searched."""
    import onnx

    graph = onnx.load(folder.original, load_external_data=False).graph
    dims = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] if graph.input else []
    return dims[-1] if dims and dims[-1] > 0 else default_image(name)


def _size_of_weight(name: str, image: int) -> tuple[dict[str, str], dict[str, int]]:
    """Weight -> the size of its output, and 1, or 2 where it produces half of it.

    Read off a network in which every size has a width of its own; it takes no memory.
    """
    import torch

    widths = {size: _FIRST + _STEP * k for k, size in enumerate(sizes(name, image=image))}
    size_of_width = {width: size for size, width in widths.items()}
    with torch.device("meta"):
        module: nn.Module = build(name, widths=widths, image=image)
    size_of: dict[str, str] = {}
    share_of: dict[str, int] = {}
    for weight, tensor in module.named_parameters():
        if tensor.ndim < 2:
            continue
        for share in (1, 2):
            size = size_of_width.get(share * tensor.shape[0])
            if size is not None and weight not in size_of:
                size_of[weight], share_of[weight] = size, share
    return size_of, share_of
