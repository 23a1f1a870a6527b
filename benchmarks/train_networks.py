"""Train a network of the zoo on CIFAR-10 for the benchmarks of narrowing, and write it as ONNX.

    python benchmarks/train_networks.py resnet20 --npz cifar10.npz --out build/trained/resnet20.onnx
    python benchmarks/train_networks.py vgg11 --width 20 --device cuda --batch 256 --lr 0.3 --npz cifar10.npz
        --out build/trained/vgg11.onnx

Progressive: most epochs see images scaled to 24 pixels, where the network can take them, the last ones all
32, which saves a third of the time; a second, lower cycle (--refine) sees all 32. Steps are computed in
bfloat16, weights stay float32.
Images lie on the device whole, as bytes, and are augmented there; nothing waits for the device but epochs.
Interrupted, the same command goes on at the last whole epoch. The file has its BatchNorm folded away, as
deployed files have; beside it lies OUT.json with the accuracy on the test images.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from conet_graph.models import build
from conet_graph.models.export import export_module
from conet_graph.models.zoo import entry
from conet_graph.trials.data import Data, open_data

SMALL_SIDE = 24
# Share of the epochs that see small images.
SMALL_SHARE = 0.6


def rate(progress: float, highest: float) -> float:
    """One cycle: a quarter of the way up in a straight line, then a cosine down to nothing."""
    if progress < 0.25:
        return highest * (0.04 + 0.96 * progress / 0.25)
    return highest * 0.5 * (1 + math.cos(math.pi * (progress - 0.25) / 0.75))


def scaled(images: Tensor, small: bool) -> Tensor:
    """Images of the side that an epoch sees, channels last."""
    if small:
        images = interpolate(images, size=(SMALL_SIDE, SMALL_SIDE), mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last)


def accuracy(module: nn.Module, data: Data, device: torch.device) -> float:
    """Share of the test images that the module classifies rightly."""
    module.eval()
    right, seen = torch.zeros((), dtype=torch.int64, device=device), 0
    with torch.no_grad():
        for images, labels in data.test(500, device=device):
            right += (module(images).argmax(1) == labels).sum()
            seen += len(labels)
    return int(right) / seen


def train(
    module: nn.Module, data: Data, asked: argparse.Namespace, checkpoint: Path
) -> list[dict[str, float]]:
    """Train to the last epoch, from the checkpoint where there is one; a row an epoch."""
    device, epochs, refine = torch.device(asked.device), asked.epochs, asked.refine
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    rows: list[dict[str, float]] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        rows = state["rows"]
    steps = data.train_batches(asked.batch)
    for epoch in range(len(rows), epochs + refine):
        first, length, top = (0, epochs, asked.lr) if epoch < epochs else (epochs, refine, asked.lr / 2)
        small = epoch < SMALL_SHARE * epochs and SMALL_SIDE % entry(asked.network).divisor == 0
        begin, losses = time.perf_counter(), torch.zeros((), device=device)
        module.train()
        for step, (images, labels) in enumerate(data.train(asked.batch, seed=0, epoch=epoch, device=device)):
            for group in optimiser.param_groups:
                group["lr"] = rate((epoch - first + step / steps) / length, top)
            with torch.autocast(device.type, torch.bfloat16):
                logits = module(scaled(images, small))
            loss = cross_entropy(logits.float(), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses += loss.detach()
        loss_of_all = float(losses) / steps  # waits for the device, so before the clock is read
        rows.append({"epoch": epoch, "loss": loss_of_all, "seconds": time.perf_counter() - begin})
        if epoch + 1 in (epochs, epochs + refine) or epoch % 4 == 3:
            rows[-1]["accuracy"] = accuracy(module, data, device)
        print(json.dumps(rows[-1]), flush=True)
        new = checkpoint.with_suffix(".new")
        torch.save({"module": module.state_dict(), "optimiser": optimiser.state_dict(), "rows": rows}, new)
        os.replace(new, checkpoint)
    return rows


def main() -> None:
    """Train, write the network and its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("network", help="a name of the zoo: resnet20, vgg11, mobilenetv2, ...")
    parser.add_argument("--npz", type=Path, required=True, help="CIFAR-10: x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--refine", type=int, default=0, help="epochs of a second cycle, at half the rate")
    parser.add_argument("--lr", type=float, default=0.2, help="the highest rate of the cycle")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.backends.cudnn.benchmark = True
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    data = open_data(f"npz:{asked.npz}", augment=True)
    assert data.augmentation is not None
    data = replace(data, augmentation=replace(data.augmentation, cutout=0))
    torch.manual_seed(0)
    module = build(asked.network, width=asked.width)
    module.to(device=asked.device, memory_format=torch.channels_last)
    rows = train(module, data, asked, asked.out.with_suffix(".checkpoint"))
    module.to(device="cpu", memory_format=torch.contiguous_format).eval()
    export_module(module, asked.out, data.shape, keep_batchnorm=False)
    asked.out.with_suffix(".json").write_text(json.dumps(rows[-1] | {"network": asked.network}) + "\n")


if __name__ == "__main__":
    main()
