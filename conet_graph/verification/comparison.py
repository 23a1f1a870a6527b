"""The comparison: a rewritten network beside its reference, on the same inputs."""

from __future__ import annotations

import math
from pathlib import Path

from conet_graph.dead_channels.stand_ins import StandIn, SumPlace, stand_ins
from conet_graph.ir.check import MOST_AXES
from conet_graph.ir.errors import ConetGraphError
from conet_graph.ir.graph import Graph
from conet_graph.passes.channels.units import Ids
from conet_graph.rewriting.plans import Plan, copies_of, heard_copies
from conet_graph.verification.gates import gate_layers
from conet_graph.verification.inputs import DRAWS, SIZES, Shapes, batch_is_free
from conet_graph.verification.intermediate import opened_inside, silenced, small_results, watched
from conet_graph.verification.outputs_error import judged_inside, outputs_error
from conet_graph.verification.own_form import compare_own_form
from conet_graph.verification.pair import OURS, ComparedRun, OpenPair, file_session, opened, runs
from conet_graph.verification.proof import Proof, between_images, moved
from conet_graph.verification.random_operators import random_operators
from conet_graph.verification.reference import reference
from conet_graph.verification.report import Report
from conet_graph.verification.runtime import first_line
from conet_graph.verification.tolerance import tolerance

# Elements of a value (1 GB of floats) beyond which a network is not run: a file may claim any size.
LARGEST_VALUE = 2**28


def compare(
    graph: Graph,
    path: Path,
    plan: Plan,
    report: Report,
    temporary: Path,
    shapes: Shapes | None = None,
    *,
    with_error: bool = False,
) -> None:
    """Run both networks and note whether they are equal.

    Args:
        graph: the analysed original.
        path: the rewritten network.
        plan: how the one became the other.
        report: takes what was found.
        temporary: a folder for files.
        shapes: of inputs whose sizes are free, to run with.
        with_error: say, too, how far the outputs are from those of the original with all its channels.

    """
    copies = copies_of(graph, plan)
    made = reference(graph, heard_copies(graph, plan))
    fresh = ["fresh weights"] if plan.init != "keep" else []
    apart = [f"{op} tells copies of a channel apart" for op in made.unequal_because]
    why_not = fresh or random_operators(graph) or apart
    gates = [] if why_not else gate_layers(graph)
    judged = judged_inside(graph, made.model) if with_error else []
    pair = opened(
        graph, made, path, report, temporary, watched(graph, copies, small_results(graph, gates), judged)
    )
    if pair is None:
        return
    pair.shapes = shapes or {}
    report.tolerance = tolerance(graph)
    if _largest(graph) > LARGEST_VALUE:
        report.runs.append(
            {"skipped": f"a value of the network has {_largest(graph)} elements: too many to run"}
        )
        return
    proof = Proof(graph, report, {layer.op.index for layer in gates}, compares=not why_not)
    first = _first_runs(pair, proof, temporary)
    if first is None:
        return
    if with_error:
        report.outputs_error = outputs_error(graph, pair, made.undone, first)
    if not made.is_the_file:
        compare_own_form(graph, first, report, temporary)
    if why_not:
        report.equality = "not checked: " + ", ".join(why_not)
        return
    _more_runs(pair, proof, first)
    if proof.report.ok and proof.missing():
        _look_inside(graph, plan, pair, proof)
    proof.conclude()


def _largest(graph: Graph) -> int:
    """Elements of the largest value, free sizes taken as those of the first run."""
    free = [1, *[SIZES[0]] * MOST_AXES]
    sizes = (
        [d if isinstance(d, int) else f for d, f in zip(s, free, strict=False)] for s in graph.shapes.values()
    )
    return max((math.prod(s) for s in sizes), default=0)


def _first_runs(pair: OpenPair, proof: Proof, temporary: Path) -> ComparedRun | None:
    """Run for one image, and for two where the file takes them; the last run, None where none went well."""
    last: ComparedRun | None = None
    for batch in (1, 2) if batch_is_free(pair.reference) else (1,):
        run = pair.run_reference(batch)
        if isinstance(run, str):
            session = file_session(proof.graph, temporary)
            if session is not None and runs(session, batch):
                proof.report.fail(f"the original with channels silenced does not run ({OURS}): {run}")
            proof.report.runs.append({"skipped": f"ONNX Runtime does not run the original: {run}"})
            continue
        proof.look(pair, run)
        if not proof.report.ok:
            return None
        proof.report.runs.append({"inputs": {k: list(v.shape) for k, v in run.feeds.items()}})
        proof.accept(run, between_images(run, batch))
        last = run
    return last


def _look_inside(graph: Graph, plan: Plan, pair: OpenPair, proof: Proof) -> None:
    """Compare what unproven layers give, as many at a time as there is room for.

    With noise in it, what was found dead may come to life in the original. It is silenced there first, which
    changes nothing. Where it left something behind in other weights, values are compared without noise, so
    that these are seen as they are; then what was left behind stands for the channel, whatever it holds.
    """
    copies, instead = copies_of(graph, plan), dict[SumPlace, StandIn]()
    try:
        if any(t.merge or t.offset is not None for t in plan.tensors.values()):
            _look_at_layers(graph, copies, pair, proof, noisy=False)
            found = stand_ins(graph, copies, plan.tensors)
            if found is None:
                return
            instead = found
        if any(group.dead for group in plan.groups):
            pair = silenced(graph, copies, pair, instead)
        _look_at_layers(graph, copies, pair, proof, noisy=True)
    except ConetGraphError:
        raise
    except Exception as error:  # a file may lie about the types of values: then they are not given out
        proof.report.runs.append({"skipped": f"ONNX Runtime gives out no values inside: {first_line(error)}"})


def _look_at_layers(graph: Graph, copies: Ids, pair: OpenPair, proof: Proof, *, noisy: bool) -> None:
    tried: set[int] = set()
    while proof.report.ok and (left := [x for x in proof.missing() if x.op.index not in tried]):
        inside = opened_inside(graph, copies, pair, left, noisy=noisy)
        seen = {x.op.index for x in left if inside.left.keys() & set(x.op.outputs)}
        proof.alone |= seen
        _more_runs(inside, proof, None, seen)
        if seen <= tried:
            return
        tried |= seen


def _more_runs(
    pair: OpenPair, proof: Proof, first: ComparedRun | None, wanted: set[int] | None = None
) -> None:
    """Run on other kinds of inputs while the values that were compared leave layers unproven.

    An output that moved between two runs of the reference is alive in both. ``wanted`` holds the numbers of
    the operators that it is about, all if not given.
    """

    def missing() -> bool:
        return any(wanted is None or layer.op.index in wanted for layer in proof.missing())

    for draw in range(len(DRAWS)):
        if not proof.report.ok or not missing():
            return
        run = pair.run_reference(1 if first is None else first.batch, range(draw, draw + 1))
        if isinstance(run, str):
            continue
        if first is None:
            first = run
            proof.look(pair, first)
            continue
        proof.accept(first, moved(first, run))
        if missing():
            proof.look(pair, run)
            proof.accept(run, moved(run, first))
