"""Refit: every layer of a narrowed network gives the original's outputs again, as nearly as it can.

In the order of the graph each layer gets the weights and bias of a ridge regression from what reaches it *in
the narrowed network* to what the original's layer put out at the channels that stayed. What earlier layers
lost, later ones make up for. A branch that ends in a sum is fitted to what the sum still lacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from conet_graph.calibration.forms import Form, form_of
from conet_graph.calibration.gram import RIDGES, Doubles, Moments
from conet_graph.calibration.places import BiasPlace, Meeting, bias_place, meeting, through_norm
from conet_graph.calibration.rows import Picks, first_row, most_rows
from conet_graph.calibration.stages import Array, Feeds, Stages
from conet_graph.ir.graph import FLOATS, Graph
from conet_graph.ir.operators import RECURRENT
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.classify_edges import LAYERS, Layer
from conet_graph.passes.widths.relabel import old_positions
from conet_graph.passes.widths.rewidth import Layout, with_constants
from conet_graph.rewriting.refits import LayerFit, Refit

# One feed in so many is kept aside from a fit to choose its ridge on.
CHECKED = 4
Tick = Callable[[float], None]


def refit(
    graph: Graph, layout: Layout, model: onnx.ModelProto, feeds: Feeds, tick: Tick = lambda share: None
) -> Refit:
    """Refit a narrowed network.

    Args:
        graph: the analysed original.
        layout: of the narrowed network.
        model: the narrowed network, weights gathered.
        feeds: calibration inputs, a dict for each run.
        tick: called after each layer, with the share of them that is done.

    """
    return _Refitter(graph, layout, model, feeds).run(tick)


class _Refitter:
    def __init__(self, graph: Graph, layout: Layout, model: onnx.ModelProto, feeds: Feeds) -> None:
        self.graph, self.layout, self.made = graph, layout, Refit()
        self.layers: list[Layer] = graph.result(LAYERS)
        starts = [layer.op.index for layer in self.layers]
        self.meetings = {layer.op.index: meeting(graph, layer) for layer in self.layers}
        wanted = [
            value for layer in self.layers for value in (layer.op.input(layer.data_slot), layer.op.outputs[0])
        ]
        sums = {m.total for m in self.meetings.values() if m is not None}
        self.old = Stages(with_constants(graph, {}), starts, feeds, graph.folder, [*wanted, *sums])
        self.new = Stages(model, starts, feeds, graph.folder, wanted)
        self.taken = {t.name for t in model.graph.initializer} | set(graph.producers)
        self.count = len(feeds)
        self.fitted: set[str] = set()

    def run(self, tick: Tick) -> Refit:
        last = {m.total: i for i, m in self.meetings.items() if m is not None}
        for done, layer in enumerate(self.layers, 1):
            op, number = layer.op, self.old.stage_of[layer.op.index]
            self.old.run(number)
            self.new.ready(op.input(layer.data_slot))
            for name in self.new.needs(number):
                self.new.ready(name)
            self._fit(layer)
            self.new.run(number)
            for name in (op.outputs[0], op.input(layer.data_slot)):
                self.old.let_go(name)
                self.new.let_go(name)
            met = self.meetings[op.index]
            if met is not None and last[met.total] == op.index:
                self.old.let_go(met.total)
            tick(done / len(self.layers))
        self.made.names = list(self.made.tensors)
        return self.made

    # -- one layer ---------------------------------------------------------------------------------

    def _fit(self, layer: Layer) -> None:
        op, stages = layer.op, self.new
        name = stages.nodes[op.index].input[layer.weight_slot]
        if name not in stages.weights or stages.weights[name].data_type not in FLOATS:
            return
        if name in self.fitted or op.input(layer.data_slot) not in stages.values:
            return
        weight = stages.weight(name)
        form = form_of(self.graph, layer, weight)
        if form is None or self._untouched(layer):
            return
        start = form.matrix(weight).astype(np.float64) * form.gain
        place = bias_place(self.graph, layer, stages.model, start.shape[0] * start.shape[2])
        self.fitted.add(name)
        seen, aside = self._moments(layer, form)
        if not seen.count:
            return
        ridge, before, after = _chosen(seen, aside, start, self._bias(place, start), place is not None)
        self.made.layers.append(LayerFit(op.name, before, after, ridge))
        if ridge is None:
            return
        system = seen.plus(aside).system(place is not None)
        matrix = system.solved(start, ridge)
        stages.set_weight(name, form.weight((matrix / form.gain).astype(np.float32), weight.shape))
        self.made.tensors[name] = stages.weight(name)
        if place is not None:
            self._put(place, system.intercept(matrix).reshape(-1), name)

    def _untouched(self, layer: Layer) -> bool:
        """Whether the same reaches a layer as in the original, channels and all."""
        value = layer.op.input(layer.data_slot)
        old, new = self.old.values.get(value), self.new.values[value]
        return old is not None and all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))

    def _moments(self, layer: Layer, form: Form) -> tuple[Moments, Moments]:
        """Second moments of what reaches a layer with what it is to put out: to fit on, and to choose on."""
        seen, aside = Moments(), Moments()
        value = layer.op.input(layer.data_slot)
        limit = 0
        for k in range(self.count):
            x, y = self.new.values[value][k], self._target(layer, k)
            pick = Picks([layer.op.index, k])
            if not limit:
                features = form.rows(x, y.shape, first_row).shape[2]
                limit = most_rows(features, form.blocks) // self.count + 1
            pick.limit = limit
            rows, targets = form.rows(x, y.shape, pick), form.targets(y, pick)
            checked = k % CHECKED == CHECKED - 1
            if checked and aside.about_x is None:
                seen.settle()
                aside.about_x, aside.about_y = seen.about_x, seen.about_y
            (aside if checked else seen).add(rows, targets)
        seen.settle()
        aside.settle()
        return seen, aside

    def _target(self, layer: Layer, k: int) -> Array:
        """What a layer is to put out in the narrowed network, for one feed."""
        op = layer.op
        if op.op_type in RECURRENT:
            return self._recurrent_target(layer, k)
        plain = self._kept(op.outputs[0], self.old.values[op.outputs[0]][k])
        met: Meeting | None = self.meetings[op.index]
        if met is None or met.other not in self.new.values or met.total not in self.old.values:
            return plain
        total = self._kept(met.total, self.old.values[met.total][k])
        rest: Array = total - self.new.values[met.other][k]
        return rest if met.norm is None else through_norm(rest, met.norm, self.new, plain)

    def _recurrent_target(self, layer: Layer, k: int) -> Array:
        op = layer.op
        weight = self.old.weight(self.old.nodes[op.index].input[layer.weight_slot])
        made: Array = self.old.values[op.input(layer.data_slot)][k] @ weight.reshape(-1, weight.shape[2]).T
        return made

    def _kept(self, value: str, array: Array) -> Array:
        """The channels of an original's value that the narrowed network has, in its order."""
        labels = self.layout.labels
        for axis, tokens in enumerate(labels.values.get(value, [])):
            if isinstance(tokens, int) or isinstance(labels.units.values[value][axis], int):
                continue
            index: Ids = old_positions(labels.old_classes(value, axis), labels.labels(tokens))
            if len(index) != array.shape[axis] or not np.array_equal(index, np.arange(len(index))):
                array = np.take(array, index, axis=axis)
        return array

    # -- biases ------------------------------------------------------------------------------------

    def _bias(self, place: BiasPlace | None, start: Doubles) -> Doubles | None:
        """The bias there is, in the shape [blocks, outputs]."""
        shape = (start.shape[0], start.shape[2])
        if place is None or place.kind != "own":
            return np.zeros(shape)
        stored = self.new.weight(place.name).astype(np.float64)
        if self.graph.operators[place.node].op_type in RECURRENT:
            return np.zeros(shape)
        return stored.reshape(shape) * place.factor

    def _put(self, place: BiasPlace, bias: Doubles, weight: str) -> None:
        """Write a bias to its place; one that several nodes read becomes the layer's own."""
        stages, node = self.new, self.new.nodes[place.node]
        if place.kind == "new":
            name, array = self._fresh(f"{weight}_bias"), (bias / place.factor).astype(np.float32)
            if self.graph.operators[place.node].op_type == "Gemm":
                array = array[None]
        else:
            name, old = place.name, stages.weight(place.name)
            if self.graph.operators[place.node].op_type in RECURRENT:
                array = old.astype(np.float32).copy()
                half = array.shape[1] // 2
                array[:, :half] += bias.reshape(len(array), half).astype(np.float32)
            elif place.kind == "own":
                array = (bias / place.factor).astype(np.float32).reshape(old.shape)
            else:
                array = (old.astype(np.float64) + place.factor * bias.reshape(old.shape)).astype(np.float32)
            readers = sum(list(n.input).count(name) for n in stages.nodes)
            name = name if readers == 1 else self._fresh(f"{weight}_bias")
        if name != place.name:
            while len(node.input) <= place.slot:
                node.input.append("")
            node.input[place.slot] = name
            self.made.biases[place.node, place.slot] = name
            stages.reads[stages.stage_of[place.node]].add(name)
        stages.set_weight(name, array)
        self.made.tensors[name] = array

    def _fresh(self, base: str) -> str:
        name = base
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _chosen(
    seen: Moments, aside: Moments, start: Doubles, bias: Doubles | None, with_bias: bool
) -> tuple[float | None, float, float]:
    """The ridge that does best on rows the fit has not seen (None: the weights as they are), and errors."""
    fit = seen.system(with_bias)
    judge = aside.system(with_bias) if aside.count else fit
    whole = float(judge.spread.sum()) or 1.0
    before = float(judge.error(start, bias).sum()) / whole
    best: tuple[float | None, float] = (None, before)
    for ridge in RIDGES if aside.count else (1e-2,):
        matrix = fit.solved(start, ridge)
        error = float(judge.error(matrix, fit.intercept(matrix)).sum()) / whole
        if math.isfinite(error) and error < best[1]:
            best = (ridge, error)
    return best[0], before, best[1]
