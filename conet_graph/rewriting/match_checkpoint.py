"""Which entries of a checkpoint the tensors of an ONNX file were made from, by their values.

An exporter that folds BatchNorm gives a convolution new weights and a new bias, under names of its own. Row
by row the new weight is the old one times gamma / sqrt(variance + epsilon), and the new bias
beta - mean * gamma / sqrt(variance + epsilon): both are looked for among the checkpoint's tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.analysis.layers import layers_of, root_constant
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.graph import Graph
from conet_graph.ir.operators import CONVOLUTIONS, PRODUCTS, WEIGHTED, summed_axis
from conet_graph.passes.classify_edges import Layer
from conet_graph.passes.widths.rewidth import apply_plan
from conet_graph.rewriting.checkpoint import apply_plan_to_state_dict, bare_name
from conet_graph.rewriting.checkpoint_arrays import is_floating, is_tensor, numbers
from conet_graph.rewriting.plans import Plan

Values = NDArray[np.float64]

# Epsilons of BatchNorm in use: PyTorch's, TensorFlow's, EfficientNet's, MobileNetV3's, none.
EPSILONS = (1e-5, 1e-3, 1e-4, 1e-6, 1e-2, 0.0)
# What float32 leaves of equal numbers that were computed in two ways.
CLOSE = 1e-3
NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Norm:
    """A BatchNorm of the checkpoint: gamma, beta, mean and variance [C]."""

    prefix: str
    gamma: Values
    beta: Values
    mean: Values
    variance: Values

    @property
    def keys(self) -> list[str]:
        """The entries of the four."""
        return [f"{self.prefix}.{part}" for part in NORM]

    def factors(self) -> Iterator[Values]:
        """What it multiplies by, for each epsilon that may be its own."""
        for epsilon in EPSILONS:
            yield self.gamma / np.sqrt(np.maximum(self.variance + epsilon, 1e-30))


@dataclass
class Match:
    """The mapping that was found, as ``apply_plan_to_state_dict`` takes it.

    ``by_order`` names tensors that several entries would explain alike; the first in the checkpoint's order
    that none of the earlier layers took is theirs. ``left`` names BatchNorms that no layer explains.
    """

    mapping: dict[str, Any] = field(default_factory=dict)
    by_order: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def match_checkpoint(
    plan: Plan, graph: Graph, state: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> Match:
    """Find what each tensor of a plan is in a state dict.

    Args:
        plan: made for the network.
        graph: the network before the rewrite, analysed.
        state: the checkpoint's tensors by name, those the network was exported from.
        given: what is known, as a mapping; it is left as it is.

    Raises:
        BadUsage: nothing fits a tensor, or what was found does not give the rewritten network's weights.

    """
    matcher = _Matcher(plan, graph, state, dict(given or {}))
    for layer in layers_of(graph):
        if layer.op.op_type in CONVOLUTIONS or layer.op.op_type in PRODUCTS:
            matcher.match_layer(layer)
    matcher.match_others()
    matcher.check()
    matcher.found.left = [n.prefix for n in matcher.norms if n.keys[0] not in matcher.taken]
    return matcher.found


class _Matcher:
    """Goes through the layers in the order in which they run, and takes each entry once."""

    def __init__(self, plan: Plan, graph: Graph, state: Mapping[str, Any], given: dict[str, Any]) -> None:
        self.plan, self.graph, self.given = plan, graph, given
        self.state = {str(k): v for k, v in state.items() if is_tensor(v) and is_floating(v)}
        self.order = {key: number for number, key in enumerate(self.state)}
        # The order in which modules were made; safetensors files are sorted instead, which says nothing.
        self.is_ordered = not _sorted(self.state)
        self.values: dict[str, Values] = {}
        self.found = Match(dict(given))
        self.taken: set[str] = set()
        # A norm that the file has by name was not folded.
        names = {bare_name(c.source) for c in graph.constants.values()}
        self.norms = [n for n in self._norms() if bare_name(f"{n.prefix}.running_var") not in names]
        # Weights found unchanged where order does not tell whether a norm that does nothing follows.
        self.open: list[tuple[str, str, Values | None]] = []
        self.folded: list[tuple[Layer, str, bool, Norm, str | None]] = []

    def value(self, key: str) -> Values:
        """An entry's numbers."""
        if key not in self.values:
            self.values[key] = numbers(self.state[key])
        return self.values[key]

    def _norms(self) -> Iterator[Norm]:
        for key in self.state:
            prefix, _, last = key.rpartition(".")
            if last == "running_var" and all(f"{prefix}.{part}" in self.state for part in NORM):
                yield Norm(prefix, *(self.value(f"{prefix}.{part}") for part in NORM))

    # -- layers ------------------------------------------------------------------------------------

    def match_layer(self, layer: Layer) -> None:
        """Find a layer's weight, and its bias with whatever was folded into it."""
        weight = root_constant(self.graph, layer.op.input(layer.weight_slot))
        slot = WEIGHTED[layer.op.op_type].bias
        bias = layer.op.input(slot) if slot is not None else ""
        bias = bias if bias in self.graph.constants else ""
        if weight not in self.graph.constants or not self.graph.constants[weight].is_float:
            return
        wanted = np.asarray(self.graph.array(weight), np.float64)
        goal = np.asarray(self.graph.array(bias), np.float64).reshape(-1) if bias else None
        fits = list(self._fits(layer, weight, wanted, goal))
        if not fits:
            return
        fits.sort(key=lambda fit: fit.rank)
        best = fits[0]
        if best.norm is None and not self.is_ordered:
            self.open.append((weight, best.key, goal))
        ties = {f.key for f in fits if f.rank[:-2] == best.rank[:-2]}
        norms = {f.norm.prefix for f in fits if f.key == best.key and f.norm and f.rank[:2] == best.rank[:2]}
        if len(ties) > 1 or len(norms) > 1:
            self.found.by_order.append(weight)
        self._take(weight, best.key, {"key": best.key, "transpose": True} if best.transpose else best.key)
        own_bias = self._sibling(best.key)
        if best.norm is not None:
            self.taken.update(best.norm.keys)
            parts = [*best.norm.keys, *([own_bias] if own_bias else [])]
            self.folded.append((layer, best.key, best.transpose, best.norm, own_bias))
            if bias:
                self._take(bias, best.norm.keys[1], parts)
        elif bias and own_bias and goal is not None and _equal(self.value(own_bias), goal):
            self._take(bias, own_bias, own_bias)

    def _fits(self, layer: Layer, weight: str, wanted: Values, goal: Values | None) -> Iterator[_Fit]:
        rows = _rows(layer, wanted)
        named = {bare_name(weight), bare_name(self.graph.constants[weight].source)}
        for key, transpose in self._shaped(layer, wanted):
            value = self.value(key)
            have = value.reshape(len(rows), -1) if transpose else _rows(layer, value)
            squares = np.einsum("ij,ij->i", have, have)
            factor = np.einsum("ij,ij->i", rows, have) / np.where(squares > 0, squares, 1.0)
            rest = np.abs(rows - factor[:, None] * have).max(initial=0.0)
            if rest > CLOSE * max(float(np.abs(rows).max(initial=0.0)), 1e-30):
                continue
            is_named = bare_name(key) in named
            exact = _equal(np.where(squares > 0, factor, 1.0), np.ones_like(factor))
            for norm in self._explaining(key, factor, squares > 0, goal):
                apart = self._between(key, norm)
                if exact and apart and not is_named:
                    continue  # a norm that does nothing explains every layer: it must be the next
                yield _Fit(
                    key, transpose, norm, (not is_named, key in self.taken, apart, *self._distance(key, norm))
                )
            if exact:
                yield _Fit(key, transpose, None, (not is_named, key in self.taken, 1, 0, self.order[key]))

    def _shaped(self, layer: Layer, wanted: Values) -> Iterator[tuple[str, bool]]:
        """Entries of the weight's shape; of a matrix also those that are stored the other way round."""
        for key, tensor in self.state.items():
            shape = tuple(tensor.shape)
            if shape == wanted.shape and wanted.ndim > 1:
                yield key, False
            if shape == wanted.shape[::-1] and wanted.ndim == 2 and _has_inputs_first(layer):
                yield key, True

    def _explaining(
        self, key: str, factor: Values, sure: NDArray[np.bool_], goal: Values | None
    ) -> Iterator[Norm]:
        """Norms that multiply by these factors and leave this bias."""
        own = self._sibling(key)
        before = self.value(own) if own else np.zeros_like(factor)
        for norm in self.norms:
            if norm.gamma.shape != factor.shape or norm.keys[0] in self.taken:
                continue
            for scale in norm.factors():
                if not _equal(scale[sure], factor[sure]):
                    continue
                if goal is None or _equal(norm.beta + (before - norm.mean) * scale, goal):
                    yield norm
                    break

    def _width(self, key: str, goal: Values | None) -> int:
        return len(self.value(key)) if goal is None else len(goal)

    def _sibling(self, key: str) -> str | None:
        """The bias of a weight."""
        prefix, dot, last = key.rpartition(".")
        bias = f"{prefix}{dot}bias"
        return bias if last == "weight" and bias in self.state else None

    def _between(self, key: str, norm: Norm) -> int:
        """How many other weights stand between a weight and a norm behind it; many if it stands before.

        Where the order says nothing: none if their names belong together.
        """
        if not self.is_ordered:
            return 0 if _belong(key.rpartition(".")[0], norm.prefix) else len(self.order)
        begin, end = self.order[key], self.order[norm.keys[0]]
        if end < begin:
            return len(self.order)
        keys = list(self.order)[begin + 1 : end]
        return sum(self.state[k].ndim > 1 for k in keys)

    def _distance(self, key: str, norm: Norm) -> tuple[int, int]:
        return abs(self.order[norm.keys[0]] - self.order[key]), self.order[key]

    def _take(self, name: str, key: str, entry: Any) -> None:
        self.taken.add(key)
        if isinstance(entry, list):
            self.taken.update(entry)
        if name in self.plan.tensors and name not in self.given:
            self.found.mapping[name] = entry

    # -- the rest ----------------------------------------------------------------------------------

    def match_others(self) -> None:
        """Tensors of no layer, or not found so far: by name, else by equal numbers."""
        bare = {bare_name(key) for key in self.state}
        for name, tensor in self.plan.tensors.items():
            known = name in self.found.mapping or tensor.source in self.given
            if known or bare_name(name) in bare or bare_name(tensor.source) in bare:
                continue
            wanted = np.asarray(self.graph.array(name), np.float64)
            equal = [
                key
                for key, value in self.state.items()
                if tuple(s for s in value.shape if s > 1) == tuple(s for s in wanted.shape if s > 1)
                and _equal(self.value(key).reshape(-1), wanted.reshape(-1))
            ]
            equal.sort(key=lambda key: (key in self.taken, self.order[key]))
            if not equal:
                raise BadUsage(
                    f"No entry of the checkpoint has the values of tensor {shown(name)} {list(wanted.shape)}:"
                    " give its key with --mapping."
                )
            if len(equal) > 1 and wanted.min() == wanted.max():
                raise BadUsage(
                    f"All numbers of tensor {shown(name)} are alike, as in {len(equal)} entries of the"
                    " checkpoint, and neither names nor order tell which is its own: use --mapping."
                )
            if len(equal) > 1:
                self.found.by_order.append(name)
            self._take(name, equal[0], equal[0])

    # -- the check ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Fold the changed checkpoint again: it must give the weights of the rewritten network.

        Raises:
            BadUsage: it gives others.

        """
        for name, key, goal in self.open:
            one = np.ones(self._width(key, goal))
            norm = next(self._explaining(key, one, one > 0, goal), None)
            if norm is not None and name not in self.given:
                raise BadUsage(
                    f"Whether BatchNorm {shown(norm.prefix)}, which changes nothing, follows {shown(key)}"
                    f" cannot be told: say by --mapping what tensor {shown(name)} and its bias are, or use a"
                    " .pt file."
                )
        made = apply_plan_to_state_dict(self.plan, self.state, self.found.mapping)
        for layer, key, transpose, norm, _ in self.folded:
            weight = root_constant(self.graph, layer.op.input(layer.weight_slot))
            planned = self.plan.tensors.get(weight or "")
            if planned is None or weight is None or weight in self.given:
                continue
            wanted = _rows(layer, np.asarray(apply_plan(self.graph.array(weight), planned), np.float64))
            value = numbers(made[key])
            have = value.reshape(len(wanted), -1) if transpose else _rows(layer, value)
            gamma, variance = (numbers(made[norm.keys[k]]) for k in (0, 3))
            new = Norm(norm.prefix, gamma, gamma, gamma, variance)
            fits = len(gamma) == len(have) and any(
                _equal((have * scale[:, None]).reshape(-1), wanted.reshape(-1)) for scale in new.factors()
            )
            if not fits:
                raise BadUsage(
                    f"Several entries of the checkpoint have the values of tensor {shown(weight)}, and which"
                    " is its own cannot be told: give its key with --mapping."
                )


@dataclass(frozen=True)
class _Fit:
    """A way to explain a layer's weight; the least ``rank`` is the best."""

    key: str
    transpose: bool
    norm: Norm | None
    rank: tuple[int, ...]


def _sorted(state: Mapping[str, Any]) -> bool:
    """Whether the names of each element type are in alphabetical order."""
    last: dict[str, str] = {}
    for key, value in state.items():
        kind = str(value.dtype)
        if key < last.get(kind, ""):
            return False
        last[kind] = key
    return True


def _belong(layer: str, norm: str) -> bool:
    """Whether a BatchNorm is called as the one behind a layer.

    >>> _belong("layer1.0.conv2", "layer1.0.bn2"), _belong("stem.0", "stem.1"), _belong("conv1", "bn2")
    (True, True, False)
    """
    (parent, _, one), (other, _, two) = layer.rpartition("."), norm.rpartition(".")
    if parent != other:
        return False
    if one.isdecimal() and two.isdecimal():
        return int(two) == int(one) + 1
    (word, number), (norm_word, norm_number) = (_split(name) for name in (one, two))
    return word != norm_word and number == norm_number


def _split(name: str) -> tuple[str, str]:
    """A name and the number at its end."""
    word = name.rstrip("0123456789")
    return word, name[len(word) :]


def _has_inputs_first(layer: Layer) -> bool:
    """Whether the matrix of a product lies the other way than PyTorch's [out, in]."""
    return layer.op.op_type in PRODUCTS and summed_axis(layer.op, layer.weight_slot, 2) == 0


def _rows(layer: Layer, weight: Values) -> Values:
    """A weight as a row for each output channel."""
    op = layer.op
    if op.op_type in CONVOLUTIONS and CONVOLUTIONS[op.op_type].transposed:
        groups = int(op.attr("group", 1))
        parts = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return parts.transpose(0, 2, 1, 3).reshape(groups * weight.shape[1], -1)
    if _has_inputs_first(layer):
        return weight.reshape(-1, weight.shape[-1]).T
    return weight.reshape(len(weight), -1)


def _equal(a: Values, b: Values) -> bool:
    """Whether two arrays are equal but for rounding."""
    if a.shape != b.shape:
        return False
    top = max(float(np.abs(b).max(initial=0.0)), 1e-6)
    return bool((np.abs(a - b) <= CLOSE * (0.1 * top + np.abs(b))).all())
