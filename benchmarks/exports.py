"""Networks of torchvision and timm as ONNX files: what the coverage benchmarks share."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conet_graph import models

# One network a line: library, name, and the smallest image side where it must be said.
NETWORKS = Path(__file__).with_name("networks.txt")
BN = {False: "folded", True: "kept"}
SIZES = (64, 96, 128, 192, 224, 256, 299, 384)


class TooLarge(ValueError):
    """More parameters than --largest: left for another run."""


@dataclass(frozen=True)
class Case:
    """One export of one network."""

    source: str
    name: str
    exporter: str
    kept: bool

    @property
    def cells(self) -> dict[str, str]:
        """The first columns of a row."""
        return {
            "source": self.source,
            "network": self.name,
            "exporter": self.exporter,
            "batchnorm": BN[self.kept],
        }


def networks(
    source: str | None, only: str, limit: int = 10**6, start: str = ""
) -> list[tuple[str, str, int]]:
    """The chosen networks, as (library, name, smallest image)."""
    found: list[tuple[str, str, int]] = []
    begun = not start
    for line in NETWORKS.read_text().splitlines():
        if line.startswith("#"):
            continue
        library, name, *side = line.split()
        begun = begun or (name == start and source in (None, library))
        if begun and source in (None, library) and re.search(only, name):
            found.append((library, name, int(side[0]) if side else SIZES[0]))
    counts: Counter[str] = Counter()
    chosen = []
    for library, name, smallest in found:
        counts[library] += 1
        if counts[library] <= limit:
            chosen.append((library, name, smallest))
    return chosen


def build(source: str, name: str) -> Any:
    """The network, freshly initialised, in eval mode."""
    import torch

    torch.manual_seed(0)
    if source == "timm":
        import timm

        return timm.create_model(name, pretrained=False).eval()
    from torchvision import models

    options: dict[str, Any] = {"weights": None}
    if name in models.list_models(module=models.segmentation):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return models.get_model(name, **options).eval()


def smallest_image(model: Any, at_least: int = 0) -> Any:
    """The smallest image that the network takes."""
    import torch

    fault: Exception | None = None
    for size in (n for n in SIZES if n >= at_least):
        image = torch.zeros(1, 3, size, size)
        try:
            with torch.no_grad():
                model(image)
        except Exception as error:  # any: each network says "too small" in its own way
            fault = error
        else:
            return image
    raise ValueError(f"no square image up to {SIZES[-1]} fits it: {fault}")


def export(model: Any, image: Any, case: Case, path: Path, dynamic: bool) -> None:
    """Write the ONNX file."""
    import torch

    options: dict[str, Any] = {"input_names": ["input"]}
    if case.exporter == "dynamo":
        options |= {"dynamo": True, "optimize": not case.kept, "verbose": False}
        if dynamic:
            options["dynamic_shapes"] = [{0: torch.export.Dim("batch", min=1)}]
            image = image.expand(2, -1, -1, -1).clone()
    else:
        options["dynamo"] = False
        if case.kept:
            options |= {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
        if dynamic:
            options["dynamic_axes"] = {"input": {0: "batch"}}
    torch.onnx.export(model, (image,), str(path), **options)


def prepared(source: str, name: str, smallest: int, largest: float) -> tuple[Any, Any]:
    """A network, and the smallest image it takes.

    Raises:
        TooLarge: it has more million parameters than ``largest``.

    """
    with silence():
        model = build(source, name)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if millions > largest:
        raise TooLarge(f"{millions:.0f} million parameters (--largest {largest:g})")
    return model, smallest_image(model, smallest)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep what an exporter writes to standard output, from C++ too, out of what is printed."""
    sys.stdout.flush()
    kept = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def sentence(error: Exception) -> str:
    """An error in one short line."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:160]}"


def written(source: str, name: str, smallest: int, largest: float, path: Path) -> str:
    """Export a network as one usually does, BatchNorm folded (zoo: kept); the exporter that took it."""
    if source == "zoo":
        models.export_onnx(name, path)
        return "zoo"
    model, image = prepared(source, name, smallest, largest)
    try:
        export(model, image, Case(source, name, "torchscript", False), path, dynamic=False)
    except Exception:  # any: what this exporter cannot do, the other one may
        export(model, image, Case(source, name, "dynamo", False), path, dynamic=False)
        return "dynamo"
    return "torchscript"


def cases_of(source: str, name: str, chosen: argparse.Namespace) -> list[Case]:
    """The exports of one network that the options ask for."""
    return [
        Case(source, name, exporter, kept)
        for exporter in ("torchscript", "dynamo")
        for kept in (False, True)
        if chosen.exporter in (None, exporter) and chosen.bn in (None, BN[kept])
    ]


def choices(description: str, sources: tuple[str, ...]) -> argparse.ArgumentParser:
    """The options by which all these benchmarks choose networks, and what is measured anew."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--source", choices=sources, help="default: all")
    parser.add_argument("--only", default="", help="regular expression that the name matches")
    parser.add_argument("--largest", type=float, default=150, help="millions of parameters at most")
    parser.add_argument("--before", default="", help="measure again what was measured before this date")
    parser.add_argument("--seconds", type=float, default=1e9, help="start none after this time")
    parser.add_argument("--summary", action="store_true", help="measure nothing: bring the page up to date")
    return parser
