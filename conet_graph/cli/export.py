"""``conet-graph export``: a network of the zoo as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conet_graph.cli.common import Debug, guarded
from conet_graph.ir.errors import BadUsage, shown


@guarded
def export(
    name: Annotated[str, typer.Argument(help="A name of the zoo, or torchvision:NAME.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    width: Annotated[int | None, typer.Option(min=1, help="Base width.")] = None,
    classes: Annotated[int, typer.Option(min=1, help="Outputs of the classifier.")] = 10,
    widths_from: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Widths that a search of this network found.", show_default=False),
    ] = None,
    image: Annotated[int | None, typer.Option(min=1, help="Side of the square input.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the fresh weights.")] = 0,
    init: Annotated[
        str, typer.Option(help="How weights are drawn: 'default' as PyTorch does, or 'kaiming' (larger).")
    ] = "default",
    debug: Debug = False,
) -> None:
    """Write a network of the zoo with fresh weights as ONNX.

    Example: conet-graph export resnet18 -o resnet18.onnx --width 32

    Example: conet-graph export darts14 -o imagenet.onnx --image 224 --classes 1000 --widths-from RUN
    """
    from conet_graph.cli.files import check_outputs, named_inputs
    from conet_graph.models.export import export_onnx

    if not output.parent.is_dir():
        raise BadUsage(f"There is no folder {shown(str(output.parent))}: make it first.")
    check_outputs({"-o": output}, named_inputs({"the run": widths_from}))
    widths = None
    if widths_from is not None:
        from conet_graph.search.transfer import zoo_widths

        widths = zoo_widths(widths_from, name, image)
    try:
        export_onnx(
            name,
            output,
            width=width,
            widths=widths,
            classes=classes,
            image=image,
            seed=seed,
            init=init,
        )
    except (ValueError, OSError) as error:
        raise BadUsage(f"{name!r} cannot be exported: {error}.") from error
