"""What two epochs of distillation make of a network that each method narrowed: accuracy before and after.

MODEL, CALIBRATION and TEST are those of ``peer_calibrated.py``; IMAGES is an npz with ``images``, float32 as
the network takes them, without labels. Everybody's network is written as an ONNX file and learns from the
original by the same settings. Rows are kept as CSV; a run that was cut goes on.

    python benchmarks/peers/peer_distilled.py resnet.onnx --name resnet --rows docs/data/distilled.csv
        --calibration c.npz --test t.npz --images images.npz
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peer_calibrated import (
    KEYS,
    Floats,
    Methods,
    Network,
    arrays,
    asked,
    drawn,
    keys_in,
    macs,
    runner,
    sized,
    threads,
)
from torch import nn

from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.models.export import export_module
from conet_graph.trials.distill import DistillSettings
from conet_graph.trials.recover import Recovery, corresponding
from conet_graph.trials.unlabelled import Images, open_images

COLUMNS = (*KEYS, "macs", "before", "after", "epochs", "seconds")
METHODS = (
    "conet-graph l2",
    "conet-graph --calibrate best",
    "l2 + BatchNorm re-estimated",
    "l2 + channel-Gram ridge",
    "Torch-Pruning taylor",
    "onnxsim structured calibrated",
)


def as_file(network: Network, shape: tuple[int, ...], folder: Path) -> LoadedModel:
    """What a method gave as an ONNX file, BatchNorm folded: distillation puts it back for everybody."""
    path = folder / "student.onnx"
    if isinstance(network, nn.Module):
        export_module(network.eval(), path, shape, keep_batchnorm=False)
    else:
        path.write_bytes(network.SerializeToString())
    return load_model(path)


def accuracy(model: LoadedModel, images: Floats, right: NDArray[np.int64]) -> float:
    """Share of the images that a network classifies rightly."""
    return float((runner(model.proto)(images).argmax(1) == right).mean())


def distilled(student: LoadedModel, teacher: Path, images: Images, epochs: int) -> LoadedModel:
    """The student after so many epochs."""
    names = corresponding(student, load_model(teacher))
    recovery = Recovery(
        student, teacher, names, images, DistillSettings(epochs=epochs), torch.device("cpu"), seed=0
    )
    for row in recovery.run():
        print(*(f"{key} {value:.4g}" for key, value in row.items()), file=sys.stderr)
    return recovery.student


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = asked("Distillation from what peers narrowed.")
    parser.add_argument("--images", type=Path, required=True, help="npz with images to distil on")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5], help="of the MACs")
    parser.add_argument("--samples", type=int, default=512, help="calibration inputs")
    parser.add_argument("--epochs", type=int, default=2)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure what is missing."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads())
    chosen = options(arguments)
    inputs, tested, right = arrays(chosen)
    known = keys_in(chosen.rows, COLUMNS)
    model = sized(load_model(chosen.model), inputs.shape)
    images = open_images(f"npz:{chosen.images}", inputs.shape[1:])
    methods = Methods(model, macs(model))
    x = drawn(inputs, chosen.samples, 0)
    for share, (name, narrow) in ((s, m) for s in chosen.shares for m in methods.all()):
        key = (chosen.name, name, str(share), str(chosen.samples), "0")
        if name not in METHODS or chosen.only not in name or key in known:
            continue
        with tempfile.TemporaryDirectory() as folder:
            network, reached = narrow(share, x, 0)
            student = as_file(network, inputs.shape[1:], Path(folder))
            begin, before = time.process_time(), accuracy(student, tested, right)
            made = distilled(student, chosen.model, images, chosen.epochs)
            seconds = time.process_time() - begin
        found = (f"{reached:.4f}", f"{before:.4f}", f"{accuracy(made, tested, right):.4f}")
        row = (*key, *found, str(chosen.epochs), f"{seconds:.0f}")
        with chosen.rows.open("a") as file:
            file.write(",".join(row) + "\n")
        print(*row, file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
