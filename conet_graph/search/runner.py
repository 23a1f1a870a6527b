"""The search itself: trial after trial, each at the widths that a rule made of the last ones.

All that decides what comes next is in the database, or follows from the settings: fresh weights and
the trial's random numbers depend on (seed, trial) only. So a search that was killed goes on with the
trial under way, which goes on from its checkpoint, and ends where it would have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from conet_graph.indicators import layer_indicators
from conet_graph.indicators.slope import mean_condition, mean_rank
from conet_graph.ir.errors import BadUsage, ConetGraphError, Refused, shown
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.rewriting.rewriting import save
from conet_graph.search.algorithm import SizeState, finished
from conet_graph.search.found import write_found
from conet_graph.search.network import Network
from conet_graph.search.rules import BY_NAME
from conet_graph.search.run_folder import RunFolder
from conet_graph.search.run_store import EpochRecord, RunStore, TrialRow
from conet_graph.search.settings import RunSettings
from conet_graph.search.watch import Silent, Watch
from conet_graph.search.worth import worths
from conet_graph.trials.errors import TrialBroke, TrialFailed
from conet_graph.trials.protocol import Trial, start

States = dict[str, SizeState]
# Of the learning rate, when a trial that diverged is tried once more.
SECOND_TRY = 0.5


@dataclass(frozen=True, slots=True)
class Tools:
    """What a search needs beside the graph.

    Attributes:
        to_module: a network as a module that trains.
        from_module: the module's weights back in the network.
        weights_of: the module's weights by their names in the file, in the file's layout.
        trial: a trial with so much of the learning rate (1: all of it).
        loss: of a module on the images that decide widths; only some rules ask for it.

    """

    to_module: Callable[[LoadedModel], nn.Module]
    from_module: Callable[[nn.Module, LoadedModel], LoadedModel]
    weights_of: Callable[[nn.Module], Mapping[str, Tensor]]
    trial: Callable[[float], Trial]
    loss: Callable[[nn.Module], float] | None = None


class _OutOfTime(Exception):
    """The hours that a search may take are over, within a trial."""


def epochs_of(
    trial: Trial, module: nn.Module, epochs: int, seed: int, checkpoint: Path
) -> Generator[tuple[int, dict[str, float], float]]:
    """Train a module; yields each epoch's number (from 1), metrics and seconds.

    A trial that takes ``checkpoint`` first yields the last epoch that it has there once more.
    """
    torch.manual_seed(seed)  # for trials that do not take a seed
    begun = time.perf_counter()
    training = _named_errors(start(trial, module, epochs, seed=seed, checkpoint=checkpoint))
    for count, yielded in enumerate(training, 1):
        metrics = {name: float(value) for name, value in (yielded or {}).items()}
        seconds = metrics.get("seconds", time.perf_counter() - begun)
        yield int(metrics.get("epoch", count)), metrics, seconds
        begun = time.perf_counter()


def _named_errors(training: Iterator[Mapping[str, float] | None]) -> Iterator[Mapping[str, float] | None]:
    """What a trial yields; what it raises, as one sentence.

    Raises:
        TrialBroke: its data, its code or the GPU's memory failed; the checkpoint of its last epoch is kept.

    """
    try:
        yield from training
    except ConetGraphError:
        raise
    except torch.OutOfMemoryError:
        raise TrialBroke(
            "The GPU has not enough memory for the trial: free some and go on, or take a smaller batch."
        ) from None
    except Exception as error:
        what = shown(f"{type(error).__name__}: {error}", 200)
        raise TrialBroke(f"The trial stopped with {what}: mend that and go on.") from error


class Search:
    """One search in its folder; ``run`` may be called again after whatever interrupted it."""

    def __init__(
        self,
        folder: RunFolder,
        store: RunStore,
        settings: RunSettings,
        network: Network,
        tools: Tools,
        watch: Watch | None = None,
    ) -> None:
        """Take everything; nothing runs yet."""
        self.folder, self.store, self.settings = folder, store, settings
        self.network, self.tools = network, tools
        self.watch: Watch = watch or Silent()
        self.rule = BY_NAME[settings.rule](network, store, settings)
        if self.rule.weighs and tools.loss is None:
            raise BadUsage(
                f"The rule {settings.rule} needs the loss of a network, which a trial of one's own does not"
                " give: take another rule."
            )

    def run(self) -> None:
        """Search to the end, or until the time is over.

        A trial that diverges is tried once more with half the learning rate; if that fails too, the
        search ends with the status 'failed'. Whatever else stops it leaves the status 'interrupted'.

        Raises:
            TrialFailed: a trial diverged twice.
            Refused: the budget is too small for the smallest widths.
            KeyboardInterrupt: as it came, after the status is noted.

        """
        self.store.tell("status", "running")
        try:
            status = self._run()
        except TrialFailed:
            self.store.tell("status", "failed")
            raise
        except BaseException:
            self.store.tell("status", "interrupted")
            raise
        self.store.tell("status", status)

    def _run(self) -> str:
        trial, states = self._where()
        if trial == 0:
            for warning in self.rule.warnings():
                self.watch.say(warning)
        status = "finished"
        while not finished(states.values(), trial, self.settings.search):
            if self._no_time_for_another(trial):
                self.watch.say(f"The hours are over after {trial} trials.")
                break
            try:
                states = self._trial(trial, states)
            except _OutOfTime:
                self.watch.say(f"The hours are over within trial {trial + 1}: --resume goes on with it.")
                status = "interrupted"
                break
            trial += 1
        if trial:
            self._conclude(trial - 1)
        return status

    def _where(self) -> tuple[int, States]:
        """The trial that is due, and its states."""
        last = self.store.last_trial()
        if last is None:
            return 0, self.rule.first()
        states = self.store.states(last.trial)
        if last.status == "finished":
            return last.trial + 1, self.rule.after(last.trial, states)
        return last.trial, states

    # -- one trial ---------------------------------------------------------------------------------

    def _trial(self, trial: int, states: States) -> States:
        """Train at these widths and note everything; returns the next states."""
        seed = self.rule.seed(trial)
        begun = time.perf_counter()
        if trial:
            self.folder.drop_checkpoint(f"{trial - 1:03d}")
        widths = {size: state.width for size, state in states.items()}
        model = self._model(trial, widths, seed)
        parameters, macs = self.network.cost(widths)
        graph_seconds = time.perf_counter() - begun
        self.store.begin_trial(trial, states, parameters, macs)
        self.watch.begins(trial, states, parameters, macs)
        trained, converting = self._trained(trial, model, seed)
        begun = time.perf_counter()
        path = self.folder.trial(trial)
        save(trained, path)
        if self.rule.weighs and self.tools.loss is not None:
            found = worths(trained, self.network, self.tools.to_module, self.tools.loss)
            self.store.record_worths(trial, found)
        after = self.rule.after(trial, states)
        for remark in self.rule.remarks(trial, states):
            self.watch.say(remark)
        graph_seconds += converting + time.perf_counter() - begun
        training, measuring = self.store.spent(trial)
        seconds = training + measuring + graph_seconds
        accuracy = self.store.metrics(trial)[-1].get("test_accuracy")
        onnx = str(path.relative_to(self.folder.path))
        times = (seconds, graph_seconds, measuring)
        row = TrialRow(trial, "finished", parameters, macs, *times, accuracy, onnx)
        self.store.finish_trial(row, self.store.indicators(trial), after)
        self.watch.ends(row, states, after)
        return after

    def _model(self, trial: int, widths: Mapping[str, int], seed: int) -> LoadedModel:
        """The untrained network of a trial."""
        if not (self.settings.warm or self.rule.keeps_weights) or trial == 0:
            return self.network.at(widths, seed)
        return self.network.continued(load_model(self.folder.trial(trial - 1)), widths, seed)

    def _trained(self, trial: int, model: LoadedModel, seed: int) -> tuple[LoadedModel, float]:
        """The trained network of a trial, and the seconds that its conversions took."""
        last = self.store.last_trial()
        retried = last is not None and last.status == "retried"
        try:
            return self._attempt(trial, model, seed, SECOND_TRY if retried else 1.0)
        except TrialFailed as error:
            # The checkpoint goes first: it belongs to the learning rate that failed.
            self.folder.drop_checkpoint(f"{trial:03d}")
            if retried:
                self.store.mark_trial(trial, "failed")
                raise
            self.watch.say(f"Trial {trial + 1} failed ({error}); once more with half the learning rate.")
        self.store.forget_epochs(trial)
        self.store.mark_trial(trial, "retried")
        return self._trained(trial, model, seed)

    def _attempt(self, trial: int, model: LoadedModel, seed: int, share: float) -> tuple[LoadedModel, float]:
        begun = time.perf_counter()
        module = self.tools.to_module(model)
        converting = time.perf_counter() - begun
        epochs, checkpoint = self.settings.search.epochs, self.folder.checkpoint(f"{trial:03d}")
        done = 0
        with closing(epochs_of(self.tools.trial(share), module, epochs, seed, checkpoint)) as training:
            for epoch, metrics, seconds in training:
                self._record(trial, epoch, metrics, seconds, module)
                self.watch.epoch(trial, epoch, metrics, seconds)
                done = epoch
                if epoch < epochs and self._hours_over():
                    raise _OutOfTime
        if not done:
            raise Refused("The trial ended before its first epoch: it must yield after every epoch.")
        begun = time.perf_counter()
        trained = self.tools.from_module(module, model)
        return trained, converting + time.perf_counter() - begun

    def _record(
        self, trial: int, epoch: int, metrics: dict[str, float], seconds: float, module: nn.Module
    ) -> None:
        """Measure the weights as they are now, and note the epoch."""
        begun = time.perf_counter()
        weights = self.tools.weights_of(module)
        speakers = self.network.speakers
        measured = layer_indicators(
            {layer: weights[name] for layer, name in speakers.weights.items() if name in weights},
            input_first=speakers.input_first,
        )
        sizes = {
            size: (mean_rank(voices, measured), mean_condition(voices, measured))
            for size, voices in speakers.heard(measured).items()
            if voices
        }
        measuring = time.perf_counter() - begun
        self.store.record_epoch(trial, EpochRecord(epoch, metrics, seconds, measuring, measured, sizes))

    # -- time and end ------------------------------------------------------------------------------

    def _hours_over(self) -> bool:
        limit = self.settings.max_hours
        return limit is not None and self.store.hours() >= limit

    def _no_time_for_another(self, done: int) -> bool:
        """Whether a trial as long as those before would pass the limit; the first one may begin."""
        limit, spent, last = self.settings.max_hours, self.store.hours(), self.store.last_trial()
        if limit is None or last is None or last.status != "finished":
            return False  # what is under way is stopped, if need be, after an epoch
        return spent + spent / done > limit

    def _conclude(self, trial: int) -> None:
        """Leave the last trial's network as what was found."""
        self.folder.drop_checkpoint(f"{trial:03d}")
        write_found(self.folder, trial, self.network.batchnorm_inserted)
