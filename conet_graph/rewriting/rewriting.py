"""Plan, rewrite and verify in one place: what the command line and the Python API both call."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from conet_graph.analysis.analysis import Analysis, solved
from conet_graph.dead_channels.leave import keep_the_function
from conet_graph.ir.errors import BadUsage, Refused
from conet_graph.ir.forked import doing
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.ir.save import has_external, save_model
from conet_graph.passes.channels.distinct import distinct
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.fresh import Fresh
from conet_graph.passes.widths.relabel import CannotHave
from conet_graph.passes.widths.rewidth import Layout, lay_out, rewrite_model
from conet_graph.rewriting.named_widths import asked_counts
from conet_graph.rewriting.plans import KeptGroup, Plan, copies_of, make_plan
from conet_graph.rewriting.refits import differences
from conet_graph.rewriting.targets import WidthRequest, choose_copies

if TYPE_CHECKING:
    from conet_graph.verification.report import Report

# What becomes of the weights, and how fresh ones are drawn.
DRAWS = {"fresh": "default", "fresh-kaiming": "kaiming"}
INITS = ("keep", *DRAWS)


def plan(
    model: LoadedModel | Analysis,
    *,
    init: str = "keep",
    noise: bool = False,
    seed: int = 0,
    free_kept: bool = False,
    calibrate: str | Path | Mapping[str, NDArray[Any]] | None = None,
    samples: int = 256,
    **request: Any,
) -> Plan:
    """Plan new widths for a model.

    Args:
        model: the original, or what ``analyze`` found out about it.
        init: 'keep' the weights, or draw 'fresh' ones as PyTorch does ('fresh-kaiming': as He et al. 2015).
        noise: share a copied channel's outgoing weights out unequally, so that copies can grow apart.
        seed: of fresh weights, of noise, of random rankings and of the draw of calibration inputs.
        calibrate: unlabelled inputs by which a narrowed network keeps its function: a file or folder as
            ``rewrite --calibrate`` takes them, or an array [samples, ...] for each input by its name.
        samples: how many of them are used.
        free_kept: free the groups that are kept by default: those that a Softmax, ArgMax or TopK selects
            among, and those that no layer produces.
        request: fields of ``WidthRequest``: scale, widths, params, macs, multiple_of, ...

    Raises:
        InvalidModel, BadUsage, Refused: as loading and planning find.

    """
    graph = solved(model, free_kept)
    _ = graph.loaded.sha256  # now: whoever has the plan may write over the file
    if calibrate is None:
        wanted = WidthRequest(seed=seed, **request)
        return plan_for(graph, wanted, init, noise, lambda asked: choose_copies(graph, asked))[0]
    if init != "keep":
        raise BadUsage("Calibration keeps what the weights have learnt: leave out init='fresh'.")
    from conet_graph.calibration.inputs import calibration_of, open_calibration
    from conet_graph.calibration.narrowing import choose, refitted

    if isinstance(calibrate, (str, Path)):
        data = open_calibration(str(calibrate), graph, samples, seed)
    else:
        data = calibration_of(calibrate, graph, samples, seed)
    wanted = WidthRequest(seed=seed, **{"importance": "best", **request})
    made, layout = plan_for(graph, wanted, init, noise, lambda asked: choose(graph, asked, data).copies)
    if not (layout.labels.copies == 0).any():
        return made
    return replace(made, refit=refitted(graph, layout, rewritten(graph, made, layout), data))


def plan_for(
    graph: Graph,
    request: WidthRequest,
    init: str,
    noise: bool,
    choose: Callable[[WidthRequest], NDArray[np.int64]],
) -> tuple[Plan, Layout]:
    """Choose widths and lay them out; what cannot have its width stays, and the rest meets the target.

    Args:
        graph: an analysed graph.
        request: what is asked for.
        init: what becomes of the weights.
        noise: as in ``plan``.
        choose: how often each class of channels is to appear, for a request.

    Raises:
        Refused: a width that was asked for by name cannot be had; or as ``choose`` finds.

    """
    named = {graph.result(CHANNELS).groups[k].id for k in asked_counts(graph, request.widths, request.keep)}
    kept: dict[str, KeptGroup] = {}
    while True:
        try:
            copies = choose(replace(request, keep=(*request.keep, *kept)))
        except Refused as refusal:
            raise _because_of(refusal, kept) from None
        made, layout = planned(graph, copies, init, noise, request.seed)
        new = {group.id: group for group in made.kept if group.id not in kept}
        for group in new.values():
            if group.id in named:
                raise Refused(group.reason)
        kept |= new
        if not new or request.scale is not None:  # a scale asks each group on its own
            return replace(made, kept=list(kept.values())), layout


def _because_of(refusal: Refused, kept: dict[str, KeptGroup]) -> Refused:
    """A refusal, with the reasons for which groups stay as they are."""
    told = " ".join(dict.fromkeys(group.reason for group in kept.values()))
    return Refused(f"{refusal} {told}".strip())


def planned(
    graph: Graph, copies: NDArray[np.int64], init: str, noise: bool, seed: int
) -> tuple[Plan, Layout]:
    """Lay out a network for ``copies`` of each class of channels, and make the plan of it.

    Groups whose widths cannot be had stay as they are; the plan names them.

    Raises:
        Refused: no group can have its width.

    """
    if init not in INITS:
        raise BadUsage(f"--init is {init!r}: choose 'keep', 'fresh' or 'fresh-kaiming'.")
    channels = graph.result(CHANNELS)
    copies, kept = copies.copy(), list[KeptGroup]()
    while True:
        try:
            layout = lay_out(graph, copies, seed if noise else None, keeps_function=init == "keep")
            break
        except CannotHave as refusal:
            numbers = distinct(channels.group_of_class[refusal.classes])
            named = [channels.groups[k] for k in numbers.tolist() if k >= 0]
            stuck = [group for group in named if (copies[group.classes] != 1).any()]
            for group in stuck:
                copies[group.classes] = 1
                kept.append(KeptGroup(group.id, str(refusal)))
            if not stuck or (copies == 1).all():
                raise Refused(str(refusal)) from None
    if init == "keep":
        keep_the_function(graph, layout)
    return make_plan(graph, layout, init, seed, kept), layout


def rewritten(graph: Graph, made: Plan, layout: Layout | None = None) -> onnx.ModelProto:
    """The model that a plan describes; ``layout`` saves laying it out again."""
    if layout is None:
        layout = lay_out(graph, copies_of(graph, made), keeps_function=made.init == "keep")
        known = {*graph.constants, *layout.untied.values()}
        if not set(layout.tensors) <= set(made.tensors) <= known:
            raise BadUsage("The plan's tensors do not fit this model: make the plan again.")
        layout.tensors = made.tensors
    fresh = None if made.init == "keep" else Fresh(made.seed, DRAWS[made.init])
    return rewrite_model(graph, layout, fresh)


def rewrite(model: LoadedModel | Analysis, made: Plan, *, check: bool = True) -> LoadedModel:
    """Rewrite a model by a plan, and verify the result.

    Raises:
        BadUsage: the plan was made for another model.
        VerificationFailed: the result is not what it should be.

    """
    from conet_graph.verification.report import require
    from conet_graph.verification.verification import verify

    graph = _solved_for(model, made)
    if made.sha256 != graph.loaded.sha256:
        raise BadUsage("The plan was made for another model: make it again for this one.")
    proto = rewritten(graph, made)
    if check:
        require(verify(graph, proto, made, graph.folder))
    return in_place_of(graph.loaded, proto if made.refit is None else made.refit.applied(proto))


def _solved_for(model: LoadedModel | Analysis, made: Plan) -> Graph:
    """The solved graph of a model, which a plan that was just made for it brings along."""
    if made.graph is not None and made.graph.loaded is model:
        return made.graph
    return solved(model, made.free_kept)


def in_place_of(model: LoadedModel, proto: onnx.ModelProto) -> LoadedModel:
    """A rewritten model that keeps its weights where the original had them: inside, or beside it."""
    return LoadedModel(proto, model.path, has_external(model.proto) or None)


def compare_models(original: LoadedModel | Analysis, new: LoadedModel, made: Plan) -> Report:
    """Verify a rewritten model against its original and the plan."""
    from conet_graph.verification.verification import verify

    graph = _solved_for(original, made)
    if made.refit is None:
        report = verify(graph, new.proto, made, new.folder)
    else:
        # What is proven is the exact rewrite; the refitted network is it but for the tensors the plan names.
        exact = rewritten(graph, made)
        report = verify(graph, exact, made, graph.folder)
        for fault in differences(LoadedModel(exact, graph.loaded.path), new, made.refit):
            report.fail(fault)
    if made.sha256 != graph.loaded.sha256:
        report.fail("the plan was made for another original file")
    return report


def latency_meter(
    graph: Graph, provider: str | None = None, shapes: Mapping[str, Sequence[int]] | None = None
) -> Callable[[NDArray[np.int64]], float]:
    """A function that measures the latency in milliseconds of a candidate (``copies`` of each class).

    It is the median over runs of ONNX Runtime on this machine, batch 1, seeded inputs, of these
    ``shapes`` where some are named.
    """
    import onnxruntime as ort

    from conet_graph.verification.runtime import RUNTIME, first_line, open_session

    # The processor unless another is asked for: a GPU build without a GPU lists providers it cannot start.
    where = provider or "CPUExecutionProvider"
    if where not in ort.get_available_providers():
        known = ", ".join(ort.get_available_providers())
        raise BadUsage(f"ONNX Runtime has no provider {provider!r} here: choose one of {known}.")

    def measure(copies: NDArray[np.int64]) -> float:
        proto = rewrite_model(graph, lay_out(graph, copies, keeps_function=False))
        with tempfile.TemporaryDirectory(prefix="conet-graph-") as folder:
            path = Path(folder) / "candidate.onnx"
            save_model(proto, path, graph.folder)
            doing(RUNTIME, "running a candidate")
            try:
                return _median_ms(open_session(path, where, fused=True), shapes)
            except Exception as error:
                text = first_line(error)
                raise Refused(f"The latency cannot be measured, ONNX Runtime says: {text}") from None

    return measure


def _median_ms(session: Any, shapes: Mapping[str, Sequence[int]] | None) -> float:
    from conet_graph.verification.inputs import random_inputs

    feeds = random_inputs(session, 1, 64, shapes=shapes)
    for _ in range(3):
        session.run(None, feeds)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 7 or (time.perf_counter() - begin < 0.3 and len(times) < 100):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


def save(model: LoadedModel, path: str | Path) -> None:
    """Write a model; see ``conet_graph.ir.save.save_model``."""
    save_model(model.proto, path, model.folder, model.external)
