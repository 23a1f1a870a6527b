"""Which colour and label each channel size of a drawn network has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from conet_graph.analysis.analysis import Analysis
from conet_graph.report.colors import FROZEN, size_color
from conet_graph.search.recorded import RecordedRun


@dataclass(frozen=True)
class Palette:
    """Labels of the free sizes in order, and the size in that order behind each name of a size."""

    labels: tuple[str, ...]
    index: Mapping[str, int]

    def color(self, size: int | None) -> str:
        """The colour of a size; grey for what is frozen."""
        return FROZEN if size is None else size_color(size, len(self.labels))

    @staticmethod
    def of_analysis(analysis: Analysis) -> Palette:
        """The free sizes of a network by their own names."""
        names = tuple(dict.fromkeys(group.size for group in analysis.groups if group.free))
        return Palette(names, {name: k for k, name in enumerate(names)})

    @staticmethod
    def of_run(run: RecordedRun, analysis: Analysis) -> Palette:
        """A run's sizes, found in a network by the layers that produce them.

        The names of sizes belong to the network that was searched; layers keep theirs in all of its
        forms.
        """
        by_layer = {layer: k for k, size in enumerate(run.sizes) for layer in size.layers}
        index = {}
        for group in analysis.groups:
            found = next((by_layer[p] for p in group.producers if p in by_layer), None)
            if group.free and found is not None:
                index[group.size] = found
        return Palette(tuple(size.name for size in run.sizes), index)
