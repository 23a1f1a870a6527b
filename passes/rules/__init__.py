"""The channel rules: one file an operator family, gathered here in one table."""

from __future__ import annotations

from conet_graph.ir.errors import ConetGraphError, shown
from conet_graph.ir.graph import Operator
from conet_graph.ir.op_table import gathered
from conet_graph.passes.channels.units import NoRule, Tracker
from conet_graph.passes.rules import (
    attention,
    concat_split,
    conv,
    elementwise,
    grow,
    lookup,
    matmul,
    normalize,
    pool,
    quantize,
    recurrent,
    reduce,
    reshape,
    resize,
    slices,
    spectrum,
    transpose,
)
from conet_graph.passes.rules.faults import why_it_failed
from conet_graph.passes.rules.held import hold_unread
from conet_graph.passes.rules.registry import Rule

RULES = gathered(
    family.RULES
    for family in (
        attention,
        concat_split,
        conv,
        elementwise,
        grow,
        lookup,
        matmul,
        normalize,
        pool,
        quantize,
        recurrent,
        reduce,
        reshape,
        resize,
        slices,
        spectrum,
        transpose,
    )
)


def apply_rule(tracker: Tracker, op: Operator) -> None:
    """Describe one operator; what cannot be described freezes what it touches and says why."""
    rule = RULES.get((op.domain, op.op_type))
    kind = f"{op.domain}::{op.op_type}" if op.domain else op.op_type
    why = tracker.given_up(op)
    if why is None:
        why = _describe(tracker, op, rule)
    if why is not None:
        reason = f"operator {kind} (node {shown(op.name)}): {why}"
        freeze_all(tracker, op, reason)
        tracker.not_understood(op, why, reason)


def _describe(tracker: Tracker, op: Operator, rule: Rule | None) -> str | None:
    """Apply a rule; returns why it cannot be, None when it could."""
    if rule is None:  # no operator with a rule runs one
        return "it runs a sub-graph" if op.subgraphs() else "it has no channel rule"
    tracker.read.clear()
    try:
        rule(tracker, op)
        hold_unread(tracker, op)
    except NoRule as refusal:
        return str(refusal)
    except ConetGraphError:
        raise
    except Exception as error:
        return why_it_failed(tracker, op, error)
    return None


def freeze_all(tracker: Tracker, op: Operator, reason: str) -> None:
    """Freeze every axis an operator touches."""
    stop = tracker.frozen(reason)
    for value in op.inputs:
        if tracker.is_constant(value) or value in tracker.values:
            for axis in range(tracker.rank(value)):
                tracker.stop(op, value, axis, stop)
    for k, value in enumerate(op.outputs):
        shape = tracker.graph.shape(value) if value else None
        if shape is not None:
            tracker.set(op, k, [stop] * len(shape))
