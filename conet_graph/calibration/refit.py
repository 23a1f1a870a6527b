"""Refit: every layer of a narrowed network gives the original's outputs again, as nearly as it can.

In the order of the graph each layer gets the weights and bias of a ridge regression from what reaches it *in
the narrowed network* to what the original's layer put out at the channels that stayed. What earlier layers
lost, later ones make up for. A branch that ends in a sum is fitted to what the sum still lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx

from conet_graph.calibration.branches import Branches
from conet_graph.calibration.compensation import channel_axes, compensated, covariance
from conet_graph.calibration.forms import Form
from conet_graph.calibration.gram import FEW_RIDGES, RIDGES, Moments, add_feed, chosen
from conet_graph.calibration.large import ROWS, best_start, most_features
from conet_graph.calibration.pair import Pair
from conet_graph.calibration.places import BiasPlace, bias_place, own_bias
from conet_graph.calibration.rectified import MOST_HELD, Rows, rectified
from conet_graph.calibration.rows import Picks, first_row, most_rows
from conet_graph.calibration.solving import Doubles
from conet_graph.calibration.stages import Array, Feeds
from conet_graph.ir.errors import shown
from conet_graph.ir.graph import FLOATS, Graph
from conet_graph.ir.operators import PLAIN_PRODUCTS, RECURRENT
from conet_graph.passes.channels.units import Ids
from conet_graph.passes.classify_edges import LAYERS, Layer
from conet_graph.passes.widths.evaluated import in_places
from conet_graph.passes.widths.rewidth import Layout
from conet_graph.rewriting.checkpoint_refit import checksum
from conet_graph.rewriting.refits import LayerFit, Refit

Tick = Callable[[float], None]
Covariances = dict[tuple[str, int], Doubles]


def refit(
    graph: Graph,
    layout: Layout,
    model: onnx.ModelProto,
    feeds: Feeds,
    tick: Tick = lambda share: None,
    *,
    quick: bool = False,
    covariances: Covariances | None = None,
) -> Refit:
    """Refit a narrowed network.

    Args:
        graph: the analysed original.
        layout: of the narrowed network.
        model: the narrowed network, weights gathered.
        feeds: calibration inputs, a dict for each run.
        tick: called after each layer, with the share of them that is done.
        quick: to compare widths: fewer strengths are tried, and no fit is made again for a rectifier.
        covariances: of the original's values on these inputs, by the value and the axis of its channels, as
            earlier refits have found them; added to.

    """
    known = {} if covariances is None else covariances
    whole = in_places(graph, model)
    made = _Refitter(graph, layout, whole, feeds, quick, known).run(tick)
    left = [k for k, node in enumerate(whole.graph.node) if node.op_type]
    made.biases = {(left.index(k), slot): name for (k, slot), name in made.biases.items()}
    return made


class _Refitter:
    def __init__(
        self,
        graph: Graph,
        layout: Layout,
        model: onnx.ModelProto,
        feeds: Feeds,
        quick: bool,
        covariances: Covariances,
    ) -> None:
        self.graph, self.layout, self.made, self.quick = graph, layout, Refit(), quick
        self.covariances = covariances
        self.layers: list[Layer] = graph.result(LAYERS)
        self.pair = Pair(graph, layout, model, feeds)
        self.old, self.new = self.pair.old, self.pair.new
        self.taken = {t.name for t in model.graph.initializer} | set(graph.producers)
        self.count = len(feeds)
        self.fitted: set[str] = set()
        self.seen: set[int] = set()  # operators whose turn has come
        self.readers: dict[str, list[Layer]] = {}
        for layer in self.layers:
            name = self.new.nodes[layer.op.index].input[layer.weight_slot]
            self.readers.setdefault(name, []).append(layer)
        self.left: dict[str, list[str]] = {}
        self.branches = Branches(graph, self.pair, self.made, self.readers, quick)

    def run(self, tick: Tick) -> Refit:
        last = {m.total: i for i, m in self.pair.meetings.items() if m is not None}
        for done, layer in enumerate(self.layers, 1):
            op, number = layer.op, self.old.stage_of[layer.op.index]
            self.old.run(number)
            self.new.ready(op.input(layer.data_slot))
            for name in self.new.needs(number):
                self.new.ready(name)
            self._fit(layer)
            self.branches.fit(layer)
            self.seen.add(op.index)
            self.new.run(number)
            for name in (op.outputs[0], op.input(layer.data_slot)):
                self.old.let_go(name)
                self.new.let_go(name)
            met = self.pair.meetings[op.index]
            if met is not None and last[met.total] == op.index:
                self.old.let_go(met.total)
            tick(done / len(self.layers))
        self.made.names = list(self.made.tensors)
        for why, names in self.left.items():
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            self.made.left.append(f"{shown(names[0])}{others} {why}")
        return self.made

    # -- one layer ---------------------------------------------------------------------------------

    def _fit(self, layer: Layer) -> None:
        op, stages = layer.op, self.new
        name = stages.nodes[op.index].input[layer.weight_slot]
        if name in self.fitted or op.input(layer.data_slot) not in stages.values:
            return
        sharing = self._sharing(layer, name)
        if all(map(self.pair.untouched, sharing)):
            return
        if name not in stages.weights:
            self.left.setdefault("has a weight that the graph computes", []).append(op.name)
            return
        if stages.weights[name].data_type not in FLOATS:
            self.left.setdefault("has whole numbers for weights: narrow first, quantise after", []).append(
                op.name
            )
            return
        weight = stages.weight(name)
        form = self.pair.form(layer, weight)
        if form is None:
            self.left.setdefault("is of a form or size that is not fitted", []).append(op.name)
            return
        start = form.matrix(weight).astype(np.float64) * form.gain
        place = self._bias_place(sharing, start.shape[0] * start.shape[2])
        own = [own_bias(self.new, reader, start) if place is None else None for reader in sharing]
        if place is None and any(bias is None for bias in own):
            self.left.setdefault("has a bias that the graph computes", []).append(op.name)
            return
        self.fitted.add(name)
        if start.shape[1] > most_features(self.quick):
            self._compensate(layer, form, start, place, name)
            return
        bounds = None if place is None or self.quick or len(sharing) > 1 else self.pair.bounds(layer)
        rows = Rows([])
        seen, aside = self._moments(sharing, own, weight, None if bounds is None else rows)
        if not seen.count:
            return
        starts = [start, *self._compensated(layer, form, start)]
        self.branches.remember(layer, starts)
        start, ridge, before, after = chosen(
            seen,
            aside,
            starts,
            self._bias(place, start),
            place is not None,
            FEW_RIDGES if self.quick else RIDGES,
        )
        self.made.layers.append(LayerFit(op.name, before, after, ridge))
        if ridge is None:
            return
        system = seen.plus(aside).system(place is not None)
        solve = system.solver(ridge)
        if bounds is not None and rows.parts:
            matrix, bias = rectified(rows, system, solve, start, bounds)
        else:
            matrix = start + solve(system.gap(start))
            bias = system.intercept(matrix)
        self.made.before[name] = checksum(weight)
        stages.set_weight(name, form.weight((matrix / form.gain).astype(np.float32), weight.shape))
        self.made.tensors[name] = stages.weight(name)
        if place is not None:
            self._put(place, bias.reshape(-1), name, len(sharing))

    # -- weights that several layers share ------------------------------------------------------------

    def _sharing(self, layer: Layer, name: str) -> list[Layer]:
        """The layer and the later ones of its kind that read the same weight: one fit serves them all."""
        found = [layer]
        for other in self.readers.get(name, []):
            slots = (other.op.op_type, other.weight_slot, other.data_slot)
            if other is layer or slots != (layer.op.op_type, layer.weight_slot, layer.data_slot):
                continue
            if other.op.index in self.seen or other.op.op_type in RECURRENT:
                continue
            self.old.run(self.old.stage_of[other.op.index])
            value = other.op.input(other.data_slot)
            if value in self.new.maker and self._settled(value):
                self.new.ready(value)
            found.append(other)
        return found

    def _settled(self, value: str) -> bool:
        """Whether no layer that a value comes from is still to be fitted."""
        stages = self.new.before(value)
        return not any(
            self.new.stage_of[layer.op.index] in stages
            for layer in self.layers
            if layer.op.index not in self.seen
            and self.new.nodes[layer.op.index].input[layer.weight_slot] not in self.fitted
        )

    def _bias_place(self, sharing: list[Layer], outputs: int) -> BiasPlace | None:
        """Where the bias of all these layers is; None where it is not one and the same."""
        places = [bias_place(self.graph, layer, self.new.model, outputs) for layer in sharing]
        first = places[0]
        if first is None or len(places) == 1:
            return first
        alike = all(p and (p.kind, p.name, p.factor) == ("own", first.name, first.factor) for p in places)
        return first if alike else None

    # -- layers that are too large -----------------------------------------------------------------

    def _compensate(
        self, layer: Layer, form: Form, start: Doubles, place: BiasPlace | None, name: str
    ) -> None:
        """What is done for a layer that is too large to be fitted."""
        starts = [start, *self._compensated(layer, form, start)]
        rows = self._some_rows(layer, form)
        best, bias, before, after = best_start(rows, starts, self._bias(place, start), place is not None)
        improved = after < before
        self.made.layers.append(LayerFit(layer.op.name, before, after, RIDGES[-1] if improved else None))
        if not improved:
            return
        weight = self.new.weight(name)
        self.made.before[name] = checksum(weight)
        self.new.set_weight(name, form.weight((starts[best] / form.gain).astype(np.float32), weight.shape))
        self.made.tensors[name] = self.new.weight(name)
        if place is not None:
            self._put(place, bias.reshape(-1), name)

    def _some_rows(self, layer: Layer, form: Form) -> Iterator[tuple[Array, Array]]:
        for k in range(self.count):
            x, y = self.new.values[layer.op.input(layer.data_slot)][k], self.pair.target(layer, k)
            pick = Picks([layer.op.index, k], ROWS // self.count + 1)
            yield form.rows(x, y.shape, pick), form.targets(y, pick)

    def _compensated(self, layer: Layer, form: Form, start: Doubles) -> list[Doubles]:
        """The weights that make up for dropped channels, where there are any."""
        value, units = layer.op.input(layer.data_slot), self.layout.labels.units
        in_axis, out_axis = channel_axes(layer)
        maps, tokens = self.old.values.get(value), self.layout.labels.values.get(value)
        if form.blocks != 1 or maps is None or tokens is None:
            return []
        in_axis %= len(tokens)
        kept, old = self.pair.places_of(value, in_axis), units.values[value][in_axis]
        if kept is None or isinstance(old, int):
            return []
        weight = self.pair.weight_as_it_was(layer)
        original = form.matrix(weight).astype(np.float64) * form.gain
        output = layer.op.outputs[0]
        if layer.op.op_type not in RECURRENT:
            stay = self.pair.places_of(output, out_axis % len(self.layout.labels.values.get(output, [0])))
            original = original if stay is None else original[:, :, stay]
        if original.shape[2] != start.shape[2]:
            return []

        def covariance_of(place: Ids) -> Doubles:
            if (value, in_axis) not in self.covariances:
                self.covariances[value, in_axis] = covariance(maps, in_axis, place)
            return self.covariances[value, in_axis]

        made = compensated(form, start, original, units.classes[old], kept, covariance_of)
        return [] if made is None else [made]

    def _moments(
        self, sharing: list[Layer], own: list[Doubles | None], weight: Array, kept: Rows | None
    ) -> tuple[Moments, Moments]:
        """Second moments of what reaches layers with what they are to put out: to fit on, and to choose on.

        The biases in ``own`` stay as they are: they are taken off. The rows themselves are put into
        ``kept``, if they are few.
        """
        seen, aside = Moments(), Moments()
        for layer, bias in zip(sharing, own, strict=True):
            form = self.pair.form(layer, weight)
            if form is not None:
                self._add_moments(layer, form, bias, len(sharing), (seen, aside), kept)
        seen.settle()
        aside.settle()
        return seen, aside

    def _add_moments(
        self,
        layer: Layer,
        form: Form,
        own: Doubles | None,
        shared: int,
        sums: tuple[Moments, Moments],
        kept: Rows | None,
    ) -> None:
        """Add what reaches one layer: to the first moments, and of every fourth run to the second."""
        met = self.pair.met(layer)
        seen, aside = sums
        limit = 0
        for k in range(self.count):
            x, y = self.pair.input(layer, k), self.pair.target(layer, k)
            pick = Picks([layer.op.index, k])
            if not limit:
                features = form.rows(x, y.shape, first_row).shape[2]
                limit = most_rows(features, form.blocks, self.quick) // (self.count * shared) + 1
            pick.limit = limit
            rows, targets = form.rows(x, y.shape, pick), form.targets(y, pick)
            targets = targets if own is None else targets - own[:, None].astype(np.float32)
            if kept is not None and rows.size * self.count <= MOST_HELD:
                other = None if met is None else form.targets(self.new.values[met.other][k], pick)
                kept.add(rows, targets, other)
            add_feed(k, rows, targets, seen, aside)

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

    def _put(self, place: BiasPlace, bias: Doubles, weight: str, layers: int = 1) -> None:
        """Write the bias of so many layers to its place; what others read, too, becomes the layer's own."""
        stages, node = self.new, self.new.nodes[place.node]
        if place.kind == "new":
            name, array = self._fresh(f"{weight}_bias"), (bias / place.factor).astype(np.float32)
            if self.graph.operators[place.node].op_type in PLAIN_PRODUCTS:
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
            name = name if readers == layers else self._fresh(f"{weight}_bias")
        if name == place.name:
            self.made.before[name] = checksum(stages.weight(name))
        else:
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
