"""The registry of networks: names and sizes as data; torch is loaded when one is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from conet_graph.models.genotypes import cell_network_sizes
from conet_graph.models.sizes import mobilenetv2_sizes, resnet_sizes, vgg11_sizes

if TYPE_CHECKING:
    from torch import nn

TORCHVISION = "torchvision:"
# From this image side on, the networks of cells start with the ImageNet stem of DARTS.
IMAGENET_FROM = 64


@dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    ``layout`` is the number of basic blocks in each stage, or of cells. ``divisor`` is what the
    image's side must be a multiple of. ``independent_sizes`` is how many channel sizes an analysis
    must find in the form for small images.
    """

    name: str
    family: str
    layout: tuple[int, ...]
    width: int
    divisor: int
    independent_sizes: int
    doc: str


_ENTRIES = (
    Entry("resnet8", "resnet", (1, 1, 1), 16, 4, 6, "CIFAR ResNet, 3 basic blocks"),
    Entry("resnet20", "resnet", (3, 3, 3), 16, 4, 12, "CIFAR ResNet, 9 basic blocks"),
    Entry("resnet18", "resnet", (2, 2, 2, 2), 64, 8, 12, "ResNet-18 with the CIFAR stem"),
    Entry("resnet34", "resnet", (3, 4, 6, 3), 64, 8, 20, "ResNet-34 with the CIFAR stem"),
    Entry("vgg11", "vgg", (), 64, 32, 8, "VGG-11 with BatchNorm"),
    Entry("mobilenetv2", "mobilenet", (), 32, 8, 25, "MobileNetV2 for small images"),
    Entry("darts7", "darts", (7,), 16, 4, 48, "DARTS, 7 cells"),
    Entry("darts14", "darts", (14,), 48, 4, 111, "DARTS, 14 cells"),
    Entry("darts20", "darts", (20,), 36, 4, 165, "DARTS, 20 cells"),
    Entry("dartsplus7", "dartsplus", (7,), 16, 4, 55, "DARTS+, 7 cells"),
    Entry("dartsplus14", "dartsplus", (14,), 42, 4, 125, "DARTS+, 14 cells"),
)
ZOO: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}

_MODULES = {
    "resnet": "conet_graph.models.resnet",
    "vgg": "conet_graph.models.vgg",
    "mobilenet": "conet_graph.models.mobilenet",
    "darts": "conet_graph.models.darts",
    "dartsplus": "conet_graph.models.darts",
}


def names() -> tuple[str, ...]:
    """List the networks of the zoo; any `torchvision:NAME` can be built beside them."""
    return tuple(ZOO)


def entry(name: str) -> Entry:
    """Find the registry's entry of a network.

    Raises:
        ValueError: there is no such network.

    """
    if name not in ZOO:
        raise ValueError(
            f"no network {name!r} in the zoo: take one of {', '.join(ZOO)}, or {TORCHVISION}NAME"
        )
    return ZOO[name]


def sizes(name: str, width: int | None = None, image: int = 32) -> dict[str, int]:
    """List every free channel size of a network, by name, with its width for a base width.

    >>> sizes("resnet8", width=16)["layer2.0"]
    32
    """
    found = entry(name)
    width = found.width if width is None else width
    if width < 1:
        raise ValueError(f"the base width of {name} is {width}: give at least 1")
    if found.family == "resnet":
        return resnet_sizes(found.layout, width)
    if found.family == "vgg":
        return vgg11_sizes(width)
    if found.family == "mobilenet":
        return mobilenetv2_sizes(width)
    return cell_network_sizes(found.family, found.layout[0], width, image >= IMAGENET_FROM)


def _chosen_sizes(
    name: str, width: int | None, widths: Mapping[str, int] | None, image: int
) -> dict[str, int]:
    """Take the usual widths with the caller's own put over them."""
    chosen = sizes(name, width, image)
    for size, value in (widths or {}).items():
        if size not in chosen:
            raise ValueError(f"{name} has no channel size {size!r}: it has {', '.join(chosen)}")
        if value < 1:
            raise ValueError(f"channel size {size!r} of {name} is {value}: give at least 1")
        chosen[size] = value
    return chosen


def build(
    name: str,
    *,
    width: int | None = None,
    widths: Mapping[str, int] | None = None,
    classes: int = 10,
    image: int | None = None,
    auxiliary: bool = False,
    drop_path: float = 0.0,
    init: str = "default",
) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator.

    Args:
        name: A name of the zoo, or `torchvision:NAME`.
        width: Base width; the entry's own when left out.
        widths: Single sizes by name (see `sizes`), stronger than the base width.
        classes: Outputs of the classifier.
        image: Side of the square input; 32 for the zoo, 224 for torchvision when left out.
        auxiliary: Add the auxiliary head of DARTS: in training the network then answers
            (logits, auxiliary logits).
        drop_path: Probability with which training drops an operation of a cell.
        init: 'default' draws weights as PyTorch does (as the published CONet code), 'kaiming' the
            convolutions' as He et al. 2015: larger, so that an untrained deep network still answers
            differently to different images.

    Raises:
        ValueError: an unknown name, size or init, or an option that this network does not have.

    """
    if init not in ("default", "kaiming"):
        raise ValueError(f"there is no init {init!r}: choose default or kaiming")
    if classes < 1:
        raise ValueError(f"{classes} classes asked of {name}: give at least 1")
    if name.startswith(TORCHVISION):
        if width is not None or widths or auxiliary or drop_path or init != "default":
            raise ValueError(f"{name} has no free widths, auxiliary head, drop path or init")
        torchvision_models = import_module("conet_graph.models.torchvision_models")
        built = torchvision_models.build(name.removeprefix(TORCHVISION), classes)
        return cast("nn.Module", built)
    found = entry(name)
    image = default_image(name) if image is None else image
    cells = found.family in ("darts", "dartsplus")
    divisor = 32 if cells and image >= IMAGENET_FROM else found.divisor
    if image < 1 or image % divisor:
        raise ValueError(f"{name} takes images with sides in multiples of {divisor}, not {image}")
    if not cells and (auxiliary or drop_path):
        raise ValueError(f"{name} has no auxiliary head and no drop path: only cells have them")
    chosen = _chosen_sizes(name, width, widths, image)
    family = import_module(_MODULES[found.family])
    if cells:
        options = (classes, image, auxiliary, drop_path)
        built = family.build(found.family, found.layout[0], chosen, *options)
    else:
        built = family.build(found.layout, chosen, classes)
    if init == "kaiming":
        import_module("conet_graph.models.init").kaiming(built, after_relu=not cells)
    return cast("nn.Module", built)


def default_image(name: str) -> int:
    """Tell the usual side of a network's input in pixels."""
    if not name.startswith(TORCHVISION):
        return 32
    return 299 if name.endswith(":inception_v3") else 224
