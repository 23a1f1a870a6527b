"""``conet-graph analyze``: the channel structure of a network."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from conet_graph.cli.calibrating import curves_apart
from conet_graph.cli.common import (
    Debug,
    For,
    FreeKept,
    Json,
    console,
    guarded,
    note,
    plain,
    print_json,
    quantity,
)
from conet_graph.cli.steps import is_quiet, step
from conet_graph.cli.table import Column, write_table
from conet_graph.ir.errors import BadUsage

if TYPE_CHECKING:
    from conet_graph.analysis.analysis import Analysis, GroupEntry, LayerEntry


@guarded
def analyze(
    model: Annotated[Path, typer.Argument(help="An ONNX file, or '-' for a pipe.", show_default=False)],
    free_kept: FreeKept = False,
    json: Json = False,
    text: Annotated[bool, typer.Option("--text", help="Print the network as text.")] = False,
    rank: Annotated[
        bool, typer.Option("--rank", help="Measure rank and condition of each layer's weights.")
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option(metavar="LAYER", help="Say what ties or freezes a layer's channels."),
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=1,3,H,W", help="Count at this size of an input whose own is free."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the network as a drawing, with its groups, as a page."),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="With --html: curves of what each width loses, by inputs as rewrite --calibrate takes them.",
        ),
    ] = None,
    dag: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the network's DAG with edge kinds, sizes and groups: .graphml, .json or .dot.",
        ),
    ] = None,
    for_: For = None,
    print_after: Annotated[
        list[str] | None,
        typer.Option(metavar="PASS", help="Print the network after a pass, on stderr."),
    ] = None,
    verify_each: Annotated[
        bool, typer.Option("--verify-each", help="Check the graph after each pass.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show which channel sizes of a network are free, and which are tied together.

    Example: conet-graph analyze model.onnx --explain conv1
    """
    if json + text + (explain is not None) > 1:
        raise BadUsage("--json, --text and --explain exclude each other: give one of them.")
    if (rank or html is not None) and (text or explain is not None):
        raise BadUsage("--rank and --html go with the table or with --json: leave --text and --explain out.")
    if calibrate is not None and html is None:
        raise BadUsage("--calibrate draws curves into a page: give --html FILE, too.")
    from conet_graph.cli.files import check_outputs, data_input, load_given, model_files, named_inputs
    from conet_graph.cli.hooks import BetweenPasses
    from conet_graph.passes import analysed

    hook = BetweenPasses(print_after or [], verify_each, debug)
    loaded = load_given(model)
    read = named_inputs({"the calibration inputs": data_input(calibrate)})
    check_outputs({"--html": html, "--dag": dag}, [*model_files(loaded, "the model"), *read])
    graph = analysed(loaded, after=hook, free_kept=free_kept)
    if dag is not None:
        from conet_graph.analysis.dag import write_dag

        write_dag(graph, dag)
    if explain is not None:
        from conet_graph.analysis.explain import explain as explained

        typer.echo("\n".join(explained(graph, explain).lines()))
        return
    if text:
        from conet_graph.ir.text import to_text

        typer.echo(to_text(graph).rstrip("\n"))
        return
    from conet_graph.analysis.analysis import analysis_of
    from conet_graph.costs.input_shapes import counting, named_shapes

    named = named_shapes(input_shape or [])
    sizes = counting(graph, named) if named else None
    found = analysis_of(graph, rank=rank, sizes=sizes)
    if html is not None:
        from conet_graph.report.analysis_page import write_analysis_page

        curves = None if calibrate is None else curves_apart(graph, calibrate)
        write_analysis_page(graph, html, found, curves)
    step("")
    warnings: list[str] = []
    if for_ is not None:
        from conet_graph.rewriting.alignment import breaking

        warnings = breaking(graph, for_)
    if json:
        print_json({**found.to_dict(), "warnings": warnings} if for_ is not None else found.to_dict())
        return
    if html is None and dag is None:
        show(found, sys.stdout, rank)
    for path in (dag, html):
        if path is not None:
            console().print(f"wrote {path}", soft_wrap=True)
    for warning in warnings:
        note(f"Warning: {warning}.")


def show(found: Analysis, out: TextIO, rank: bool = False) -> None:
    """Print an analysis as tables; with ``rank``, layers show rank and condition in place of their kind."""
    layers = f"{len(found.layers)} layers"
    if rank:
        title = f"{layers}; rank (% of the channels) and condition on the output and input axis"
        write_table(out, title, RANK_COLUMNS, [_ranked(x) for x in found.layers])
    else:
        write_table(out, layers, LAYER_COLUMNS, [_layer(x) for x in found.layers])
    free = [g for g in found.groups if g.free]
    frozen = [g for g in found.groups if not g.free]
    if free:
        write_table(out, f"{len(free)} free groups", FREE_COLUMNS, [_free(g) for g in free])
    if frozen:
        rows = [_frozen(g) for g in frozen]
        write_table(out, f"{len(frozen)} frozen groups", FROZEN_COLUMNS, rows)
    if not is_quiet():
        out.writelines(line + "\n" for line in _totals(found, free))


LAYER_COLUMNS = (
    Column("layer", widest=31),
    Column("kind", widest=8),
    Column("kernel", widest=9),
    Column("channels", right=True, widest=12),
    Column("group in", widest=9),
    Column("group out", widest=9),
    Column("params", right=True, widest=6),
    Column("MACs", right=True, widest=6),
)
# Room for two more within 100 columns.
RANK_COLUMNS = (
    Column("layer", widest=27),
    Column("kernel", widest=9),
    Column("channels", right=True, widest=12),
    Column("in", widest=4),
    Column("out", widest=4),
    Column("params", right=True, widest=6),
    Column("MACs", right=True, widest=6),
    Column("rank", right=True, widest=7),
    Column("condition", right=True, widest=9),
)
FREE_COLUMNS = (
    Column("group", widest=6),
    Column("size", widest=6),
    Column("width", right=True, widest=6),
    Column("by", right=True, widest=4),
    Column("producers", widest=34),
    Column("consumers", widest=34),
)
FROZEN_COLUMNS = (
    Column("group", widest=6),
    Column("width", right=True, widest=6),
    Column("why", widest=42),
    Column("layers", widest=40),
)


def _layer(layer: LayerEntry) -> list[str]:
    return [
        plain(layer.name),
        layer.kind,
        _kernel(layer),
        f"{_known(layer.in_channels)} -> {_known(layer.out_channels)}",
        _wrapped(layer.in_groups),
        _wrapped(layer.out_groups),
        quantity(layer.parameters),
        quantity(layer.macs),
    ]


def _ranked(layer: LayerEntry) -> list[str]:
    name, _, kernel, channels, _, _, parameters, macs = _layer(layer)
    rank = condition = "-"
    if layer.rank is not None and layer.condition is not None:
        rank = " ".join(f"{100 * layer.rank[side]:.0f}" for side in ("out", "in"))
        condition = " ".join(_figures(layer.condition[side]) for side in ("out", "in"))
    ins, outs = ("\n".join(groups) or "-" for groups in (layer.in_groups, layer.out_groups))
    return [name, kernel, channels, ins, outs, parameters, macs, rank, condition]


def _figures(number: float) -> str:
    """A number in at most four characters.

    >>> _figures(1.0), _figures(12.34), _figures(4321.0), _figures(3.2e7)
    ('1.0', '12', '4321', '3e7')
    """
    if number < 9.95:
        return f"{number:.1f}"
    if number < 9999.5:
        return f"{number:.0f}"
    return f"{number:.0e}".replace("e+0", "e").replace("e+", "e")


def _wrapped(groups: tuple[str, ...]) -> str:
    """Group names, two a line."""
    return "\n".join(" ".join(groups[k : k + 2]) for k in range(0, len(groups), 2)) or "-"


def _kernel(layer: LayerEntry) -> str:
    if layer.kernel is None:
        return "-"
    shape = "x".join(str(k) for k in layer.kernel)
    return shape if layer.conv_groups == 1 else f"{shape} /{layer.conv_groups}"


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)


def _free(group: GroupEntry) -> list[str]:
    return [
        group.id,
        group.size,
        str(group.width),
        str(group.multiple),
        _names(group.producers),
        _names(group.consumers),
    ]


def _frozen(group: GroupEntry) -> list[str]:
    layers = dict.fromkeys((*group.producers, *group.consumers))
    return [group.id, str(group.width), group.reason or "", _names(layers)]


def _names(names: Iterable[str]) -> str:
    return "\n".join(plain(name) for name in names) or "-"


def _totals(found: Analysis, free: list[GroupEntry]) -> list[str]:
    model, edges = found.model, found.edges
    macs = f"{quantity(model.macs)} MACs"
    if model.macs is None:
        known = sum(layer.macs or 0 for layer in found.layers)
        missing = sum(layer.macs is None for layer in found.layers)
        macs = f"{quantity(known)} MACs without {missing} layers whose size is free (--input-shape fixes it)"
    sizes = len({g.size for g in free})
    lines = [
        f"{quantity(model.parameters)} parameters, {macs}, {model.nodes} nodes, opset {model.opset}",
        f"{len(free)} free groups in {sizes} independent sizes;"
        f" {edges.conv} conv and {edges.non_conv} non-conv edges",
    ]
    dead = sum(g.dead for g in free)
    if dead:
        where = ", ".join(f"{g.dead} of {g.id}" for g in free if g.dead)
        lines.append(f"{dead} dead channels, which 'rewrite --lossless' drops without loss: {where}")
    for entry in found.unsupported:
        kept = ", ".join(entry.freezes) or "no layer's channels"
        lines.append(f"no channel rule fits {entry.op} {plain(entry.node)}: it freezes {kept}")
    return lines
