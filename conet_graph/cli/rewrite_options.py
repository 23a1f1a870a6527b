"""What the options of ``rewrite`` say: widths, targets, calibration inputs, and whether they make sense."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from conet_graph.cli.colours import Colours
from conet_graph.ir.errors import BadUsage, shown

if TYPE_CHECKING:
    from conet_graph.calibration.inputs import Calibration
    from conet_graph.ir.graph import Graph
    from conet_graph.ir.load import LoadedModel


def require_sense(output: Path | None, dry_run: bool, as_json: bool, asked: Iterable[object]) -> None:
    """Refuse what says no size, or nothing to write to.

    Args:
        output: the file to write.
        dry_run: whether nothing is to be written.
        as_json: whether JSON goes to stdout.
        asked: the options that say a size.

    """
    from conet_graph.cli.files import PIPE, require_pipe_out

    if output is None and not dry_run:
        raise BadUsage("Say where to write: -o OUT.onnx (or --dry-run to see the widths only).")
    if output == PIPE and as_json:
        raise BadUsage("-o - and --json both want stdout: give one of them.")
    if not any(option is not None and option is not False and option != {} for option in asked):
        raise BadUsage(
            "Say what size you want: --scale, --set, --widths, --params, --macs, --latency or --lossless."
        )
    if output == PIPE and not dry_run:
        require_pipe_out()


def require_own_files(
    loaded: LoadedModel, read: dict[str, Path | None], output: Path | None, plan: Path | None, refits: bool
) -> None:
    """Refuse to write over what is read, or two things to one file."""
    from conet_graph.cli.files import PIPE, check_outputs, model_files, named_inputs
    from conet_graph.rewriting.refits import tensors_path

    inputs = [*model_files(loaded, "the model"), *named_inputs(read)]
    tensors = tensors_path(plan) if plan is not None and refits else None
    written = None if output == PIPE else output
    check_outputs({"-o": written, "--plan": plan, "the plan's tensors": tensors}, inputs)


def calibration_inputs(
    spec: str | None, graph: Graph, samples: int, init: str, seed: int, colours: Colours | None
) -> Calibration | None:
    """The inputs that ``--calibrate`` names; None where it is not given."""
    if spec is None and colours is not None:
        raise BadUsage("--mean and --std are of the images of --calibrate: give it, too.")
    if spec is None:
        return None
    if init != "keep":
        raise BadUsage("--calibrate keeps what the weights have learnt: leave out --init fresh.")
    from conet_graph.calibration.inputs import open_calibration

    return open_calibration(spec, graph, samples, seed, colours)


def widths_set(entries: list[str]) -> dict[str, int]:
    """Widths by name, from ``--set``."""
    found: dict[str, int] = {}
    for entry in entries:
        name, _, number = entry.rpartition("=")
        if not name or not number.strip().isdigit():
            raise BadUsage(f"--set {shown(entry)} is not NAME=NUMBER, as in --set layer1.0.conv1=48.")
        found[name] = int(number)
    return found


def widths_file(path: Path | None) -> dict[str, int]:
    """Widths by name, from the file of ``--widths``."""
    if path is None:
        return {}
    from conet_graph.regular_file import read_text

    text = read_text(path, "file of widths")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise BadUsage(f'{shown(str(path))} is not JSON: write {{"g3": 48}}.') from None
    if not isinstance(data, dict) or not all(type(v) is int for v in data.values()):
        raise BadUsage(f'{shown(str(path))} must map names to whole numbers: {{"g3": 48}}.')
    return data


def target(text: str | None, option: str) -> float | None:
    """A fraction or a number from the text of an option; None where it is not given."""
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
