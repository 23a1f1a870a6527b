"""Train resnet20 from an ONNX file by `conet-graph train`, and test the result in ONNX Runtime.

    python benchmarks/experiment_train.py --npz cifar10.npz --out build/resnet20

The network is exported with fresh weights and BatchNorm folded away, as deployed files are. Interrupted,
the same command goes on. OUT/trained.onnx is the trained network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from conet_graph.models import export_onnx
from conet_graph.trials.data import open_data
from conet_graph.verification.runtime import open_session

TRAINING = ("--batch", "64", "--lr", "0.1", "--schedule", "one-cycle", "--nesterov", "--augment")


def trained(npz: Path, folder: Path, epochs: int, threads: int) -> dict[str, float]:
    """Metrics of the last epoch, as the command gives them."""
    original, output = folder / "original.onnx", folder / "trained.onnx"
    if not original.exists():
        export_onnx("resnet20", original, width=16, keep_batchnorm=False)
    command = [sys.executable, "-m", "conet_graph", "train", str(original), "--data", f"npz:{npz}"]
    command += ["-o", str(output), "--epochs", str(epochs), *TRAINING, "--device", "cpu", "--channels-last"]
    command += ["--checkpoint", str(folder / "checkpoint"), "--resume", "--json"]
    print("$", " ".join(command[1:]), file=sys.stderr)
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    last: dict[str, float] = json.loads(done.stdout)["epochs"][-1]
    return last


def accuracy_in_runtime(npz: Path, path: Path) -> float:
    """Share of the test images that ONNX Runtime classifies rightly."""
    session = open_session(path, fused=True)
    (asked,) = session.get_inputs()
    right = seen = 0
    for images, labels in open_data(f"npz:{npz}").test(100, device="cpu"):
        scores = session.run(None, {asked.name: images.numpy()})[0]
        right += int((torch.from_numpy(scores).argmax(1) == labels).sum())
        seen += len(labels)
    return right / seen


def main() -> None:
    """Train, test in both, print a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--npz", type=Path, required=True, help="CIFAR-10 images: x_train, y_train, x_test, y_test"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the networks and the checkpoint")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    last = trained(options.npz, options.out, options.epochs, options.threads)
    runtime = accuracy_in_runtime(options.npz, options.out / "trained.onnx")
    print(f"| epochs | train | test, PyTorch | test, ONNX Runtime |\n{'|---' * 4}|")
    print(
        f"| {options.epochs} | {last['train_accuracy']:.2%} | {last['test_accuracy']:.2%} | {runtime:.2%} |"
    )


if __name__ == "__main__":
    main()
