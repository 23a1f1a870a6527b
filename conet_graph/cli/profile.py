"""``conet-graph profile``: how long each layer of a network takes at which widths."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from conet_graph.cli.common import RUNTIMES, Debug, Json, console, guarded, print_json


@guarded
def profile(
    model: Annotated[Path, typer.Argument(help="An ONNX file, or '-' for a pipe.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The table to write, or to go on with.", show_default=False),
    ],
    provider: Annotated[
        str | None, typer.Option(help="ONNX Runtime's provider  [default: the CPU's]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 1,
    multiple_of: Annotated[
        int | None, typer.Option(min=1, help="Widths are multiples of it  [default: 8, if it fits]")
    ] = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="RUNTIME", help=f"Multiples that suit {RUNTIMES}.")
    ] = None,
    networks: Annotated[int, typer.Option(min=2, help="How many networks are run.")] = 28,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=1,3,H,W", help="Time at this size of an input; free ones are 64."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time a network's layers at many widths, in ONNX Runtime on this machine: a table for rewrite --latency.

    The table is written after each network that was run: an interrupted run goes on where it was.

    Example: conet-graph profile model.onnx -o table.json
    Then: conet-graph rewrite model.onnx -o slim.onnx --latency 0.5 --table table.json
    """
    from conet_graph.cli.apart import timed
    from conet_graph.cli.files import check_outputs, load_given, model_files
    from conet_graph.cli.progress import progress
    from conet_graph.costs.input_shapes import counting, named_shapes
    from conet_graph.latency.profile import profiled
    from conet_graph.latency.sessions import conditions_of
    from conet_graph.passes import analysed
    from conet_graph.rewriting.alignment import alignment_of

    alignment, loaded = alignment_of(multiple_of, for_), load_given(model)
    check_outputs({"-o": output}, model_files(loaded, "the model"))
    graph = analysed(loaded)
    named = named_shapes(input_shape or [])
    shapes = counting(graph, named).shapes if named else {}
    with progress() as tell:

        def work() -> dict[str, Any]:
            table = profiled(
                graph,
                conditions_of(provider, threads, shapes),
                alignment,
                networks=networks,
                path=output,
                tell=lambda done, of: tell("timing layers", done / of),
            )
            return {
                "format": "conet-graph.profile/1",
                "output": str(output),
                "layers": len(table.rows),
                "points": sum(len(row.points) for row in table.rows.values()),
                "original_ms": table.original_ms,
                "runtime": table.runtime,
            }

        found = timed(work)
    if json:
        print_json(found)
        return
    where = found["runtime"]
    out = console()
    out.print(f"{found['layers']} shapes of layers, {found['points']} points")
    out.print(
        f"the network takes {found['original_ms']:.4g} ms in {where['name']} {where['version']},"
        f" {where['provider']}, {where['threads']} thread{'s' if where['threads'] > 1 else ''}"
    )
    out.print(f"wrote {found['output']}", soft_wrap=True)
