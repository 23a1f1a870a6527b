"""The built-in trial: a classifier trained by SGD, seeded, and resumable to the batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conet_graph.ir.errors import BadUsage, Refused, shown
from conet_graph.trials.answers import find_answers
from conet_graph.trials.checkpoint_store import CheckpointStore
from conet_graph.trials.distributed import Processes, chosen_device, joined
from conet_graph.trials.interruption import noticed_stop
from conet_graph.trials.learner import Learner, own_random_numbers
from conet_graph.trials.protocol import ClassificationData
from conet_graph.trials.scalars import scalar_log
from conet_graph.trials.schedules import make_schedule
from conet_graph.trials.settings import TrainSettings
from conet_graph.trials.training_bar import training_bar


class ClassificationTrial:
    """Train a classifier on some data; a trial as `conet_graph.trials.protocol.Trial` describes it.

    The module may be native or converted from ONNX; it may take its channels last, end in a Softmax or answer
    [N, classes, 1, 1]; in training it may return (logits, auxiliary logits, ...).
    """

    def __init__(
        self,
        data: ClassificationData,
        settings: TrainSettings,
        device: str = "auto",
        *,
        tensorboard: Path | None = None,
        progress: bool = False,
        shrink: Callable[[float], None] | None = None,
    ) -> None:
        """Take the data and the settings; nothing runs yet.

        Args:
            data: see `conet_graph.trials.data.open_data`.
            settings: how to train.
            device: a torch device, or 'auto': a GPU if there is one.
            tensorboard: a folder for the scalars of each epoch, or None.
            progress: show a bar on a terminal's stderr for epochs over two seconds.
            shrink: called after each step with its learning rate (see `conet_graph.trials.sparsify`).

        Raises:
            BadUsage: there is no such device.

        """
        self.data, self.settings = data, settings
        self.tensorboard, self.progress = tensorboard, progress
        self.device, self.shrink = chosen_device(device), shrink

    def __call__(
        self, module: nn.Module, epochs: int, *, seed: int = 0, checkpoint: Path | None = None
    ) -> Iterator[dict[str, float]]:
        """Train `module` in place; yields the metrics of each epoch once it is complete.

        The order of the images, their augmentation and every random number depend on the seed, the epoch
        and the batch only. With `checkpoint`, each epoch's end is kept there before it is yielded, and within
        an epoch a second file beside it is written now and then, and on SIGINT and SIGTERM. If
        the file is there at the start, its epoch is yielded again, and training goes on: on a CPU the numbers
        are those of an uninterrupted run, bit for bit.

        Yields:
            epoch (from 1), train_loss, train_accuracy, test_loss, test_accuracy (0 to 1), seconds, and
            learning_rate (of the epoch's last step, the mean over layers).

        Raises:
            BadUsage: data, settings, checkpoint and module do not fit each other.
            Refused: the device has too little memory.
            TrialFailed: the training diverged; the checkpoint is still that of the last complete epoch.

        """
        with joined(self.device) as processes:
            learner = self._learner(module, epochs, processes)
            store = self._store(checkpoint, epochs, seed, learner) if checkpoint else None
            done = store.last_epoch() if store else None
            if store and done:
                learner.restore(done, store.path)
                yield done.progress.metrics
            middle = store.within_epoch(learner.progress.epoch) if store else None
            if store and middle:
                learner.restore(middle, store.within)
            with learner.own_layout(), scalar_log(self.tensorboard if processes.first else None) as log:
                while learner.progress.epoch < epochs:
                    metrics = self._epoch(learner, epochs, seed, store)
                    log(metrics)
                    yield metrics

    def loss(self, module: nn.Module) -> float:
        """Mean loss of a module on the test images; it is not trained.

        Raises:
            BadUsage: data and module do not fit each other.

        """
        with joined(self.device) as processes:
            found, _ = self._learner(module, 1, processes).test()
        return found

    def _learner(self, module: nn.Module, epochs: int, processes: Processes) -> Learner:
        settings, data = self.settings, self.data
        if epochs < 1:
            raise BadUsage(f"{epochs} epochs are none: give at least 1.")
        steps_per_epoch = data.train_batches(settings.batch, processes.world)
        if steps_per_epoch < 1:
            raise BadUsage(f"The data {shown(data.name)} is too small for batches of {settings.batch}.")
        if settings.drop_path and not hasattr(module, "drop_path"):
            raise BadUsage("Only networks of cells (darts7, ...) have a drop path: leave it at 0.")
        if not any(p.requires_grad for p in module.parameters()):
            raise BadUsage("The network has no weights to train.")
        module.to(self.device)
        answers = find_answers(module, data, self.device)
        schedule = make_schedule(settings, module, epochs, steps_per_epoch)
        return Learner(module, data, settings, schedule, answers, processes, self.shrink)

    def _store(self, checkpoint: Path, epochs: int, seed: int, learner: Learner) -> CheckpointStore:
        made_with: Mapping[str, Any] = {
            **self.settings.that_decide(),
            "data": self.data.name,
            "image shape": self.data.shape,
            "batches an epoch": learner.steps_per_epoch,
            "epochs": epochs,
            "seed": seed,
            "processes": learner.processes.world,
        }
        return CheckpointStore(Path(checkpoint), made_with)

    def _epoch(
        self, learner: Learner, epochs: int, seed: int, store: CheckpointStore | None
    ) -> dict[str, float]:
        """The rest of an epoch, kept before it is returned."""
        keeps = store if learner.processes.first else None
        shows = self.progress and learner.processes.first
        if self.settings.drop_path:
            reached = (learner.progress.epoch + 1) / epochs
            learner.module.drop_path = self.settings.drop_path * reached  # type: ignore[assignment]
        with (
            noticed_stop(keeps is not None) as stop,
            _memory_told(self.settings.batch),
            own_random_numbers(self.device),
            training_bar(learner, epochs, shows) as show,
        ):
            kept_at = time.perf_counter()
            for _ in learner.steps(seed):
                show()
                due = time.perf_counter() - kept_at >= self.settings.checkpoint_seconds
                if keeps and (due or stop):
                    keeps.save(learner.checkpoint())
                    kept_at = time.perf_counter()
                if stop:
                    break
            else:
                metrics = learner.end_epoch()
                if keeps:
                    keeps.save(learner.checkpoint())
                return metrics
        raise KeyboardInterrupt  # where a handler of the caller's own let the signal pass


@contextmanager
def _memory_told(batch: int) -> Iterator[None]:
    """Say what to do when the device has too little memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise Refused(
            f"The device has too little memory for batches of {batch}: take smaller ones."
        ) from None
