"""From a PyTorch module to an ONNX file whose initializers bear the parameters' names."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

from conet_graph.models.zoo import build, default_image

if TYPE_CHECKING:
    import torch
    from torch import nn

Exporter = Literal["torchscript", "dynamo"]
Batch = int | Literal["dynamic"]

TORCHSCRIPT_OPSET = 17
DYNAMO_OPSET = 18


def export_onnx(
    name: str,
    path: str | os.PathLike[str],
    *,
    width: int | None = None,
    widths: Mapping[str, int] | None = None,
    classes: int = 10,
    image: int | None = None,
    seed: int = 0,
    init: str = "default",
    keep_batchnorm: bool = True,
    exporter: Exporter = "torchscript",
    batch: Batch = "dynamic",
) -> nn.Module:
    """Build a network with fresh weights and write it as ONNX; the same seed gives the same bytes.

    Torch's TorchScript-based exporter is the default: with its shared vectors told apart again its
    files hold nothing but the network, where the newer one leaves shape arithmetic around the
    classifier.

    Args:
        name: A name of the zoo, or `torchvision:NAME`.
        path: The file to write; it appears whole or not at all.
        width: Base width (see `build`).
        widths: Single sizes by name (see `build`).
        classes: Outputs of the classifier.
        image: Side of the square input (see `build`).
        seed: Seed of the weights. Torch's global generator is left as it was.
        init: How the weights are drawn (see `build`).
        keep_batchnorm: Keep BatchNorm as nodes of their own instead of folding it into weights.
        exporter: "torchscript" (opset 17) or "dynamo" (opset 18).
        batch: A fixed batch, or "dynamic" for a symbolic one named N.

    Returns:
        The module that was exported, in evaluation mode.

    Raises:
        ValueError: an unknown name, size, init or exporter, or a batch below 1.

    """
    import torch

    side = default_image(name) if image is None else image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(name, width=width, widths=widths, classes=classes, image=side, init=init).eval()
    export_module(
        module,
        path,
        (3, side, side),
        keep_batchnorm=keep_batchnorm,
        exporter=exporter,
        batch=batch,
    )
    return module


def export_module(
    module: nn.Module,
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    *,
    keep_batchnorm: bool = True,
    exporter: Exporter = "torchscript",
    batch: Batch = "dynamic",
) -> None:
    """Write a module, in evaluation mode, as ONNX; the module itself is left as it was.

    ``shape`` is that of one input, without the batch; the other options as in `export_onnx`. The
    graph's input is called "input" and its output "logits".
    """
    import torch

    if exporter not in ("torchscript", "dynamo"):
        raise ValueError(f"no exporter {exporter!r}: take torchscript or dynamo")
    if batch != "dynamic" and batch < 1:
        raise ValueError(f"a batch of {batch} cannot be exported: give at least 1")
    # Two samples: torch.export would take a batch of one for a constant.
    count = 2 if batch == "dynamic" else batch
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    example = torch.zeros(count, *shape, device=device)
    # Exporting between two epochs must not move the training's random numbers either.
    with _evaluating(module), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = _torchscript if exporter == "torchscript" else _dynamo
        model = run(module, example, batch == "dynamic", keep_batchnorm)
    _own_initializers(model.graph)
    _strip_metadata(model)
    _write(model, Path(path))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode within; afterwards each submodule is back in its own mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _torchscript(
    module: nn.Module, example: torch.Tensor, dynamic: bool, keep_batchnorm: bool
) -> onnx.ModelProto:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "exported.onnx"
        torch.onnx.export(
            module,
            (example,),
            file,
            dynamo=False,
            opset_version=TORCHSCRIPT_OPSET,
            training=(torch.onnx.TrainingMode.PRESERVE if keep_batchnorm else torch.onnx.TrainingMode.EVAL),
            # Folding merges BatchNorm into the weights and renames them.
            do_constant_folding=not keep_batchnorm,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}} if dynamic else None,
        )
        return onnx.load(file)


def _dynamo(module: nn.Module, example: torch.Tensor, dynamic: bool, keep_batchnorm: bool) -> onnx.ModelProto:
    import torch
    from onnxscript.optimizer import fold_constants, remove_unused_nodes

    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        opset_version=DYNAMO_OPSET,
        # The optimizer folds BatchNorm.
        optimize=not keep_batchnorm,
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},) if dynamic else None,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    if keep_batchnorm:
        # Otherwise every convolution carries a bias of zeros, computed from its weight's shape.
        fold_constants(program.model)
        remove_unused_nodes(program.model)
    proto = program.model_proto
    # Of the class of the onnx package, whatever torch's own annotation says.
    return onnx.load_from_string(proto.SerializeToString())


def _own_initializers(graph: onnx.GraphProto) -> None:
    """Give every use of a shared vector its own initializer, under the parameter's name.

    The TorchScript-based exporter stores equal vectors once, and puts an Identity node in the
    place of each of the others.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in stored:
            copy = onnx.TensorProto()
            copy.CopyFrom(stored[node.input[0]])
            copy.name = node.output[0]
            graph.initializer.append(copy)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Drop what describes the exporting machine: stack traces, file paths, module classes."""
    model.ClearField("metadata_props")
    graph = model.graph
    graph.ClearField("metadata_props")
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _write(model: onnx.ModelProto, path: Path) -> None:
    """Write beside the target, then rename."""
    data = model.SerializeToString(deterministic=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes private files; a result has the rights of any new file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
