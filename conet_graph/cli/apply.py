"""``conet-graph apply``: the surgery of a plan on a PyTorch checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conet_graph.cli.common import Debug, guarded, say
from conet_graph.ir.errors import BadUsage, shown

if TYPE_CHECKING:
    from conet_graph.rewriting.plans import Plan

# Sentences about tensors that cannot be put into the checkpoint, at most.
MOST_TOLD = 8


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
    match: Annotated[
        str | None,
        typer.Option(
            help="'auto': find renamed tensors, and those with a folded BatchNorm, by values (with --model).",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="With --match: the ONNX file that the plan was made for.")
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
    from conet_graph.rewriting.refits import read_plan

    inputs = {"the plan": plan, "the checkpoint": checkpoint, "the mapping": mapping, "the model": model}
    check_outputs({"-o": output}, named_inputs(inputs))
    check_suffix(output)
    made = read_plan(plan)
    keys = None if mapping is None else _mapping(read_text(mapping, "mapping"), mapping)
    if match not in (None, "auto") or (match is None) != (model is None):
        raise BadUsage("--match is 'auto' and needs --model, the ONNX file that the plan was made for.")
    old, metadata = read_checkpoint(checkpoint)
    left: list[str] = []
    if model is not None:
        keys = _matched(made, model, old, keys)
    write_checkpoint(apply_plan_to_checkpoint(made, old, keys, left), output, metadata)
    for sentence in left[:MOST_TOLD]:
        say(f"Not refitted in the checkpoint: {sentence}.")
    if len(left) > MOST_TOLD:
        say(f"Not refitted in the checkpoint: {len(left) - MOST_TOLD} tensors more.")


def _matched(plan: Plan, model: Path, checkpoint: Any, given: dict[str, Any] | None) -> dict[str, Any]:
    """A mapping found by values; what values leave open is said."""
    from conet_graph.cli.files import load_given
    from conet_graph.passes import analysed
    from conet_graph.rewriting.checkpoint import state_dicts
    from conet_graph.rewriting.match_checkpoint import match_checkpoint

    loaded = load_given(model)
    if loaded.sha256 != plan.sha256:
        raise BadUsage(f"The plan was made for another model than {shown(str(model))}: name that one.")
    graph = analysed(loaded, free_kept=plan.free_kept)
    found = match_checkpoint(plan, graph, max(state_dicts(checkpoint), key=len), given)
    if found.by_order:
        names = ", ".join(shown(name) for name in found.by_order[:3])
        more = f" and {len(found.by_order) - 3} more" if len(found.by_order) > 3 else ""
        say(
            f"Several entries of the checkpoint have equal values for {names}{more}:"
            " those that come first in it were taken (--mapping names others)."
        )
    if found.left:
        names = ", ".join(shown(name) for name in found.left[:3])
        more = f" and {len(found.left) - 3} more" if len(found.left) > 3 else ""
        say(f"BatchNorm {names}{more} of the checkpoint is in no layer of the model and stays as it is.")
    return found.mapping


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
