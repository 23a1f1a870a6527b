"""``conet-graph analyze``: the channel structure of a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conet_graph.cli.common import Debug, Json, console, guarded, plain, print_json, quantity
from conet_graph.ir.errors import BadUsage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from conet_graph.analysis import Analysis, GroupEntry, LayerEntry


@guarded
def analyze(
    model: Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)],
    json: Json = False,
    text: Annotated[bool, typer.Option("--text", help="Print the network as text.")] = False,
    explain: Annotated[
        str | None,
        typer.Option(metavar="LAYER", help="Say what ties or freezes a layer's channels."),
    ] = None,
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
    from conet_graph.cli.hooks import BetweenPasses
    from conet_graph.ir.load import load_model
    from conet_graph.passes import analysed

    hook = BetweenPasses(print_after or [], verify_each, debug)
    graph = analysed(load_model(model), after=hook)
    if explain is not None:
        from conet_graph.explain import explain as explained

        typer.echo("\n".join(explained(graph, explain).lines()))
        return
    if text:
        from conet_graph.ir.text import to_text

        typer.echo(to_text(graph).rstrip("\n"))
        return
    from conet_graph.analysis import analysis_of

    found = analysis_of(graph)
    if json:
        print_json(found.to_dict())
    else:
        show(found, console())


def show(found: Analysis, out: Console) -> None:
    """Print an analysis as tables."""
    out.print(_layer_table(found.layers))
    free = [g for g in found.groups if g.free]
    frozen = [g for g in found.groups if not g.free]
    if free:
        out.print()
        out.print(_group_table(f"{len(free)} free groups", free))
    if frozen:
        out.print()
        out.print(_frozen_table(frozen))
    _totals(found, free, out)


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )


def _layer_table(layers: tuple[LayerEntry, ...]) -> Table:
    table = _table(f"{len(layers)} layers")
    table.add_column("layer", overflow="fold")
    table.add_column("kind")
    table.add_column("kernel")
    table.add_column("channels", justify="right", no_wrap=True)
    table.add_column("group in", overflow="fold", max_width=12)
    table.add_column("group out", overflow="fold", max_width=12)
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(
            plain(layer.name),
            layer.kind,
            _kernel(layer),
            f"{_known(layer.in_channels)} -> {_known(layer.out_channels)}",
            " ".join(layer.in_groups) or "-",
            " ".join(layer.out_groups) or "-",
            quantity(layer.parameters),
            quantity(layer.macs),
        )
    return table


def _kernel(layer: LayerEntry) -> str:
    if layer.kernel is None:
        return "-"
    shape = "x".join(str(k) for k in layer.kernel)
    return shape if layer.conv_groups == 1 else f"{shape} /{layer.conv_groups}"


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)


def _group_table(title: str, groups: list[GroupEntry]) -> Table:
    table = _table(title)
    table.add_column("group")
    table.add_column("size")
    table.add_column("width", justify="right")
    table.add_column("by", justify="right")
    table.add_column("producers", overflow="fold", ratio=1)
    table.add_column("consumers", overflow="fold", ratio=1)
    for group in groups:
        table.add_row(
            group.id,
            group.size,
            str(group.width),
            str(group.multiple),
            _names(group.producers),
            _names(group.consumers),
        )
    return table


def _frozen_table(groups: list[GroupEntry]) -> Table:
    table = _table(f"{len(groups)} frozen groups")
    table.add_column("group")
    table.add_column("width", justify="right")
    table.add_column("why", overflow="fold", ratio=1)
    table.add_column("layers", overflow="fold", ratio=1)
    for group in groups:
        layers = dict.fromkeys((*group.producers, *group.consumers))
        table.add_row(group.id, str(group.width), group.reason, _names(tuple(layers)))
    return table


def _names(names: tuple[str, ...]) -> str:
    return "\n".join(plain(name) for name in names) or "-"


def _totals(found: Analysis, free: list[GroupEntry], out: Console) -> None:
    model = found.model
    sizes = len({g.size for g in free})
    macs = f"{quantity(model.macs)} MACs"
    if model.macs is None:
        known = sum(layer.macs or 0 for layer in found.layers)
        missing = sum(layer.macs is None for layer in found.layers)
        macs = f"{quantity(known)} MACs counted (unknown for {missing} layers: free sizes)"
    out.print()
    out.print(
        f"{quantity(model.parameters)} parameters, {macs}, {model.nodes} nodes, opset {model.opset}"
    )
    edges = found.edges
    out.print(
        f"{len(free)} free groups in {sizes} independent sizes;"
        f" {edges.conv} conv and {edges.non_conv} non-conv edges"
    )
    for entry in found.unsupported:
        kept = ", ".join(entry.freezes) or "no layer's channels"
        out.print(f"not understood: {entry.op} {plain(entry.node)} (freezes {kept})")
