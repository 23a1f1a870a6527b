"""``conet-graph apply``: the surgery of a plan on a PyTorch checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from conet_graph.cli.common import Debug, guarded
from conet_graph.ir.errors import BadUsage, shown


@guarded
def apply(
    plan: Annotated[Path, typer.Argument(help="The plan that 'rewrite --plan' wrote.", show_default=False)],
    checkpoint: Annotated[Path, typer.Argument(help="A .pt, .pth or .safetensors file.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write; its suffix is its format.")
    ],
    mapping: Annotated[
        Path | None, typer.Option(help="A JSON file: names in the ONNX file to checkpoint keys.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Give a PyTorch checkpoint the channel sizes of a plan, optimizer state included.

    Example: conet-graph apply plan.json weights.pt -o slim.pt
    """
    from conet_graph.cli.files import check_outputs, named_inputs
    from conet_graph.regular_file import read_text
    from conet_graph.rewriting.checkpoint import apply_plan_to_checkpoint
    from conet_graph.rewriting.checkpoint_file import check_suffix, read_checkpoint, write_checkpoint
    from conet_graph.rewriting.plans import Plan

    inputs = {"the plan": plan, "the checkpoint": checkpoint, "the mapping": mapping}
    check_outputs({"-o": output}, named_inputs(inputs))
    check_suffix(output)
    made = Plan.loads(read_text(plan, "plan"))
    keys = None if mapping is None else _mapping(read_text(mapping, "mapping"), mapping)
    old, metadata = read_checkpoint(checkpoint)
    write_checkpoint(apply_plan_to_checkpoint(made, old, keys), output, metadata)


def _mapping(text: str, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise BadUsage(
            f'The mapping {shown(str(path))} must be JSON like {{"onnx::Conv_7": "conv1.weight"}}.'
        )
    return data
