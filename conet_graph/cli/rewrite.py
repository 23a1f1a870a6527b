"""``conet-graph rewrite``: a network with other channel sizes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conet_graph.cli.apart import report_of
from conet_graph.cli.calibrating import choice_apart, percent, refit_apart, show_errors, summary
from conet_graph.cli.colours import Colours, Mean, Std, colours_of
from conet_graph.cli.common import (
    RUNTIMES,
    Debug,
    FreeKept,
    Json,
    console,
    guarded,
    note,
    plain,
    print_json,
    quantity,
)
from conet_graph.cli.steps import step
from conet_graph.cli.table import Column, write_table
from conet_graph.ir.errors import BadUsage, of_our_making, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from conet_graph.calibration.inputs import Calibration
    from conet_graph.calibration.narrowing import Choice
    from conet_graph.costs.cost import Cost
    from conet_graph.costs.input_shapes import Counting
    from conet_graph.ir.graph import Graph
    from conet_graph.rewriting.plans import Plan
    from conet_graph.verification.report import Report


@guarded
def rewrite(
    model: Annotated[Path, typer.Argument(help="An ONNX file, or '-' for a pipe.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write, or '-' for a pipe.", show_default=False),
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Every free group F of its channels.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=N", help="Width of a group or layer.")
    ] = None,
    widths: Annotated[Path | None, typer.Option(help="A JSON file of widths by group or layer.")] = None,
    params: Annotated[str | None, typer.Option(help="Target: parameters (0.5, 50% or a number).")] = None,
    macs: Annotated[
        str | None, typer.Option(help="Target: multiply-accumulates (0.5, 50% or a number).")
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(help="Target: time in ONNX Runtime, here (0.6 or 60% of the original's, or 12ms)."),
    ] = None,
    check_speed: Annotated[
        bool,
        typer.Option("--check-speed", help="Time the result beside the original, as --latency does."),
    ] = False,
    provider: Annotated[
        str | None, typer.Option(help="ONNX Runtime's provider for times; the CPU's if not given.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads for times.")] = 1,
    latency_table: Annotated[
        Path | None, typer.Option("--table", help="Times of layers, as 'profile' writes them, for --latency.")
    ] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Drop the channels that change nothing, and no others.")
    ] = False,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=1,3,H,W", help="Count at this size of an input; the file keeps its own."),
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="Which channels stay: l2 (the default), l1, bn, fpgm, first or random;"
            " with --calibrate reconstruction, activation, taylor and hessian, too, or the best of the"
            " first two (best, the default then).",
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Keep the function by unlabelled inputs: a folder of images, an .npz or .npy file.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=8, help="How many of them are used.")] = 256,
    mean: Mean = None,
    std: Std = None,
    uniform: Annotated[bool, typer.Option("--uniform", help="The same fraction in every group.")] = False,
    multiple_of: Annotated[
        int | None,
        typer.Option(
            min=1, help="Multiple that a target's widths are, strictly.", show_default="8, if it fits"
        ),
    ] = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="RUNTIME", help=f"Multiples that suit {RUNTIMES}.")
    ] = None,
    min_width: Annotated[int, typer.Option(min=1, help="No width under this.")] = 1,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="LAYER", help="Leave a layer or group alone.")
    ] = None,
    free_kept: FreeKept = False,
    init: Annotated[
        str, typer.Option(help="'keep' the weights, or 'fresh' ones ('fresh-kaiming': larger).")
    ] = "keep",
    noise: Annotated[
        bool, typer.Option("--noise", help="Widening: copies share their weights unequally.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    plan: Annotated[Path | None, typer.Option(help="Write the plan here, as JSON.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Check the result before it is written.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the new widths and write nothing.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a network with other channel sizes: narrower or wider, valid and verified.

    Example: conet-graph rewrite model.onnx -o slim.onnx --macs 0.5 --plan plan.json
    With the function kept: conet-graph rewrite model.onnx -o slim.onnx --macs 0.5 --calibrate images/
    """
    from conet_graph.calibration.lost import error_on_random_inputs
    from conet_graph.cli.files import (
        PIPE,
        check_outputs,
        data_input,
        load_given,
        model_files,
        named_inputs,
        require_pipe_out,
        write_to_pipe,
    )
    from conet_graph.cli.latency import Timing, met_apart, show_times, speed_apart
    from conet_graph.cli.uneven import show_uneven, uneven_groups
    from conet_graph.costs.cost import cost
    from conet_graph.costs.input_shapes import Counting, counting, fed_shapes, named_shapes
    from conet_graph.ir.load import LoadedModel
    from conet_graph.ir.overridable import constant_weights
    from conet_graph.ir.save import one_file
    from conet_graph.passes import analysed
    from conet_graph.rewriting.alignment import alignment_of
    from conet_graph.rewriting.ranking import lacks_norms
    from conet_graph.rewriting.refits import beside, write_plan
    from conet_graph.rewriting.rewriting import in_place_of, plan_for, rewritten, save
    from conet_graph.rewriting.targets import WidthRequest, choose_copies
    from conet_graph.verification.report import require
    from conet_graph.verification.verification import verify as verified

    if output is None and not dry_run:
        raise BadUsage("Say where to write: -o OUT.onnx (or --dry-run to see the widths only).")
    if output == PIPE and json:
        raise BadUsage("-o - and --json both want stdout: give one of them.")
    asked = {**_widths_file(widths), **_settings(set_ or [])}
    if not (asked or lossless) and all(target is None for target in (scale, params, macs, latency)):
        raise BadUsage(
            "Say what size you want: --scale, --set, --widths, --params, --macs, --latency or --lossless."
        )
    loaded, piped = load_given(model), output == PIPE
    read = {
        "the widths": widths,
        "the calibration inputs": data_input(calibrate),
        "the latency table": latency_table,
    }
    inputs = [*model_files(loaded, "the model"), *named_inputs(read)]
    tensors = None if plan is None or calibrate is None else beside(plan)
    check_outputs({"-o": None if piped else output, "--plan": plan, "the plan's tensors": tensors}, inputs)
    if piped and not dry_run:
        require_pipe_out()
    graph = analysed(loaded, free_kept=free_kept)
    data = _calibration(calibrate, graph, samples, init, seed, colours_of(mean, std))
    named = named_shapes(input_shape or []) or (fed_shapes(graph, data.sizes) if data else {})
    sizes = counting(graph, named) if macs or named else Counting()
    sizes.require_share(_target(macs, "--macs"))
    fixed = sizes.shapes if named else {}
    request = WidthRequest(
        scale=scale,
        widths=asked,
        params=_target(params, "--params"),
        macs=_target(macs, "--macs"),
        multiple_of=multiple_of,
        runtime=for_,
        min_width=min_width,
        keep=tuple(keep or ()),
        lossless=lossless,
        importance=importance or ("l2" if calibrate is None else "best"),
        uniform=uniform,
        seed=seed,
        input_shapes=sizes.shapes,
    )
    if importance == "bn" and lacks_norms(graph):
        note("There is no BatchNorm in this network to read: --importance bn ranks as l2 does.")
    choice, fit = None, None
    # The other two ways tell for themselves how far they are.
    step("choosing widths" if latency is None and data is None else "")

    timing, times = Timing(provider, threads, latency_table, fixed), None

    def choose(asked: WidthRequest) -> NDArray[np.int64]:
        nonlocal times, choice
        if latency is not None:
            aligned = alignment_of(multiple_of, for_)
            copies, times, choice = met_apart(graph, asked, latency, aligned, timing, data)
            return copies
        if data is not None:
            choice = choice_apart(graph, lambda: asked, data)
            return choice.copies
        return choose_copies(graph, asked)

    made, layout = plan_for(graph, request, init, noise, choose)
    copies = layout.labels.copies
    step("rewriting")
    proto = rewritten(graph, made, layout)
    if latency is not None:
        constant_weights(proto)  # as it was timed
    with of_our_making("the rewritten network is not valid"):
        before, after = cost(sizes.of(graph)), sizes.cost(LoadedModel(proto, graph.loaded.path))
    report = None
    if not dry_run and output is not None:
        if verify:
            step("verifying")

            def proven() -> Report:
                found = verified(graph, proto, made, graph.folder, fixed)
                if found.ok and data is None and init == "keep" and (copies == 0).any():
                    found.outputs_error = error_on_random_inputs(graph, proto, found)
                return found

            report = report_of(proven, made)
            require(report)
        if data is not None and (copies == 0).any():
            fit = refit_apart(graph, layout, proto, data)
            made, proto = replace(made, refit=fit), fit.applied(proto)
        step("writing")
        if piped:
            write_to_pipe(one_file(proto, graph.folder))
        else:
            save(in_place_of(graph.loaded, proto), output)
        if plan is not None:
            write_plan(made, plan)
    if check_speed and times is None:
        times = speed_apart(graph, proto, timing)
    step("")
    by_target = params is not None or macs is not None or latency is not None or scale is not None
    uneven = uneven_groups(graph, made, alignment_of(multiple_of, for_)) if by_target else []
    if json:
        found = {**_summary(made, before, after, report, output, sizes), "not_aligned": uneven}
        if data is not None and choice is not None:
            found["calibration"] = summary(data, request.importance, choice, fit)
        if times is not None:
            found["time"] = times
        print_json(found)
    else:
        _show(made, before, after, report, None if dry_run else output, choice, sizes, stderr=piped)
        show_uneven(uneven, stderr=piped)
        if times is not None:
            show_times(console(stderr=piped), times)


def _calibration(
    spec: str | None, graph: Graph, samples: int, init: str, seed: int, colours: Colours | None
) -> Calibration | None:
    if spec is None and colours is not None:
        raise BadUsage("--mean and --std are of the images of --calibrate: give it, too.")
    if spec is None:
        return None
    if init != "keep":
        raise BadUsage("--calibrate keeps what the weights have learnt: leave out --init fresh.")
    from conet_graph.calibration.inputs import open_calibration

    return open_calibration(spec, graph, samples, seed, colours)


def _settings(entries: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in entries:
        name, _, number = entry.rpartition("=")
        if not name or not number.strip().isdigit():
            raise BadUsage(f"--set {shown(entry)} is not NAME=NUMBER, as in --set layer1.0.conv1=48.")
        found[name] = int(number)
    return found


def _widths_file(path: Path | None) -> dict[str, int]:
    if path is None:
        return {}
    import json

    from conet_graph.regular_file import read_text

    text = read_text(path, "file of widths")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise BadUsage(f'{shown(str(path))} is not JSON: write {{"g3": 48}}.') from None
    if not isinstance(data, dict) or not all(type(v) is int for v in data.values()):
        raise BadUsage(f'{shown(str(path))} must map names to whole numbers: {{"g3": 48}}.')
    return data


def _target(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise BadUsage(f"{option} {shown(text)} is not a fraction, a percentage or a number above 0.")
    if text.endswith("%") and value > 1:
        raise BadUsage(f"{option} {shown(text)} is more than all of it: give an absolute number.")
    return value


def _summary(
    made: Plan,
    before: Cost,
    after: Cost,
    report: Report | None,
    output: Path | None,
    sizes: Counting,
) -> dict[str, Any]:
    return {
        "format": "conet-graph.rewrite/1",
        "output": None if output is None else str(output),
        "groups": [{"id": g.id, "old_width": g.old_width, "new_width": g.new_width} for g in made.groups],
        "kept": [{"id": k.id, "reason": k.reason} for k in made.kept],
        "parameters": {"old": before.parameters, "new": after.parameters},
        "macs": {"old": before.macs, "new": after.macs},
        "counted_at": {"shapes": sizes.shapes, "assumed": sizes.assumed} if sizes.shapes else None,
        "exact": made.exact,
        "inexact_because": made.inexact_because,
        "lossless": made.lossless,
        "dead": sum(len(group.dead) for group in made.groups),
        "verification": None if report is None else report.to_json(),
    }


def _show(
    made: Plan,
    before: Cost,
    after: Cost,
    report: Report | None,
    output: Path | None,
    choice: Choice | None,
    sizes: Counting,
    *,
    stderr: bool,
) -> None:
    out = console(stderr=stderr)
    titles = ("old width", "new width", "share", *(["predicted loss"] if choice else []))
    rows = []
    for group in made.groups:
        share = f"{100 * group.new_width / group.old_width:.0f} %"
        loss = [f"{choice.predicted.get(group.id, 0.0):.2g}"] if choice else []
        rows.append([group.id, str(group.old_width), str(group.new_width), share, *loss])
    columns = [Column("group"), *(Column(title, right=True) for title in titles)]
    write_table(sys.stderr if stderr else sys.stdout, f"{len(rows)} changed groups", columns, rows)
    out.print(
        f"parameters {quantity(before.parameters)} -> {quantity(after.parameters)}"
        f" ({_share(before.parameters, after.parameters)}),"
        f" MACs {quantity(before.macs)} -> {quantity(after.macs)} ({_share(before.macs, after.macs)})"
    )
    for reason in dict.fromkeys(k.reason for k in made.kept):
        ids = ", ".join(k.id for k in made.kept if k.reason == reason)
        out.print(f"left as it was, {ids}: {reason}", soft_wrap=True)
    dead = sum(len(group.dead) for group in made.groups)
    if dead:
        out.print(_dead_line(made, dead))
    for line in _countings(sizes, before):
        out.print(line, soft_wrap=True)
    if not made.exact:
        names = ", ".join(plain(n) for n in made.inexact_because[:4])
        more = len(made.inexact_because) - 4
        out.print(f"not exact, these look across channels: {names}{f' and {more} more' if more > 0 else ''}")
    if report is not None:
        tail = (
            ""
            if report.largest_difference is None
            else f", largest difference {report.largest_difference:.1g}"
        )
        out.print(f"verified: valid, runs, equality {report.equality}{tail}", style="green")
        if report.outputs_error is not None and not made.lossless:
            out.print(
                f"the function is not kept: on random inputs the outputs are off by"
                f" {percent(report.outputs_error)} of their variance; --calibrate DATA keeps it, or training",
                style="yellow",
            )
    elif output is not None:
        out.print("not verified (--no-verify)")
    if made.refit is not None:
        show_errors(out, made.refit)
    if output is not None:
        out.print("wrote the model to stdout" if stderr else f"wrote {output}", soft_wrap=True)


def _dead_line(made: Plan, dead: int) -> str:
    """What dropping dead channels means for the outputs."""
    if made.lossless:
        return f"{dead} dead channels dropped, no others: the original's own outputs are kept"
    dropped = sum(max(0, group.old_width - group.new_width) for group in made.groups)
    return f"{dead} of the {dropped} dropped channels were dead: these change nothing"


def _countings(sizes: Counting, before: Cost) -> list[str]:
    """At what sizes MACs were counted, and what is not in them."""
    lines = []
    if sizes.shapes:
        hint = " (assumed: name others by --input-shape)" if sizes.assumed else ""
        lines.append(f"MACs counted at {plain(sizes.said())}{hint}")
        if before.uncounted:
            names = ", ".join(plain(n) for n in before.uncounted[:4])
            lines.append(f"MACs without {len(before.uncounted)} operators that cannot be counted: {names}")
    return lines


def _share(old: int | None, new: int | None) -> str:
    return "?" if not old or new is None else f"{100 * new / old:.1f} %"
