"""The surgery of a plan on a PyTorch checkpoint: merge, gather, scale, add, by the names of its tensors."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.passes.widths.rewidth import TensorPlan
from conet_graph.rewriting.checkpoint_arrays import changed, is_floating, is_tensor, place, size
from conet_graph.rewriting.checkpoint_refit import put
from conet_graph.rewriting.plans import Plan

# What DataParallel, a wrapping module and torch.compile put before the names of a network.
PREFIXES = ("module.", "model.", "_orig_mod.")
# Entries of a state dict that are no parameters: BatchNorm's statistics (torch.nn.BatchNorm2d).
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
# How deep a checkpoint is searched for state dicts and optimizers.
DEPTH = 4


# A plan whose refitted tensors are put in, the mapping, and where to say what could not be.
_Refitting = tuple[Plan, Mapping[str, Any], list[str]]


@dataclass(frozen=True)
class _Step:
    """What happens to one entry of a state dict; ``transpose``: it is stored with its axes reversed."""

    name: str
    plan: TensorPlan
    transpose: bool

    def same_as(self, other: _Step) -> bool:
        """Whether both do the same to the tensor."""
        mine, theirs = self.plan.offset, other.plan.offset
        added = mine is theirs or (mine is not None and theirs is not None and np.array_equal(mine, theirs))
        same = self.transpose == other.transpose and self.plan.merge == other.plan.merge and added
        return same and all(
            a.keys() == b.keys() and all(a[k].tolist() == b[k].tolist() for k in a)
            for a, b in ((self.plan.axes, other.plan.axes), (self.plan.scale, other.plan.scale))
        )


def apply_plan_to_state_dict(
    plan: Plan, state_dict: Mapping[str, Any], mapping: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Repeat a plan's surgery on a state dict: merge, gather, multiply, add, as the plan's tensors say.

    A tensor's name in the ONNX file is its key, with or without the prefixes ``module.``, ``model.`` and
    ``_orig_mod.``. Entries that share memory with a changed one (tied weights) change with it; all others
    stay as they are.

    Args:
        plan: made with weights kept.
        state_dict: name to tensor (PyTorch's or numpy's), shapes as before the rewrite; left as it is.
        mapping: for tensors whose name differs: ONNX name to key; or to ``{"key": ..., "transpose": true}``
            where the checkpoint has the axes in reverse order; or to a list of these (a bias into which the
            exporter folded a BatchNorm: the BatchNorm's vectors); or to None for one it does not hold.

    Raises:
        BadUsage: a tensor has no key or does not fit, or the plan draws fresh weights.

    """
    return _changed_state(state_dict, _steps(plan, state_dict, mapping or {}), (plan, mapping or {}, []))


def apply_plan_to_checkpoint(
    plan: Plan, checkpoint: Any, mapping: Mapping[str, Any] | None = None, left: list[str] | None = None
) -> Any:
    """Repeat a plan's surgery on all that a checkpoint holds: a state dict, or several in a dict.

    Every state dict with all the plan's tensors changes (so an averaged copy does too), and so does the
    state of optimizers: its tensors of a parameter's shape are gathered and nothing else. Factors share a
    weight out among copies that get the same input, and so the same gradient as the one channel had:
    moments of a gradient stay what they were. (The gradient of the copied channels' own weights is shared
    out; Adam's step does not depend on its size, and momentum forgets it within some steps.)

    A plan's refitted tensors take the place of entries that held what the file's tensors held; ``left`` gets
    a sentence about each other one.

    Raises:
        BadUsage: as ``apply_plan_to_state_dict``; or an optimizer's state does not fit the parameters.

    """
    candidates = state_dicts(checkpoint)
    found: dict[int, dict[str, _Step]] = {}
    errors: list[BadUsage] = []
    for candidate in candidates:
        try:
            found[id(candidate)] = _steps(plan, candidate, mapping or {})
        except BadUsage as error:
            errors.append(error)
    if not found:
        # The largest is the network's own; what it lacks is what the user must hear of.
        raise errors[max(range(len(errors)), key=lambda k: len(candidates[k]))]
    main = max((d for d in candidates if id(d) in found), key=lambda d: len(found[id(d)]))
    told: list[str] = [] if left is None else left
    return _rebuilt(checkpoint, found, (main, found[id(main)]), (plan, mapping or {}, told), 0)


def state_dicts(checkpoint: Any) -> list[dict[Any, Any]]:
    """All state dicts that a checkpoint holds.

    Raises:
        BadUsage: it holds none.

    """
    found = [d for d in _dicts(checkpoint) if not _is_optimizer(d) and any(map(is_tensor, d.values()))]
    if not found:
        raise BadUsage("The checkpoint holds no state dict: save model.state_dict(), or a dict with it.")
    return found


def _rebuilt(
    value: Any,
    found: Mapping[int, dict[str, _Step]],
    main: tuple[Mapping[str, Any], dict[str, _Step]],
    refit: _Refitting,
    depth: int,
) -> Any:
    """A copy of nested containers in which state dicts and optimizers are changed."""
    if id(value) in found:
        return _changed_state(value, found[id(value)], refit)
    if _is_optimizer(value):
        return _changed_optimizer(value, *main)
    if depth == DEPTH or (type(value) not in (list, tuple) and not isinstance(value, dict)):
        return value
    if isinstance(value, dict):
        made = copy.copy(value)
        made.update({key: _rebuilt(item, found, main, refit, depth + 1) for key, item in value.items()})
        return made
    return type(value)(_rebuilt(item, found, main, refit, depth + 1) for item in value)


def _dicts(value: Any, depth: int = 0) -> Iterator[dict[Any, Any]]:
    """All dicts of a checkpoint, outermost first; those inside optimizers are left out."""
    if isinstance(value, dict):
        yield value
    if depth < DEPTH and isinstance(value, (dict, list, tuple)) and not _is_optimizer(value):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _dicts(item, depth + 1)


def _is_optimizer(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("state"), dict)
        and isinstance(value.get("param_groups"), list)
        and all(isinstance(group, dict) for group in value["param_groups"])
    )


def _steps(plan: Plan, state: Mapping[str, Any], mapping: Mapping[str, Any]) -> dict[str, _Step]:
    """What happens to each entry of a state dict."""
    if plan.init != "keep":
        raise BadUsage("The plan draws fresh weights, which no checkpoint holds: plan with --init keep.")
    short = _short_names(state)
    steps: dict[str, _Step] = {}
    for name, tensor in plan.tensors.items():
        keys = list(_keys_of(name, tensor.source, state, short, mapping))
        for key, transpose in keys:
            step = _Step(name, _own_part(name, tensor, key, len(keys)), transpose)
            _check_fit(key, state[key], step)
            for alias in _aliases(state, key):
                if not steps.setdefault(alias, step).same_as(step):
                    raise BadUsage(
                        f"Tensors {shown(steps[alias].name)} and {shown(name)} of the plan both change the"
                        f" entry {shown(alias)}, and differently: map one of them to another key."
                    )
    return steps


def _short_names(state: Mapping[str, Any]) -> dict[str, str | None]:
    """The key of each name without prefixes; None where several share it."""
    short: dict[str, str | None] = {}
    for known in state:
        bare = bare_name(str(known))
        short[bare] = None if bare in short else known
    return short


def _own_part(name: str, tensor: TensorPlan, key: str, keys: int) -> TensorPlan:
    """What of a tensor's plan is one key's: of a BatchNorm folded into a bias, its bias takes the offset."""
    if tensor.offset is None or keys == 1 or key.endswith(".bias"):
        return tensor
    return replace(tensor, offset=None)


def bare_name(name: str) -> str:
    """A name without what wrappers put before it."""
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name


def _keys_of(
    name: str,
    source: str,
    state: Mapping[str, Any],
    short: Mapping[str, str | None],
    mapping: Mapping[str, Any],
) -> Iterator[tuple[str, bool]]:
    """The keys of a tensor, and whether each is stored transposed; none where the mapping says null."""
    if name not in mapping and source not in mapping:
        # A copy of a shared vector bears the layer's own name; the file's name for it comes second.
        key = _find(name, state, short) or _find(source, state, short)
        if key is None:
            raise _missing(name, name, state)
        yield key, False
        return
    given = mapping.get(name, mapping.get(source))
    for entry in given if isinstance(given, list) else [] if given is None else [given]:
        wanted = entry.get("key") if isinstance(entry, dict) else entry
        if not isinstance(wanted, str):
            raise BadUsage(
                f"The mapping of {shown(name)} is neither a key nor"
                ' {"key": ..., "transpose": true}, nor a list of these.'
            )
        key = _find(wanted, state, short)
        if key is None:
            raise _missing(name, wanted, state)
        yield key, isinstance(entry, dict) and entry.get("transpose") is True


def _find(wanted: str, state: Mapping[str, Any], short: Mapping[str, str | None]) -> str | None:
    key = wanted if wanted in state else short.get(bare_name(wanted))
    return key if key is not None and is_tensor(state[key]) else None


def _missing(name: str, wanted: str, state: Mapping[str, Any]) -> BadUsage:
    tensors = [str(key) for key, value in state.items() if is_tensor(value)]
    near = ", ".join(shown(k) for k in difflib.get_close_matches(wanted, tensors, 3, cutoff=0.0))
    mapped = "" if wanted == name else f" (mapped to {shown(wanted)})"
    return BadUsage(
        f"The checkpoint has no entry for tensor {shown(name)}{mapped}: the closest are {near};"
        " give its key with --mapping."
    )


def _aliases(state: Mapping[str, Any], key: str) -> list[str]:
    """The keys under which the state dict holds this very tensor."""
    here = place(state[key])
    return [k for k, value in state.items() if is_tensor(value) and place(value) == here]


def _check_fit(key: str, tensor: Any, step: _Step) -> None:
    shape = list(tensor.shape)[:: -1 if step.transpose else 1]
    plan = step.plan
    where = f"Entry {shown(key)} with shape {list(tensor.shape)} does not fit tensor {shown(step.name)}"
    for axis, merges in plan.merge.items():
        places = [place for into, origin, _ in merges for place in (into, origin)]
        if not 0 <= axis < len(shape) or not all(0 <= place < shape[axis] for place in places):
            raise BadUsage(f"{where} of the plan, which adds up slices of axis {axis}.")
    for axis, index in plan.axes.items():
        if not 0 <= axis < len(shape):
            raise BadUsage(f"{where} of the plan, which changes axis {axis}: this is another network's.")
        if index.ndim != 1 or not all(0 <= i < shape[axis] for i in index.tolist()):
            raise BadUsage(
                f"{where} of the plan, which takes positions up to {index.max(initial=0)} of axis {axis}:"
                " this is another network's checkpoint, or its weight is stored transposed (see --mapping)."
            )
        shape[axis] = len(index)
    if plan.offset is not None and [len(plan.offset)] != shape:
        raise BadUsage(f"{where} of the plan, which adds {plan.offset.size} numbers to it.")
    if (plan.offset is not None or plan.merge) and not is_floating(tensor):
        raise BadUsage(f"Entry {shown(key)} holds integers, to which nothing can be added.")
    for axis, factors in plan.scale.items():
        if not 0 <= axis < len(shape) or factors.shape != (shape[axis],):
            raise BadUsage(f"{where} of the plan, which has {factors.size} factors for axis {axis}.")
        if not is_floating(tensor):
            raise BadUsage(f"Entry {shown(key)} holds integers, which cannot be shared out among copies.")


def _applied(tensor: Any, step: _Step, scaled: bool = True) -> Any:
    """Merge, gather, scale, add (``conet_graph.passes.widths.rewidth.apply_plan`` for checkpoints)."""
    plan = step.plan if scaled else replace(step.plan, scale={}, merge={}, offset=None)
    return changed(tensor, plan, step.transpose)


def _changed_state(state: Mapping[str, Any], steps: Mapping[str, _Step], refit: _Refitting) -> dict[str, Any]:
    made: dict[str, Any] = copy.copy(state) if isinstance(state, dict) else dict(state)
    done: dict[tuple[Any, ...], Any] = {}
    for key, step in steps.items():
        here = place(state[key])
        if here not in done:
            done[here] = _applied(state[key], step)
        made[key] = done[here]
    plan, mapping, left = refit
    if plan.refit is not None:
        left += [s for s in put(plan.refit, made, _keys_of_refit(plan, state, mapping)) if s not in left]
    return made


def _keys_of_refit(
    plan: Plan, state: Mapping[str, Any], mapping: Mapping[str, Any]
) -> dict[str, list[tuple[str, bool]]]:
    """The keys of each refitted tensor, where the checkpoint has it."""
    assert plan.refit is not None
    short = _short_names(state)
    found: dict[str, list[tuple[str, bool]]] = {}
    for name in plan.refit.names:
        source = plan.tensors[name].source if name in plan.tensors else name
        try:
            found[name] = list(_keys_of(name, source, state, short, mapping))
        except BadUsage:
            continue  # it is not there: the caller says so
    return found


def _changed_optimizer(
    optimizer: dict[str, Any], state: Mapping[str, Any], steps: Mapping[str, _Step]
) -> dict[str, Any]:
    """An optimizer's state with the moments of changed parameters gathered."""
    made = copy.copy(optimizer)
    names = _parameter_names(optimizer, state)
    made["state"] = {}
    for number, entry in optimizer["state"].items():
        if number not in names:
            raise BadUsage(
                f"The optimizer has a state for parameter {number}, which is in none of its groups."
            )
        key = names[number]
        made["state"][number] = _changed_moments(entry, state[key], steps.get(key), key)
    return made


def _parameter_names(optimizer: Mapping[str, Any], state: Mapping[str, Any]) -> dict[Any, str]:
    """The key of each numbered parameter: as the optimizer names them, else in the state dict's order.

    The order is that of ``module.parameters()``; the moments' shapes are then checked one by one.
    """
    numbers: list[Any] = []
    named: list[str] = []
    for group in optimizer["param_groups"]:
        numbers += group.get("params", [])
        named += group.get("param_names", [])
    places: dict[tuple[Any, ...], str] = {}
    for key, value in state.items():
        if is_tensor(value) and is_floating(value) and not str(key).endswith(BUFFERS):
            places.setdefault(place(value), key)
    bare = {bare_name(str(key)): key for key in state}
    keys = [bare.get(bare_name(name), "") for name in named] or list(places.values())
    if optimizer["state"] and (len(keys) != len(numbers) or "" in keys):
        raise BadUsage(
            f"The optimizer has {len(numbers)} parameters and the state dict {len(places)}: which is which"
            " cannot be told; take the optimizer out of the checkpoint."
        )
    return dict(zip(numbers, keys, strict=False))


def _changed_moments(entry: Any, parameter: Any, step: _Step | None, key: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise BadUsage(f"The optimizer's state of {shown(key)} is no dict: take it out of the checkpoint.")
    made = dict(entry)
    for name, value in entry.items():
        if not is_tensor(value) or (size(value) == 1 and parameter.shape != value.shape):
            continue  # a count of steps
        if value.shape != parameter.shape:
            raise BadUsage(
                f"The optimizer's {shown(str(name))} of {shown(key)} has shape {list(value.shape)}, the"
                f" parameter {list(parameter.shape)}: take the optimizer out of the checkpoint."
            )
        if step is not None:
            made[name] = _applied(value, step, scaled=False)
    return made
