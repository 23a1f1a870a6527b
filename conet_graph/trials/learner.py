"""A network under training: its optimiser, its rates, one step, one epoch, and its state as a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.trials.answers import Answers
from conet_graph.trials.checkpoint_store import Checkpoint, Progress
from conet_graph.trials.distributed import Processes
from conet_graph.trials.errors import TrialFailed
from conet_graph.trials.protocol import ClassificationData
from conet_graph.trials.randomness import seed_of
from conet_graph.trials.schedules import Schedule
from conet_graph.trials.settings import TrainSettings

# Steps between two looks at the loss: on a GPU each look waits for the device.
LOOK_EVERY = 10
# A loss so many times what it was at first (or what guessing gives) has exploded.
EXPLODED = 30.0


@dataclass(slots=True)
class Sums:
    """Over batches, on the device: loss times images, right answers, images."""

    losses: Tensor
    right: Tensor
    seen: int = 0

    @classmethod
    def zero(cls, device: torch.device) -> Sums:
        """Nothing yet."""
        return cls(torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device))

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One batch more."""
        self.losses += loss.detach() * len(labels)
        self.right += (logits.detach().argmax(1) == labels).sum()
        self.seen += len(labels)

    def means(self, processes: Processes) -> tuple[float, float]:
        """Loss and accuracy over the batches of all processes."""
        mine = [self.losses.item(), self.right.item(), self.seen]
        losses, right, seen = processes.summed(mine)
        return losses / max(1, seen), right / max(1, seen)


class Learner:
    """One module, trained on some data by some settings."""

    def __init__(
        self,
        module: nn.Module,
        data: ClassificationData,
        settings: TrainSettings,
        schedule: Schedule,
        answers: Answers,
        processes: Processes,
        shrink: Callable[[float], None] | None = None,
    ) -> None:
        """Take a module that lies on the device already; ``shrink`` is called with each step's rate."""
        self.module, self.data, self.settings, self.schedule = module, data, settings, schedule
        self.answers, self.processes, self.device = answers, processes, processes.device
        self.shrink = shrink
        on_gpu = self.device.type == "cuda"
        self.autocast = on_gpu if settings.amp is None else settings.amp
        flat = all(p.dim() != 5 for p in module.parameters())
        self.channels_last = flat if settings.channels_last is None else settings.channels_last
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        self.parameters = dict(module.named_parameters())
        self.optimiser = torch.optim.SGD(
            [{"params": [self.parameters[n] for n in group]} for group in schedule.groups()],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
        wrapped = processes.wrap(module)
        self.forward = torch.compile(wrapped) if settings.compile else wrapped
        self.progress = Progress()
        self.sums = Sums.zero(self.device)
        self.looked = 0.0, 0  # losses and images at the last look at the loss
        self.steps_per_epoch = data.train_batches(settings.batch, processes.world)

    @contextmanager
    def own_layout(self) -> Iterator[None]:
        """Give the module back with its weights laid out as usual: not all that saves them takes others."""
        try:
            yield
        finally:
            if self.channels_last:
                self.module.to(memory_format=torch.contiguous_format)

    def steps(self, seed: int) -> Iterator[None]:
        """Train from where the progress is to the end of the epoch; yields after each step.

        The random numbers of a step depend on the seed, the epoch and the step only.

        Raises:
            TrialFailed: the loss is not finite, or has exploded.

        """
        epoch, first = self.progress.epoch, self.progress.batch
        begun = time.perf_counter() - self.progress.seconds
        self.module.train()
        if first == 0:
            self.sums, self.looked = Sums.zero(self.device), (0.0, 0)
        batches = self.data.train(
            self.settings.batch,
            seed=seed,
            epoch=epoch,
            device=self.device,
            first_batch=first,
            rank=self.processes.rank,
            world=self.processes.world,
        )
        for batch, (images, labels) in enumerate(batches, start=first):
            torch.manual_seed(seed_of(seed, epoch, batch, self.processes.rank))
            self._step(images, labels, epoch * self.steps_per_epoch + batch)
            self.progress.batch = batch + 1
            self.progress.seconds = time.perf_counter() - begun
            if self.progress.batch % LOOK_EVERY == 0 or self.progress.batch == self.steps_per_epoch:
                self.look()
            yield

    def _step(self, images: Tensor, labels: Tensor, step: int) -> None:
        rates = self.schedule.rates(step)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext():
            logits, *auxiliary = self.answers.scores(self.forward, images)
        smoothing = self.settings.label_smoothing
        loss = total = cross_entropy(logits, labels, label_smoothing=smoothing)
        for other in auxiliary:
            extra = cross_entropy(other, labels, label_smoothing=smoothing)
            total = total + self.settings.auxiliary * extra
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip)
        self.optimiser.step()
        if self.shrink is not None:
            self.shrink(sum(rates) / len(rates))
        self.sums.add(loss, logits, labels)

    def look(self) -> None:
        """Check the mean loss since the last look.

        Raises:
            TrialFailed: it is not finite, or has exploded.

        """
        losses, seen = self.sums.losses.item(), self.sums.seen
        recent = (losses - self.looked[0]) / max(1, seen - self.looked[1])
        self.looked = losses, seen
        if self.progress.first_loss is None:
            self.progress.first_loss = recent
        limit = EXPLODED * max(self.progress.first_loss, math.log(self.data.classes))
        if not recent <= limit:
            raise TrialFailed(
                f"The training diverged in epoch {self.progress.epoch + 1}, step {self.progress.batch}:"
                f" the loss is {recent:.3g}. Take a lower learning rate, or clip the gradient."
            )

    def end_epoch(self) -> dict[str, float]:
        """Move the rates, test, and count the epoch as complete; returns its metrics.

        Raises:
            TrialFailed: the network gives no finite answers to the test images.

        """
        begun = time.perf_counter()
        self.processes.as_first(self.module)
        epoch = self.progress.epoch + 1
        rates = self.schedule.rates(epoch * self.steps_per_epoch - 1)
        self.schedule.after_epoch(self.module)
        # Two kinds of GPU may differ in the last bit of a gain.
        self.schedule.restore(self.processes.from_first(self.schedule.state()))
        train_loss, train_accuracy = self.sums.means(self.processes)
        test_loss, test_accuracy = self.test()
        if not math.isfinite(test_loss):
            raise TrialFailed(
                f"After epoch {epoch} the loss on the test images is {test_loss}:"
                " the training diverged. Take a lower learning rate, or clip the gradient."
            )
        metrics = {
            "epoch": epoch,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "seconds": self.progress.seconds + time.perf_counter() - begun,
            "learning_rate": sum(rates) / len(rates),
        }
        self.progress = Progress(epoch=epoch, first_loss=self.progress.first_loss, metrics=metrics)
        return metrics

    def test(self) -> tuple[float, float]:
        """Loss and accuracy on the test images, in float32."""
        self.module.eval()
        sums = Sums.zero(self.device)
        rank, world = self.processes.rank, self.processes.world
        batches = self.data.test(self.settings.batch, device=self.device, rank=rank, world=world)
        with torch.no_grad():
            for images, labels in batches:
                logits = self.answers.scores(self.module, images)[0]
                sums.add(cross_entropy(logits, labels), logits, labels)
        return sums.means(self.processes)

    def checkpoint(self) -> Checkpoint:
        """The state of everything that the next step depends on.

        Raises:
            TrialFailed: there is nothing worth keeping: the training diverged.

        """
        if self.progress.batch:
            self.look()
        self.progress.losses, self.progress.right = self.sums.losses.item(), int(self.sums.right.item())
        self.progress.seen = self.sums.seen
        self.progress.schedule = self.schedule.state()
        state = self.module.state_dict()
        momentum = {
            name: self.optimiser.state[parameter]["momentum_buffer"]
            for name, parameter in self.parameters.items()
            if self.optimiser.state.get(parameter, {}).get("momentum_buffer") is not None
        }
        return Checkpoint(self.progress, {k: v for k, v in state.items() if isinstance(v, Tensor)}, momentum)

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Take up the state of a checkpoint, which was read from a path, in place.

        Raises:
            BadUsage: the checkpoint belongs to another network.

        """
        try:
            self.module.load_state_dict(dict(checkpoint.module))
            for key, value in checkpoint.momentum.items():
                parameter = self.parameters[key]
                held = torch.empty_like(parameter).copy_(value)
                self.optimiser.state[parameter]["momentum_buffer"] = held
        except (RuntimeError, KeyError):
            raise BadUsage(
                f"The checkpoint {shown(str(path))} belongs to another network: remove it, or name another."
            ) from None
        self.progress = checkpoint.progress
        if self.progress.schedule:
            self.schedule.restore(self.progress.schedule)
        self.sums = Sums.zero(self.device)
        if self.processes.first:
            self.sums.losses += self.progress.losses
            self.sums.right += self.progress.right
            self.sums.seen = self.progress.seen
        self.looked = self.sums.losses.item(), self.sums.seen


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Leave torch's global generators as they were."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        yield
