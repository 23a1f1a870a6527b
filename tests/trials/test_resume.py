from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trial import EPOCHS, SETTINGS, Interrupting, Spots, small_net, trained
from torch import Tensor, nn

from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.trials.interruption import noticed_stop
from conet_graph.trials.settings import TrainSettings
from conet_graph.trials.training import ClassificationTrial

ADAS = replace(SETTINGS, schedule="adas", weight_decay=1e-3)


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def boom() -> None:
    raise RuntimeError("the loader broke")


@pytest.mark.parametrize("settings", [SETTINGS, ADAS], ids=["cosine", "adas"])
def test_resumed_after_an_epoch_bit_for_bit(settings: TrainSettings, tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    whole, expected = trained(settings)
    with pytest.raises(RuntimeError, match="the loader broke"):
        trained(settings, kept, Interrupting(2, 4, boom))
    module, found = trained(settings, kept)
    assert found == expected[1:]  # the last complete epoch again, then the rest
    assert equal(module, whole)


@pytest.mark.parametrize("settings", [SETTINGS, ADAS], ids=["cosine", "adas"])
@pytest.mark.parametrize(("epoch", "batch"), [(0, 3), (1, 7), (2, 9)])
def test_resumed_within_an_epoch_bit_for_bit(
    settings: TrainSettings, epoch: int, batch: int, tmp_path: Path
) -> None:
    kept = tmp_path / "trial.safetensors"
    whole, expected = trained(settings)
    data = Interrupting(epoch, batch, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trained(settings, kept, data)
    assert kept.with_suffix(".within.safetensors").exists()
    asked = Asked()
    module, found = trained(settings, kept, asked)
    # The batch under way when the signal came was the last one before the stop.
    assert asked.first[0] == (epoch, batch + 1)
    assert found == expected[max(0, epoch - 1) :]
    assert equal(module, whole)
    assert list(tmp_path.iterdir()) == [kept]


class Asked(Spots):
    """Notes from which batch on each epoch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.first: list[tuple[int, int]] = []

    def train(self, batch: int, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        self.first.append((options["epoch"], options["first_batch"]))
        return super().train(batch, **options)


def test_the_last_epochs_weights_are_there_when_it_is_yielded_again(tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    data = Interrupting(1, 5, lambda: signal.raise_signal(signal.SIGINT))
    first, again = small_net(), small_net(4, 9)
    running = ClassificationTrial(data, SETTINGS, "cpu")(first, EPOCHS, checkpoint=kept)
    next(running)
    after_first = {name: value.clone() for name, value in first.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        next(running)
    next(ClassificationTrial(Spots(), SETTINGS, "cpu")(again, EPOCHS, checkpoint=kept))
    assert all(torch.equal(again.state_dict()[name], value) for name, value in after_first.items())


def test_checkpoints_come_now_and_then_within_an_epoch(tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    often = replace(SETTINGS, checkpoint_seconds=0.0)
    whole, expected = trained(SETTINGS)
    with pytest.raises(RuntimeError):
        trained(often, kept, Interrupting(1, 6, boom))
    asked = Asked()
    module, found = trained(SETTINGS, kept, asked)
    assert asked.first[0] == (1, 6)
    assert found == expected
    assert equal(module, whole)


def test_a_finished_training_yields_its_last_epoch(tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    whole, expected = trained(SETTINGS, kept)
    module, found = trained(SETTINGS, kept)
    assert found == expected[-1:]
    assert equal(module, whole)


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    trained(SETTINGS, kept)
    spoil(kept, damage)
    with pytest.raises(BadUsage, match=r"' is damaged: remove it"):
        trained(SETTINGS, kept)


def spoil(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-5] ^= 1
    path.write_bytes({"cut": data[:-40], "flipped": data, "text": b"no checkpoint"}[damage])


def test_damage_within_an_epoch_costs_that_epoch_only(tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    whole, expected = trained(SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        trained(SETTINGS, kept, Interrupting(1, 5, lambda: signal.raise_signal(signal.SIGINT)))
    spoil(kept.with_suffix(".within.safetensors"), "flipped")
    asked = Asked()
    module, found = trained(SETTINGS, kept, asked)
    assert asked.first[0] == (1, 0)
    assert found == expected
    assert equal(module, whole)


@pytest.mark.parametrize(
    ("settings", "seed", "sentence"),
    [
        (replace(SETTINGS, learning_rate=0.07), 5, "made with learning rate 0.05, not 0.07"),
        (SETTINGS, 6, "made with seed 5, not 6"),
    ],
)
def test_another_training_is_not_continued(
    settings: TrainSettings, seed: int, sentence: str, tmp_path: Path
) -> None:
    kept = tmp_path / "trial.safetensors"
    trained(SETTINGS, kept)
    with pytest.raises(BadUsage, match=sentence):
        trained(settings, kept, seed=seed)


def test_another_networks_checkpoint_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    trained(SETTINGS, kept)
    trial = ClassificationTrial(Spots(), SETTINGS, "cpu")
    with pytest.raises(BadUsage, match="belongs to another network"):
        next(trial(nn.Conv2d(1, 4, 8), EPOCHS, seed=5, checkpoint=kept))


def test_too_little_memory_is_told_and_the_checkpoint_stays(tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(Refused, match="too little memory for batches of 32"):
        trained(SETTINGS, kept, Interrupting(1, 5, full))
    whole, expected = trained(SETTINGS)
    module, found = trained(SETTINGS, kept)
    assert found == expected
    assert equal(module, whole)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="cannot be written"):
        trained(SETTINGS, tmp_path / "nowhere" / "trial.safetensors")


HELPERS = Path(__file__).parents[1] / "helpers"
WITH_HELPERS = {**os.environ, "PYTHONPATH": str(HELPERS)}
TERMINATED = """
import signal, sys
from pathlib import Path
import torch
from small_trial import SETTINGS, Interrupting, trained
torch.set_num_threads(1)
trained(SETTINGS, Path(sys.argv[1]), Interrupting(1, 5, lambda: signal.raise_signal(signal.SIGTERM)))
"""


def test_sigterm_is_passed_on_once_the_state_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    done = subprocess.run([sys.executable, "-c", TERMINATED, str(kept)], env=WITH_HELPERS, timeout=120)
    assert done.returncode == -signal.SIGTERM
    whole, expected = trained(SETTINGS)
    module, found = trained(SETTINGS, kept)
    assert found == expected
    assert equal(module, whole)


def test_a_second_signal_is_not_held_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    noted = []

    def twice() -> None:
        with noticed_stop(True) as stop:
            signal.raise_signal(signal.SIGINT)
            noted.append(bool(stop))
            signal.raise_signal(signal.SIGINT)
            noted.append(False)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert noted == [True]
    assert signal.getsignal(signal.SIGINT) is before
