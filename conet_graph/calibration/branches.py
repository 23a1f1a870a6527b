"""Layers whose outputs are added: once each of them is fitted, both are fitted again, together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from conet_graph.calibration.pair import Pair
from conet_graph.calibration.places import LEAST_GAIN, own_bias
from conet_graph.calibration.solving import Doubles
from conet_graph.calibration.together import Branch, fitted_together
from conet_graph.ir.graph import Graph
from conet_graph.ir.operators import WEIGHTED, bias_factor
from conet_graph.passes.classify_edges import Layer
from conet_graph.rewriting.refits import LayerFit, Refit


class Branches:
    """Fits the layers of sums again, and writes what comes of it into a refit."""

    def __init__(
        self,
        graph: Graph,
        pair: Pair,
        made: Refit,
        readers: Mapping[str, Sequence[Layer]],
        quick: bool,
    ) -> None:
        """Begin before anything is fitted.

        Args:
            graph: the analysed original.
            pair: it and the narrowed network.
            made: the refit, with what was fitted so far.
            readers: the layers that read each weight.
            quick: fewer strengths are tried, and no fit is made again for a rectifier.

        """
        self.graph, self.pair, self.made, self.readers, self.quick = graph, pair, made, readers, quick
        # The weights of these layers and what they add to their sums, before any fit.
        self.unfitted: dict[int, tuple[list[Doubles], Doubles | None]] = {}

    def remember(self, layer: Layer, starts: list[Doubles]) -> None:
        """Keep what a layer's fit starts from, if its output is added to another's."""
        if layer.op.index in self.pair.paired and len(starts[0]) == 1:
            self.unfitted[layer.op.index] = starts, self._added(layer, starts[0])

    def fit(self, layer: Layer) -> None:
        """Fit a layer once more, together with the one whose output its own is added to."""
        first = self.pair.partners.get(layer.op.index)
        if first is None:
            return
        branches = [self._branch(one) for one in (first, layer)]
        value = first.op.input(first.data_slot)
        both = [branch for branch in branches if branch is not None]
        stage = self.pair.new.stage_of[first.op.index]
        there = self.pair.met(layer) is not None
        if there and len(both) == len(branches) and self.pair.new.can_run_again(stage):
            found = fitted_together(self.pair, both, self.quick)
            if found is not None:
                name = f"{first.op.name} + {layer.op.name}"
                self.made.layers.append(LayerFit(name, found.before, found.after, found.ridge))
                self._set(both[0], found.matrices[0], np.zeros_like(found.offset))
                self._set(both[1], found.matrices[1], found.offset)
                self.pair.new.run_again(stage)
        self.pair.new.let_go(value)

    def _branch(self, layer: Layer) -> Branch | None:
        """A layer of a sum that was fitted; None where its weight or bias serves others, too."""
        node, met = self.pair.new.nodes[layer.op.index], self.pair.meetings[layer.op.index]
        name, bias_name = node.input[layer.weight_slot], self._bias_name(layer)
        if met is None or bias_name not in self.made.tensors or len(self.readers[name]) > 1:
            return None
        weight = self.pair.new.weight(name)
        form = self.pair.form(layer, weight)
        if form is None or name not in self.made.tensors:
            return None
        starts, before = self.unfitted.pop(layer.op.index, ([], None))
        now = self._added(layer, starts[0]) if starts else None
        if now is None or before is None:
            return None
        gain = self._behind(layer)[0]
        size = np.abs(gain)
        if size.min(initial=1.0) < LEAST_GAIN * size.max(initial=1.0):
            return None
        return Branch(layer, form, gain, [start * gain for start in starts], before, now)

    def _behind(self, layer: Layer) -> tuple[Doubles, Doubles]:
        """Gain and shift of the BatchNorm between a layer and its sum, where there is one."""
        met = self.pair.meetings[layer.op.index]
        if met is None or met.norm is None:
            return np.ones(1), np.zeros(1)
        norm = self.pair.new.nodes[met.norm.index]
        scale, shift, mean, var = (
            self.pair.new.weight(norm.input[k]).astype(np.float64) for k in range(1, 5)
        )
        gain = scale / np.sqrt(var + met.norm.attr("epsilon", 1e-5))
        return gain, shift - mean * gain

    def _added(self, layer: Layer, start: Doubles) -> Doubles | None:
        """What a layer adds to its sum beside its features' part [1, O]; None where that is not known."""
        own = own_bias(self.pair.new, layer, start)
        gain, shift = self._behind(layer)
        return None if own is None else own * gain + shift

    def _bias_name(self, layer: Layer) -> str:
        """The tensor that holds a layer's bias: its own, or the mean of the BatchNorm behind it."""
        node, met = self.pair.new.nodes[layer.op.index], self.pair.meetings[layer.op.index]
        slot = WEIGHTED[layer.op.op_type].bias
        if slot is not None and len(node.input) > slot and node.input[slot]:
            return str(node.input[slot])
        return "" if met is None or met.norm is None else str(self.pair.new.nodes[met.norm.index].input[3])

    def _set(self, branch: Branch, matrix: Doubles, offset: Doubles) -> None:
        """Give a branch another matrix, and add to its bias [1, O]."""
        layer = branch.layer
        name, bias_name = self.pair.new.nodes[layer.op.index].input[layer.weight_slot], self._bias_name(layer)
        shape, own = self.pair.new.weight(name).shape, matrix / branch.gain / branch.form.gain
        bias, change = self.pair.new.weight(bias_name), offset / branch.gain
        is_own = bias_name in self.pair.new.nodes[layer.op.index].input
        change = change / bias_factor(layer.op) if is_own else -change
        for tensor, array in (
            (name, branch.form.weight(own.astype(np.float32), shape)),
            (bias_name, (bias + change.reshape(bias.shape)).astype(np.float32)),
        ):
            self.pair.new.set_weight(tensor, array)
            self.made.tensors[tensor] = self.pair.new.weight(tensor)
