"""``conet-graph rewrite``: a network with other channel sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conet_graph.cli.colours import Mean, Std, colours_of
from conet_graph.cli.common import RUNTIMES, Debug, FreeKept, Json, guarded, print_json
from conet_graph.cli.steps import step


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
        str | None, typer.Option(help="ONNX Runtime's provider for times  [default: the CPU's]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads for times.")] = 1,
    latency_table: Annotated[
        Path | None,
        typer.Option("--table", help="Times of layers for --latency: read if there, else measured and kept."),
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
            help="Which channels stay: l2, l1, bn, fpgm, first or random; with --calibrate"
            " reconstruction, activation, taylor and hessian, too, or the best of the first two (best)"
            "  [default: l2, with --calibrate best]",
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
        typer.Option(min=1, help="Multiple that a target's widths are, strictly  [default: 8, if it fits]"),
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
    from conet_graph.cli.files import PIPE, data_input, load_given
    from conet_graph.cli.latency import Timing
    from conet_graph.cli.rewrite_options import (
        calibration_inputs,
        require_own_files,
        require_sense,
        target,
        widths_file,
        widths_set,
    )
    from conet_graph.cli.rewrite_steps import Choosing, Writing, outcome_of
    from conet_graph.costs.input_shapes import Counting, counting, fed_shapes, named_shapes
    from conet_graph.passes import analysed
    from conet_graph.rewriting.alignment import alignment_of
    from conet_graph.rewriting.targets import WidthRequest

    asked = {**widths_file(widths), **widths_set(set_ or [])}
    require_sense(output, dry_run, json, (asked, lossless, scale, params, macs, latency))
    loaded, data_path = load_given(model), data_input(calibrate)
    read = {"the widths": widths, "the calibration inputs": data_path, "the latency table": latency_table}
    require_own_files(loaded, read, output, plan, calibrate is not None)
    graph = analysed(loaded, free_kept=free_kept)
    data = calibration_inputs(calibrate, graph, samples, init, seed, colours_of(mean, std))
    named = named_shapes(input_shape or []) or (fed_shapes(graph, data.sizes) if data else {})
    sizes = counting(graph, named) if macs or named else Counting()
    sizes.require_share(target(macs, "--macs"))
    request = WidthRequest(
        scale=scale,
        widths=asked,
        params=target(params, "--params"),
        macs=target(macs, "--macs"),
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
    timing = Timing(provider, threads, latency_table, sizes.shapes if named else {})
    choose = Choosing(graph, latency, alignment_of(multiple_of, for_), timing, data)
    made, layout = choose.planned(request, init, noise)
    writing = Writing(graph, made, layout, None if dry_run else output, plan, as_timed=latency is not None)
    found = outcome_of(writing, sizes, choose, request, named=output)
    if writing.output is not None:
        found.report = writing.proven(timing.shapes, with_error=data is None) if verify else None
        found.made = writing.written(data)
    if check_speed and choose.times is None:
        found.times = writing.speed(timing)
    step("")
    if json:
        print_json(found.to_json())
    else:
        found.show(stderr=output == PIPE)
