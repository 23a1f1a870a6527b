"""Half of every width by each pruner, with its documented call and default options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn


def classifiers(module: nn.Module, output: Any) -> list[nn.Module]:
    """The layers that make the classes, which must stay: as Torch-Pruning's examples find them."""
    classes = output.shape[1]
    layers = (nn.Linear, nn.Conv2d)
    found = [m for m in module.modules() if isinstance(m, layers)]
    return [m for m in found if getattr(m, "out_features", getattr(m, "out_channels", 0)) == classes]


def torch_pruning_graph(module: nn.Module, image: torch.Tensor) -> Any:
    """Torch-Pruning's dependency graph."""
    import torch_pruning as tp

    return tp.DependencyGraph().build_dependency(module, example_inputs=image)


def torch_pruning(module: nn.Module, image: torch.Tensor) -> nn.Module:
    """Torch-Pruning's group pruner with magnitudes of groups; the module is changed in place."""
    import torch_pruning as tp
    from masked_torch import first_tensor

    with torch.no_grad():
        keep = classifiers(module, first_tensor(module(image)))
    pruner = tp.pruner.BasePruner(
        module,
        image,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=keep,
        output_transform=first_tensor,
    )
    pruner.step()
    return module


def torch_kirigami(module: nn.Module, image: torch.Tensor) -> nn.Module:
    """torch-kirigami's explicit removal; the module is changed in place.

    Its automatic selection takes over three minutes for a ResNet-18. So the first half of the channels is
    asked for on each of its axes on which it finds that possible, in one plan. In-place activations are made
    plain ones, as its messages advise.
    """
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import Pruner
    from torch_kirigami.pruning.candidates import discover

    for layer in module.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = False
    graph = DependencyGraph.build(module, args=(image,))
    pruner = Pruner(module, graph=graph)
    possible = []
    for domain in discover(graph, graph.operations()):
        blocks = domain.axis.tensor.shape[domain.axis.dim] // domain.block_size
        if blocks < 2:
            continue
        half = domain.axis.select(range(blocks // 2 * domain.block_size))
        if graph.propagate(remove=(half,), constraints=pruner.constraints).status == "resolved":
            possible.append(half)
    return pruner.apply(pruner.plan_remove(possible))[0]


def torch_kirigami_graph(module: nn.Module, image: torch.Tensor) -> Any:
    """torch-kirigami's dependency graph."""
    from torch_kirigami import DependencyGraph

    return DependencyGraph.build(module, args=(image,))


def onnxsim(path: Path) -> onnx.ModelProto:
    """Onnxsim's structured pruning of an ONNX file."""
    from onnxsim import apply_structured_pruning

    return apply_structured_pruning(onnx.load(path), 0.5)


def conet_graph(path: Path, output: Path) -> list[str]:
    """conet-graph's rewrite of an ONNX file; returns the operators that mix channels without weights."""
    import conet_graph as cg

    model = cg.load(path)
    plan = cg.plan(model, scale=0.5)
    cg.save(cg.rewrite(model, plan), output)
    return list(plan.inexact_because)
