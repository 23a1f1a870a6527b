"""Train the sample network and export it: `python -m conet_graph.models.train_sample`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from conet_graph.models import digits
from conet_graph.models.export import export_module
from conet_graph.models.init import kaiming
from conet_graph.models.sample_net import SampleNet

SAMPLE = Path(__file__).parent / "samples" / "digits.onnx"
BATCH = 64
EPOCHS = 40
PEAK_LEARNING_RATE = 0.1


def shifted(images: Tensor) -> Tensor:
    """Move each image by up to one pixel in both directions: [N, 1, 8, 8] to the same."""
    padded = pad(images, (1, 1, 1, 1))
    top = torch.randint(0, 3, (len(images), 1))
    left = torch.randint(0, 3, (len(images), 1))
    rows = (top + torch.arange(8))[:, :, None]
    columns = (left + torch.arange(8))[:, None, :]
    which = torch.arange(len(images))[:, None, None]
    return padded[which, 0, rows, columns][:, None]


def train(epochs: int = EPOCHS, seed: int = 0) -> nn.Module:
    """Train a network; the same seed gives the same one on the same kind of processor."""
    torch.manual_seed(seed)
    data = digits.load()
    images, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    net = SampleNet()
    kaiming(net)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=PEAK_LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    # One batch short: a last batch of a few images would spoil BatchNorm's statistics.
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=epochs * steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images))[: steps * BATCH].view(steps, BATCH):
            optimizer.zero_grad()
            loss = cross_entropy(net(shifted(images[chosen])), labels[chosen])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return net.eval()


def accuracy(net: nn.Module) -> float:
    """Measure the share of the test images that the network names rightly."""
    data = digits.load()
    with torch.no_grad():
        answers = net(torch.from_numpy(data.test_images)).argmax(1).numpy()
    return float((answers == data.test_labels).mean())


def main() -> None:
    """Train, print the accuracy, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SAMPLE)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    net = train(options.epochs, options.seed)
    export_module(net, options.out, (1, 8, 8))
    print(f"{options.out}: {accuracy(net):.2%} of {digits.TEST_IMAGES} test images")


if __name__ == "__main__":
    main()
