"""Ten small networks of different kinds, as files for one image."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

SAMPLES = Path(__file__).parents[2] / "models" / "samples"
SIDE = 64  # of torchvision's networks
NETWORKS = (
    "digits",
    "resnet20",
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "efficientnet_b0",
    "regnet_y_400mf",
    "lraspp_mobilenet_v3_large",
)


def network(name: str) -> onnx.ModelProto:
    """A network: a trained sample, or torchvision's with fresh weights and settled BatchNorms."""
    sample = SAMPLES / f"{name}.onnx"
    return for_one_image(onnx.load(sample) if sample.exists() else _torchvision(name))


def for_one_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose one input is a single image: free sizes become 1 (the batch) and `SIDE`."""
    for axis, size in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        if not size.dim_value:
            size.dim_value = SIDE if axis > 1 else 1
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


def _torchvision(name: str) -> onnx.ModelProto:
    """Fresh weights and a BatchNorm's first averages let deep networks' outputs vanish: so new ones."""
    import torch
    from torch import nn

    from conet_graph.models.export import export_module
    from conet_graph.models.torchvision_models import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build(name, 10)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        with torch.no_grad():
            module.train()(torch.randn(16, 3, SIDE, SIDE))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_module(module.eval(), path, (3, SIDE, SIDE), keep_batchnorm=False, batch=1)
        return onnx.load(path)
