"""The tools of a search as the command line runs it: the bridge to PyTorch and the built-in trial."""

from __future__ import annotations

from dataclasses import replace

from conet_graph.bridge import from_torch, trainable, weights_by_name
from conet_graph.search.runner import Tools
from conet_graph.search.settings import RunSettings
from conet_graph.trials.data import open_data
from conet_graph.trials.training import ClassificationTrial


def standard_tools(settings: RunSettings, *, download: bool = False, progress: bool = False) -> Tools:
    """The tools that the settings ask for; opens the data.

    Args:
        settings: of the search.
        download: whether CIFAR may be fetched where it is missing.
        progress: show a bar within epochs.

    Raises:
        BadUsage: the data or the device is missing.

    """
    data = open_data(
        settings.data,
        augment=settings.augment,
        cutout=settings.cutout,
        image=settings.image,
        download=download,
    )

    def trial(share: float) -> ClassificationTrial:
        rate = settings.training.learning_rate * share
        training = replace(settings.training, learning_rate=rate)
        return ClassificationTrial(data, training, settings.device, progress=progress)

    whole = trial(1.0)  # a device that is not there is told before anything begins
    return Tools(trainable, from_torch, weights_by_name, trial, whole.loss)
