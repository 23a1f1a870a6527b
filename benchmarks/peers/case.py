"""One network and one peer: what came of it, as a row of the table (run in a process of its own)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import masked_onnx
import masked_torch
import numpy as np
import onnx
import pruners
import torch
from exports import Case, build, export, sentence, smallest_image
from torch import nn

Row = dict[str, Any]
TOLERANCE = 1e-4
TORCH_PEERS: dict[str, tuple[Callable[..., Any], Callable[..., nn.Module]]] = {
    "Torch-Pruning": (pruners.torch_pruning_graph, pruners.torch_pruning),
    "torch-kirigami": (pruners.torch_kirigami_graph, pruners.torch_kirigami),
}
# A PyTorch module shares no vectors between layers, whatever its weights: the slow one is run once.
RANDOM_ONLY = ("torch-kirigami",)
ONNX_PEERS = ("onnxsim", "conet-graph")
BACK = ("onnx2torch", "onnx2pytorch", "conet-graph to_torch")


def randomise(module: nn.Module) -> None:
    """Weights as after training: nothing is zero, one, or equal to anything else."""
    generator = torch.Generator().manual_seed(1)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if not value.is_floating_point():
            continue
        data = value.data
        if name.endswith(("bias", "running_mean")):
            data.normal_(0, 0.1, generator=generator)
        elif data.dim() < 2:
            data.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(value, nn.Parameter):
            data.normal_(0, (1.5 / data[0].numel()) ** 0.5, generator=generator)


def make(source: str, name: str, smallest: int, weights: str) -> tuple[nn.Module, torch.Tensor]:
    """The network with fresh or random weights, and an image for it."""
    module = build(source, name)
    if hasattr(module, "aux_logits"):
        module.aux_logits, module.AuxLogits = False, None
        module.aux1 = module.aux2 = None
    if hasattr(module, "aux_classifier"):
        module.aux_classifier = None
    if weights == "random":
        randomise(module)
    image = smallest_image(module, smallest)
    return module, torch.rand(image.shape, generator=torch.Generator().manual_seed(2))


def write(source: str, name: str, smallest: int, weights: str, folder: Path) -> Row:
    """Export the network for the peers that read ONNX; ``layers`` are its convolutions."""
    module, image = make(source, name, smallest, weights)
    path = folder / f"{weights}.onnx"
    try:
        export(module, image, Case(source, name, "torchscript", False), path, dynamic=True)
    except Exception:  # any: what this exporter cannot do, the other one may
        export(module, image, Case(source, name, "dynamo", False), path, dynamic=True)
    np.save(folder / "image.npy", image.repeat(2, 1, 1, 1).numpy())
    return {"layers": len(masked_torch.conv_widths(module))}


def torch_peer(peer: str, source: str, name: str, smallest: int, weights: str) -> Row:
    """A row of a peer that takes a PyTorch module."""
    module, image = make(source, name, smallest, weights)
    before = masked_torch.conv_widths(module)
    row: Row = {"layers": len(before), "parameters": 1.0}
    count = sum(p.numel() for p in module.parameters())
    graph, prune = TORCH_PEERS[peer]
    try:
        try:
            pruned = prune(copy.deepcopy(module), image)
        except Exception:
            graph(copy.deepcopy(module), image)
            row["built"] = True
            raise
        row["built"] = True
        row["parameters"] = sum(p.numel() for p in pruned.parameters()) / count
        after = masked_torch.conv_widths(pruned)
        row["changed"] = sum(after.get(n) != width for n, width in before.items())
        two = image.repeat(2, 1, 1, 1)
        with torch.no_grad():
            pruned.eval()(two)
        row["runs"] = True
        row |= checked(lambda: compare_torch(module, pruned, two))
    except Exception as error:  # any: a peer fails in its own way, and the row says so
        row["error"] = sentence(error)
    return row


def compare_torch(
    module: nn.Module, pruned: nn.Module, image: torch.Tensor
) -> tuple[float | None, float, str]:
    """``masked_torch.difference`` with the tolerance of float64."""
    found, why = masked_torch.difference(module, pruned, image)
    return found, 0.0, why


def checked(compare: Callable[[], tuple[float | None, float, str]]) -> Row:
    """What a comparison says; that it could not be made is no fault of the peer."""
    try:
        return judged(*compare())
    except Exception as error:  # any: memory, time, an operator that the reference cannot run
        return {"equal": "unchecked", "why": sentence(error)}


def judged(difference: float | None, nudge: float, why: str) -> Row:
    """Whether a difference means equal: within the tolerance, or four times what a nudge does."""
    if difference is None:
        return {"equal": "unchecked", "why": why}
    equal = difference <= max(TOLERANCE, 4 * nudge)  # false for NaN
    return {"equal": "yes" if equal else "no", "difference": difference}


def onnx_peer(peer: str, weights: str, folder: Path) -> Row:
    """A row of a peer that takes an ONNX file."""
    path, narrowed = folder / f"{weights}.onnx", folder / f"{peer}-{weights}.onnx"
    original = onnx.load(path)
    before = masked_onnx.conv_widths(original)
    row: Row = {"parameters": 1.0}
    image = np.load(folder / "image.npy")
    try:
        if peer == "conet-graph":
            row["mixing"] = pruners.conet_graph(path, narrowed)
        else:
            onnx.save(pruners.onnxsim(path), narrowed)
        row["built"] = True
        pruned = onnx.load(narrowed)
        row["parameters"] = masked_onnx.parameters(pruned) / masked_onnx.parameters(original)
        after = masked_onnx.conv_widths(pruned)
        row["changed"] = sum(after.get(n) != width for n, width in before.items())
        row["layers"] = len(before)
        masked_onnx.run(narrowed, image)
        row["runs"] = True
        row |= checked(lambda: masked_onnx.difference(original, pruned, image, folder))
    except Exception as error:  # any, as above
        row["error"] = sentence(error)
    return row


def converted(peer: str, path: Path) -> nn.Module:
    """An ONNX file as a PyTorch module."""
    if peer == "onnx2torch":
        from onnx2torch import convert

        return convert(str(path))
    if peer == "onnx2pytorch":
        from onnx2pytorch import ConvertModel

        return ConvertModel(onnx.load(path))
    import conet_graph as cg
    from conet_graph.bridge import to_torch

    return to_torch(cg.load(path))


def back_peer(peer: str, weights: str, folder: Path) -> Row:
    """A row of a converter of the narrowed ONNX file: it converts, runs, and gives the file's outputs."""
    path = folder / f"conet-graph-{weights}.onnx"
    row: Row = {}
    image = np.load(folder / "image.npy")
    wanted = masked_onnx.run(path, image)
    try:
        module = converted(peer, path).eval()
        row["built"] = True
        got = masked_torch.first_tensor(module(torch.from_numpy(image)))
        row["runs"] = True
        nudged = masked_onnx.run(path, image * np.float32(1 + 1e-6))
        found = masked_onnx.relative(got.detach().numpy(), wanted)
        row |= judged(found, masked_onnx.relative(nudged, wanted), "")
    except Exception as error:  # any, as above
        row["error"] = sentence(error)
        return row
    try:
        got.square().mean().backward()
        row["trains"] = any(p.grad is not None for p in module.parameters())
    except Exception as error:  # any, as above
        row |= {"trains": False, "why": sentence(error)}
    return row
