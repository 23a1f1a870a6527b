"""Steps of a training: one after the other on a processor, recorded once and replayed on a GPU.

Small networks leave a GPU idle: starting their hundreds of kernels takes longer than the kernels. So each
network's step is recorded as a CUDA graph, and the steps of several networks run side by side, a stream each.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

PEAK, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
# Steps before one is recorded: libraries choose their kernels, and the optimiser makes its momentum.
WARM = 3


def rate_at(progress: float) -> float:
    """The learning rate at a share of all steps: one cosine from its peak to 0.

    >>> [round(rate_at(x), 3) for x in (0.0, 0.5, 1.0)]
    [0.1, 0.05, 0.0]
    """
    return PEAK * (1 + math.cos(math.pi * progress)) / 2


class Step:
    """Steps of SGD with Nesterov momentum for one network, its forward pass in bfloat16 on a GPU."""

    def __init__(self, module: nn.Module, device: torch.device, rate: float | Tensor) -> None:
        """Move the module there and ready it for training."""
        self.device = device
        self.module = module.to(device, memory_format=torch.channels_last).train()
        self.optimiser = torch.optim.SGD(
            self.module.parameters(), rate, MOMENTUM, weight_decay=DECAY, nesterov=True,
            fused=device.type == "cuda",
        )  # fmt: skip

    def run(self, shown: Tensor, labels: Tensor) -> None:
        """One step on images [B, C, H, W] and their labels [B]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = cross_entropy(self.module(shown), labels)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimiser.step()


class RecordedStep(Step):
    """The same on a GPU, always on the same memory: images, labels and learning rate are written there."""

    def __init__(self, module: nn.Module, shown: Tensor, labels: Tensor, rate: Tensor) -> None:
        """Record; the module's weights are as they were."""
        super().__init__(module, shown.device, rate)
        self.stream, self.graph = torch.cuda.Stream(shown.device), torch.cuda.CUDAGraph()
        before = copy.deepcopy(module.state_dict())
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM):
                self.run(shown, labels)
            module.load_state_dict(before)
            for state in self.optimiser.state.values():
                state["momentum_buffer"].zero_()
            self.optimiser.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.run(shown, labels)

    def replay(self) -> None:
        """One step on what the memory holds, beside those of other networks; `wait` before it is used."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.graph.replay()

    def wait(self) -> None:
        """Let what is started after this wait for the step."""
        torch.cuda.current_stream().wait_stream(self.stream)
