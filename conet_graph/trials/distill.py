"""Distillation: a student learns to give a teacher's outputs, from images alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.trials.errors import TrialFailed
from conet_graph.trials.heads import Head, Teacher, find_heads
from conet_graph.trials.learner import LOOK_EVERY, own_random_numbers
from conet_graph.trials.randomness import seed_of
from conet_graph.trials.schedules import half_wave
from conet_graph.trials.settle_batchnorm import begin_nearest
from conet_graph.trials.unlabelled import Images

# Training batches from which a BatchNorm without statistics gets its own, and the heads get theirs.
FIRST_BATCHES = 20
# No setting makes sense above this; far above, it is no float32 any more.
LARGEST = 1e6
# Compares a head of the student with the teacher's.
Measure = Callable[[Head, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class DistillSettings:
    """How a student is trained: Adam, its rate on half a cosine wave from ``learning_rate`` to 0.

    Raises:
        BadUsage: a number is out of its range.

    """

    epochs: int = 10
    batch: int = 64
    learning_rate: float = 1e-3
    temperature: float = 4.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        if self.epochs < 1 or self.batch < 2:
            raise BadUsage("Distillation takes at least 1 epoch, and at least 2 images a batch.")
        if not all(0 < x <= LARGEST for x in (self.learning_rate, self.temperature, self.clip)):
            raise BadUsage(f"Learning rate, temperature and clip must be above 0 and at most {LARGEST:g}.")


def distill(
    student: nn.Module,
    teacher: Teacher,
    images: Images,
    settings: DistillSettings,
    *,
    names: Sequence[str],
    seed: int = 0,
    device: torch.device,
    after_step: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, float]]:
    """Train a student in place to give a teacher's outputs.

    After the last epoch (or when the caller stops) the student has the weights of the epoch, the start
    included, in which it was nearest to the teacher on the images kept aside.

    Args:
        student: gives a tensor or a tuple of them; moved to the device.
        teacher: gives tensors in the same order.
        images: to learn from.
        settings: how to train.
        names: of the outputs, for messages.
        seed: decides the order of the images and their variation.
        device: where to train.
        after_step: called after every step.

    Yields:
        epoch (0 is the start), error (on the images aside: squared error in units of the teacher's
        variance, mean over outputs), agreement (share of images given the same class; classifiers only),
        loss (in training), seconds.

    Raises:
        BadUsage: the outputs do not correspond, or none can be imitated.
        TrialFailed: the loss is not finite, or the outputs are not from the start.

    """
    student.to(device)
    if all(p.dim() != 5 for p in student.parameters()):
        student.to(memory_format=torch.channels_last)  # 1.4 times as fast, on CPUs too
    run = _Run(student, teacher, images, settings, names, device)
    begun = time.perf_counter()
    found, kept = run.measure(), run.weights()
    best = found["error"]
    if not math.isfinite(best):
        raise TrialFailed("Student or teacher give numbers that are not finite on these images.")
    yield {"epoch": 0, **found, "seconds": time.perf_counter() - begun}
    run.begin()
    try:
        for epoch in range(settings.epochs):
            begun = time.perf_counter()
            loss = run.train(epoch, seed, after_step)
            found = run.measure()
            if not math.isfinite(found["error"]):
                raise diverged(epoch)
            if found["error"] < best:
                best, kept = found["error"], run.weights()
            yield {"epoch": epoch + 1, **found, "loss": loss, "seconds": time.perf_counter() - begun}
    finally:
        student.load_state_dict(kept)
        student.eval()


class _Run:
    """A student under training."""

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        images: Images,
        settings: DistillSettings,
        names: Sequence[str],
        device: torch.device,
    ) -> None:
        self.student, self.teacher, self.images, self.settings = student, teacher, images, settings
        self.device = device
        self.heads = find_heads(teacher, chain(self._aside(), self._first_batches()), names)
        self.steps = images.train_batches(settings.batch) * settings.epochs
        weights = [p for p in student.parameters() if p.requires_grad]
        if not weights:
            raise BadUsage("The student has no weights to train.")
        self.optimiser = torch.optim.Adam(weights, lr=settings.learning_rate)

    def weights(self) -> dict[str, Tensor]:
        """A copy of everything that the student has learned."""
        return {name: tensor.clone() for name, tensor in self.student.state_dict().items()}

    def begin(self) -> None:
        """Give BatchNorms that were put back statistics of these images."""
        begin_nearest(self.student, self._first_batches(), self._first_error)

    def train(self, epoch: int, seed: int, after_step: Callable[[], None]) -> float:
        """One epoch; returns the mean loss."""
        self.student.train()
        settings, total, count, looked = self.settings, torch.zeros((), device=self.device), 0, 0
        batches = self.images.train(settings.batch, seed=seed, epoch=epoch, device=self.device)
        first = epoch * self.images.train_batches(settings.batch)
        with own_random_numbers(self.device):
            for number, batch in enumerate(batches):
                torch.manual_seed(seed_of(seed, epoch, number))
                rate = settings.learning_rate * half_wave((first + number) / self.steps)
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                total += self._step(batch)
                count += 1
                after_step()
                if count - looked == LOOK_EVERY:
                    looked = count
                    if not bool(torch.isfinite(total)):
                        raise diverged(epoch)
        return float(total) / count

    def _step(self, batch: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(batch)
        loss = self._over_heads(self._given(batch), wanted, self._loss)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.clip)
        self.optimiser.step()
        return loss.detach()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Error and agreement on the images aside."""
        self.student.eval()
        error, agreed, count = 0.0, 0.0, 0
        for batch in self._aside():
            wanted, given = self.teacher(batch), self._given(batch)
            error += float(self._over_heads(given, wanted, Head.error)) * len(batch)
            for head in self.heads:
                if head.classifies:
                    same = given[head.place].argmax(1) == wanted[head.place].argmax(1)
                    agreed += float(same.sum())
            count += len(batch)
        classifiers = sum(head.classifies for head in self.heads)
        return {"error": error / count} | (
            {"agreement": agreed / (count * classifiers)} if classifiers else {}
        )

    def _first_error(self) -> float:
        """Mean error on the first batches, in the mode that the student is in."""
        errors = [
            self._over_heads(self._given(batch), self.teacher(batch), Head.error)
            for batch in self._first_batches()
        ]
        return float(torch.stack(errors).mean())

    def _given(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The student's outputs."""
        last = self.images.channels_last
        output = self.student(batch if last else batch.contiguous(memory_format=torch.channels_last))
        return tuple(output) if isinstance(output, tuple | list) else (output,)

    def _loss(self, head: Head, student: Tensor, teacher: Tensor) -> Tensor:
        return head.loss(student, teacher, self.settings.temperature)

    def _over_heads(self, given: Sequence[Tensor], wanted: Sequence[Tensor], measure: Measure) -> Tensor:
        """The mean of a measure over the heads."""
        parts = []
        for head in self.heads:
            student, teacher = given[head.place], wanted[head.place]
            if student.shape != teacher.shape:
                shapes = f"{list(student.shape)} and {list(teacher.shape)}"
                raise BadUsage(f"Output {shown(head.name)} has the shapes {shapes} in student and teacher.")
            parts.append(measure(head, student, teacher))
        return torch.stack(parts).mean()

    def _aside(self) -> Iterator[Tensor]:
        return self.images.aside(self.settings.batch, device=self.device)

    def _first_batches(self) -> Iterator[Tensor]:
        batches = self.images.train(self.settings.batch, seed=0, epoch=0, device=self.device)
        for number, batch in enumerate(batches):
            yield batch
            if number + 1 == FIRST_BATCHES:
                return


def diverged(epoch: int) -> TrialFailed:
    """What to say when an epoch (counted from 0) ends in numbers that are not finite."""
    return TrialFailed(
        f"The distillation diverged in epoch {epoch + 1}: the loss is not finite. Take a lower learning rate."
    )
