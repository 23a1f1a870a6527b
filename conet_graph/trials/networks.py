"""Networks to train, from an ONNX file or from the zoo, and the ONNX model they become."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import log
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from conet_graph.bridge import from_torch, trainable
from conet_graph.ir.errors import BadUsage, VerificationFailed, shown
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.models import ZOO, build, export_module
from conet_graph.models.zoo import TORCHVISION
from conet_graph.passes import analysed
from conet_graph.passes.fold_batchnorm import fold_batchnorm
from conet_graph.passes.insert_batchnorm import insert_batchnorm, was_inserted
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.rewriting.rewriting import in_place_of, planned, rewritten, save
from conet_graph.trials.answers import find_answers
from conet_graph.trials.protocol import ClassificationData
from conet_graph.trials.settle_batchnorm import begin_nearest
from conet_graph.verification.runtime import first_line, open_session

# The file's answers may differ from the module's by this share of the largest one.
TOLERANCE = 1e-3
# Images on which the two are compared.
COMPARED = 32
# Training batches by which it is decided what inserted BatchNorms begin with.
FIRST_BATCHES = 10


class TrainedNetwork(Protocol):
    """A module to train in place, and the model that its weights make."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        ...

    def model(self) -> LoadedModel:
        """The network as it is now, BatchNorm kept."""
        ...


@dataclass(frozen=True, slots=True)
class FileNetwork:
    """A network from an ONNX file: its weights go back into the file's own graph."""

    source: LoadedModel
    module: nn.Module
    inserted: bool = False

    @classmethod
    def of(cls, model: LoadedModel, *, fresh: bool = False, seed: int = 0) -> FileNetwork:
        """Convert a model, with BatchNorm put back where it was folded away.

        Args:
            model: the model; left as it is.
            fresh: begin with new weights.
            seed: of new weights.

        Raises:
            InvalidModel, Refused: it is no valid network, has no form in PyTorch, or takes no batch.

        """
        source = insert_batchnorm(with_fresh_weights(model, seed) if fresh else model)
        return cls(source, trainable(source), not fresh and was_inserted(model, source))

    def begin_nearest(self, data: ClassificationData, batch: int, device: torch.device) -> None:
        """Give BatchNorms that were inserted among trained weights statistics of the data.

        Args:
            data: what it will be trained on.
            batch: images in a batch.
            device: where to compute; the module stays there.

        """
        if not self.inserted or data.train_batches(batch) < 1:
            return
        self.module.to(device)
        answers = find_answers(self.module, data, device)

        def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            return islice(data.train(batch, seed=0, epoch=0, device=device), FIRST_BATCHES)

        def loss() -> float:
            losses = [cross_entropy(answers.scores(self.module, x)[0], y) for x, y in batches()]
            # What is no better than guessing is no function to keep.
            return min(float(torch.stack(losses).mean()), log(data.classes))

        images = (answers.arranged(x) for x, _ in batches())
        begin_nearest(self.module, images, loss)

    def model(self) -> LoadedModel:
        """The file's graph with the module's weights."""
        return from_torch(self.module, self.source)


@dataclass(frozen=True, slots=True)
class ZooNetwork:
    """A network of the zoo, exported when it is trained."""

    module: nn.Module
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, name: str, data: ClassificationData, *, seed: int = 0, **options: Any) -> ZooNetwork:
        """Build a network for some data, with fresh weights.

        Args:
            name: a name of the zoo, or torchvision:NAME.
            data: what it will be trained on.
            seed: of its weights; torch's global generator is left as it was.
            options: of `conet_graph.models.build`: width, widths, auxiliary, drop_path.

        Raises:
            BadUsage: there is no such network, or not for such images.

        """
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module = build(name, classes=data.classes, image=data.shape[1], **options)
        except ValueError as error:
            raise BadUsage(f"{shown(name)} cannot be built: {error}.") from None
        return cls(module, data.shape)

    def model(self) -> LoadedModel:
        """The module exported."""
        with tempfile.TemporaryDirectory(prefix="conet-graph-") as folder:
            path = Path(folder) / "exported.onnx"
            export_module(self.module, path, self.shape)
            return load_model(path)


def is_zoo_name(name: str) -> bool:
    """Whether a network is asked of the zoo; a file of that name comes first."""
    return (name in ZOO or name.startswith(TORCHVISION)) and not Path(name).exists()


def with_fresh_weights(model: LoadedModel, seed: int) -> LoadedModel:
    """The same network with new weights, which depend on the seed and their names."""
    graph = analysed(model)
    channels = graph.result(CHANNELS)
    one_each = np.ones(len(channels.units.frozen_class), np.int64)
    made, layout = planned(graph, one_each, "fresh", False, seed)
    return in_place_of(model, rewritten(graph, made, layout))


def write_trained(
    network: TrainedNetwork, data: ClassificationData, output: Path, *, keep_batchnorm: bool
) -> None:
    """Write a trained network as ONNX, once ONNX Runtime gives the module's answers from it.

    Args:
        network: trained; its module is moved to the CPU, into evaluation mode.
        data: what it was trained on.
        output: the file.
        keep_batchnorm: leave BatchNorm as nodes of their own instead of folding it into the weights.

    Raises:
        BadUsage: the file cannot be written.
        VerificationFailed: the answers differ; no file is written.

    """
    network.module.to("cpu").to(memory_format=torch.contiguous_format).eval()
    model = network.model() if keep_batchnorm else fold_batchnorm(network.model())
    _require_equal(model, network.module, data)
    save(model, output)


def _require_equal(model: LoadedModel, module: nn.Module, data: ClassificationData) -> None:
    device = torch.device("cpu")
    images, _ = next(data.test(COMPARED, device=device))
    images = find_answers(module, data, device).arranged(images)
    with torch.no_grad():
        wanted = module(images).numpy()
    with tempfile.TemporaryDirectory(prefix="conet-graph-") as folder:
        path = Path(folder) / "trained.onnx"
        save(model, path)
        try:
            session = open_session(path, fused=True)
            found = _answers(session, images.contiguous().numpy())
        except Exception as error:
            text = first_line(error)
            raise VerificationFailed(f"ONNX Runtime does not run the trained network: {text}") from None
    difference = float(np.abs(found - wanted).max() / max(1e-12, np.abs(wanted).max()))
    if not difference <= TOLERANCE:
        raise VerificationFailed(
            f"The trained network answers otherwise in ONNX Runtime than in PyTorch (by {difference:.2g} of"
            " the largest score): nothing was written."
        )


def _answers(session: Any, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The only output, in batches of the size that the file asks for."""
    asked = session.get_inputs()[0]
    kinds: Mapping[str, Any] = {"tensor(float16)": np.float16, "tensor(double)": np.float64}
    images = images.astype(kinds.get(asked.type, np.float32))
    batch = asked.shape[0] if isinstance(asked.shape[0], int) else len(images)
    whole = len(images) // batch * batch
    parts = [session.run(None, {asked.name: images[i : i + batch]})[0] for i in range(0, whole, batch)]
    return np.concatenate(parts).astype(np.float64)
