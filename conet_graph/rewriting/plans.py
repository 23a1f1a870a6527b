"""A plan: which channels go where, tensor by tensor (format ``conet-graph.plan/1``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.tie_channels import CHANNELS, Channels, Group, in_axis, out_axis
from conet_graph.passes.widths.relabel import COPIES, old_positions
from conet_graph.passes.widths.rewidth import Layout, TensorPlan
from conet_graph.rewriting.refits import Refit

FORMAT = "conet-graph.plan/1"
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class GroupPlan:
    """One group's channels: for each new channel, the old one (of this group) it comes from.

    ``dead`` are the old ones that go without a change of the network's outputs.
    """

    id: str
    old_width: int
    new_width: int
    channels: list[int]
    dead: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class KeptGroup:
    """A group that was to change and stays as it is, because its widths cannot be had."""

    id: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Everything needed to repeat a rewrite: on the ONNX file, or on a checkpoint.

    ``source`` is the model that it was just made for, ``graph`` that model solved; a plan that was read has
    the model's SHA-256 alone.
    """

    source: str | LoadedModel = field(repr=False, compare=False)
    init: str
    exact: bool
    inexact_because: list[str]
    groups: list[GroupPlan]
    tensors: dict[str, TensorPlan] = field(default_factory=dict)
    seed: int = 0
    kept: list[KeptGroup] = field(default_factory=list)
    free_kept: bool = False
    refit: Refit | None = None
    graph: Graph | None = field(default=None, repr=False, compare=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of the model that it was made for, read once it is asked for.

        Raises:
            InvalidModel: the file has changed since.

        """
        return self.source if isinstance(self.source, str) else self.source.sha256

    def to_json(self, tensors: str | None = None) -> dict[str, Any]:
        """The plan as plain data; ``tensors`` is the name of the file that holds refitted ones."""
        refit = {} if self.refit is None else {"refit": self.refit.to_json(tensors)}
        return {
            "format": FORMAT,
            "source": {"sha256": self.sha256},
            "init": self.init,
            "seed": self.seed,
            "free_kept": self.free_kept,
            "exact": self.exact,
            "inexact_because": self.inexact_because,
            "groups": [
                {
                    "id": g.id,
                    "old_width": g.old_width,
                    "new_width": g.new_width,
                    "channels": g.channels,
                    **({"dead": g.dead} if g.dead else {}),
                }
                for g in self.groups
            ],
            "kept": [{"id": k.id, "reason": k.reason} for k in self.kept],
            "tensors": {name: _tensor_json(tensor) for name, tensor in self.tensors.items()},
            **refit,
        }

    @property
    def lossless(self) -> bool:
        """Whether the rewritten network's outputs are the original's own."""
        return (
            self.init == "keep"
            and self.exact
            and all(
                g.new_width >= g.old_width or len(g.dead) == g.old_width - g.new_width for g in self.groups
            )
        )

    def dumps(self, tensors: str | None = None) -> str:
        """The plan as JSON text; refitted tensors are named in it, and lie in the file ``tensors``."""
        return json.dumps(self.to_json(tensors)) + "\n"

    @staticmethod
    def loads(text: str) -> Plan:
        """Read a plan.

        Raises:
            BadUsage: the text is not a plan of a version that is understood.

        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise BadUsage("The plan is not JSON: pass the file that 'rewrite --plan' wrote.") from None
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise BadUsage(f"The plan has the format {shown(str(found))}, not '{FORMAT}'.")
        try:
            return Plan(
                source=str(data["source"]["sha256"]),
                init=str(data["init"]),
                exact=bool(data["exact"]),
                inexact_because=[str(r) for r in data["inexact_because"]],
                groups=[
                    GroupPlan(
                        str(g["id"]),
                        int(g["old_width"]),
                        int(g["new_width"]),
                        [int(c) for c in g["channels"]],
                        [int(c) for c in g.get("dead", [])],
                    )
                    for g in data["groups"]
                ],
                tensors={str(name): _tensor_from(t) for name, t in data["tensors"].items()},
                seed=int(data.get("seed", 0)),
                kept=[KeptGroup(str(k["id"]), str(k["reason"])) for k in data.get("kept", [])],
                free_kept=bool(data.get("free_kept", False)),
                refit=Refit.from_json(data["refit"]) if "refit" in data else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BadUsage(f"The plan is damaged near {shown(str(error))}: write it again.") from None


def _tensor_json(tensor: TensorPlan) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "source": tensor.source,
        "axes": {str(axis): index.tolist() for axis, index in tensor.axes.items()},
    }
    if tensor.scale:
        entry["scale"] = {str(axis): factors.tolist() for axis, factors in tensor.scale.items()}
    if tensor.merge:
        entry["merge"] = {str(axis): [list(m) for m in merges] for axis, merges in tensor.merge.items()}
    if tensor.offset is not None:
        entry["offset"] = tensor.offset.tolist()
    return entry


def _tensor_from(entry: Mapping[str, Any]) -> TensorPlan:
    return TensorPlan(
        str(entry["source"]),
        {int(axis): np.array(index, np.int64) for axis, index in entry["axes"].items()},
        {int(axis): np.array(f, np.float64) for axis, f in entry.get("scale", {}).items()},
        {
            int(axis): [(int(into), int(origin), float(factor)) for into, origin, factor in merges]
            for axis, merges in entry.get("merge", {}).items()
        },
        np.array(entry["offset"], np.float64) if "offset" in entry else None,
    )


def make_plan(graph: Graph, layout: Layout, init: str, seed: int = 0, kept: Sequence[KeptGroup] = ()) -> Plan:
    """The plan of a layout; groups that keep all their channels are left out.

    Args:
        graph: the analysed original.
        layout: its new layout.
        init: what becomes of the weights.
        seed: of fresh weights.
        kept: groups that were to change, and why they do not.

    """
    channels = graph.result(CHANNELS)
    copies = layout.labels.copies
    groups: list[GroupPlan] = []
    for number, group in enumerate(channels.groups):
        if not group.free or (copies[group.classes] == 1).all():
            continue
        classes = _group_axis(channels, number)
        old_width, new = _group_positions(channels, layout, number, classes)
        dead = _dead(channels, layout, number, classes)
        groups.append(GroupPlan(group.id, old_width, len(new), new, dead))
    return Plan(
        graph.loaded,
        init,
        not layout.inexact,
        layout.inexact,
        groups,
        layout.tensors,
        seed,
        list(kept),
        channels.units.free_kept,
        graph=graph,
    )


def _group_axis(channels: Channels, number: int) -> Ids:
    """The classes on the axis on which a group's channels are counted."""
    group = channels.groups[number]
    side = 1 if group.producers else 0
    layers = group.producers or group.consumers or channels.units.graph.result(LAYERS)
    for layer in layers:
        classes = channels.layer_axes[layer.op.index][side]
        if classes is None:
            classes = channels.layer_axes[layer.op.index][1]
        if classes is None:
            continue
        if np.count_nonzero(channels.group_of_class[classes] == number) == group.width:
            return classes
    return np.repeat(group.classes, group.multiple)


def _group_positions(channels: Channels, layout: Layout, number: int, classes: Ids) -> tuple[int, list[int]]:
    """How many channels a group had, and for each new one the old one, numbered inside the group.

    ``classes`` are those on the axis on which they are counted.
    """
    labels = _labels_like(layout, channels.groups[number], classes)
    mine = channels.group_of_class[classes] == number
    local = np.cumsum(mine) - 1
    kept = channels.group_of_class[labels // COPIES] == number
    return int(np.count_nonzero(mine)), local[old_positions(classes, labels)[kept]].tolist()


def _dead(channels: Channels, layout: Layout, number: int, classes: Ids) -> list[int]:
    """The channels of a group, numbered inside it, that go without a change of the outputs."""
    if layout.lossless is None:
        return []
    mine = classes[channels.group_of_class[classes] == number]
    return np.flatnonzero(layout.lossless[mine]).tolist()


def _labels_like(layout: Layout, group: Group, classes: Ids) -> Ids:
    """The new labels of an axis of these classes: a layer's own, if one of the group has such an axis."""
    pick = out_axis if group.producers else in_axis
    for layer in group.producers or group.consumers:
        axis, old = pick(layout.labels, layer), pick(layout.labels.units, layer)
        if isinstance(axis, int) or isinstance(old, int):
            continue
        if np.array_equal(layout.labels.units.classes[old], classes):
            return layout.labels.labels(axis)
    return layout.labels.default_layout(classes)


def copies_of(graph: Graph, plan: Plan) -> Ids:
    """How often each class of channels appears in the network that a plan describes.

    Raises:
        BadUsage: the plan does not fit the network.

    """
    return _read(graph, plan)[0]


def heard_copies(graph: Graph, plan: Plan) -> Ids:
    """The same with the channels that go without loss still there: what the new network must equal."""
    copies, dead = _read(graph, plan)
    copies[dead] = np.maximum(copies[dead], 1)
    return copies


def _read(graph: Graph, plan: Plan) -> tuple[Ids, list[int]]:
    """The copies of each class, and the classes that go without loss."""
    channels = graph.result(CHANNELS)
    dead: list[int] = []
    free = {group.id: number for number, group in enumerate(channels.groups) if group.free}
    copies = np.ones(len(channels.units.frozen_class), np.int64)
    for entry in plan.groups:
        number = free.get(entry.id)
        if number is None or channels.groups[number].width != entry.old_width:
            raise BadUsage(f"The plan's group {shown(entry.id)} is not a free group of this model.")
        axis = _group_axis(channels, number)
        classes = axis[channels.group_of_class[axis] == number]
        if any(not 0 <= c < len(classes) for c in [*entry.channels, *entry.dead]):
            raise BadUsage(f"The plan's group {shown(entry.id)} names channels that it does not have.")
        times = np.bincount(entry.channels, minlength=len(classes))
        mine = channels.groups[number].classes
        copies[mine] = 0
        np.maximum.at(copies, classes, times)
        dead += classes[entry.dead].tolist()
    return copies, dead
