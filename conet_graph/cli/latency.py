"""``rewrite --latency`` and ``--check-speed``: networks timed apart, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conet_graph.cli.apart import timed
from conet_graph.cli.common import note, plain
from conet_graph.cli.progress import progress
from conet_graph.ir.errors import BadUsage, Refused

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray
    from rich.console import Console

    from conet_graph.calibration.inputs import Calibration
    from conet_graph.calibration.narrowing import Choice
    from conet_graph.costs.input_shapes import InputShapes
    from conet_graph.ir.graph import Graph
    from conet_graph.rewriting.alignment import Alignment
    from conet_graph.rewriting.targets import WidthRequest


@dataclass(frozen=True)
class Timing:
    """How networks are timed: ONNX Runtime's provider and threads, a table that is there, sizes of inputs."""

    provider: str | None
    threads: int
    table: Path | None
    shapes: InputShapes


def met_apart(
    graph: Graph,
    request: WidthRequest,
    latency: str,
    alignment: Alignment,
    timing: Timing,
    data: Calibration | None,
) -> tuple[NDArray[np.int64], dict[str, Any], Choice | None]:
    """Copies of each class for a time that is asked for, the times, and the choice by calibration inputs.

    Raises:
        BadUsage: another target is given, too, or the latency makes no sense.
        Refused: the goal is missed, or cannot be met.

    """
    import numpy as np

    from conet_graph.calibration.narrowing import Choice, Chooser
    from conet_graph.latency.kept import kept_path, kept_table
    from conet_graph.latency.meeting import Goal, meet, require_slower
    from conet_graph.latency.profile import profiled
    from conet_graph.latency.sessions import conditions_of
    from conet_graph.latency.table import Table
    from conet_graph.rewriting.targets import choose_copies

    goal = Goal.parse(latency)
    if request.scale is not None or request.params is not None or request.macs is not None:
        raise BadUsage("Give one of --scale, --params, --macs and --latency, not several.")
    given = Table.read(timing.table) if timing.table is not None and timing.table.exists() else None
    if given is not None and given.measured < given.asked:
        given = None  # it goes on where it was stopped
    with progress() as tell:

        def work() -> dict[str, Any]:
            conditions = conditions_of(timing.provider, timing.threads, timing.shapes)
            require_slower(graph, goal, conditions)
            path = timing.table or kept_path(graph, conditions, alignment)
            table = given or (kept_table(path) if timing.table is None and path is not None else None)
            again = table is not None

            def tell_layers(done: int, of: int) -> None:
                tell("timing layers", done / of)

            if table is None:
                table = profiled(graph, conditions, alignment, path=path, tell=tell_layers)
            choices: dict[bytes, Choice] = {}
            chooser = None if data is None else Chooser(graph, data, tell)

            def choose(asked: WidthRequest) -> NDArray[np.int64]:
                if chooser is None:
                    return choose_copies(graph, asked)
                choice = chooser.choose(asked)
                choices[choice.copies.tobytes()] = choice
                return choice.copies

            found = meet(graph, request, goal, table, conditions, choose)
            if path is not None and given is None:
                table.write(path)
            chosen = choices.get(found.copies.tobytes())
            return {
                "copies": found.copies.tolist(),
                "missed": found.missed,
                "choice": None if chosen is None else [chosen.predicted, chosen.tried, chosen.best],
                "times": {
                    **found.to_json(),
                    **conditions.to_json(),
                    "table": {"path": None if path is None else str(path), "measured_before": again},
                },
            }

        told = timed(work)
    if told["missed"]:
        raise Refused(f"The goal is missed, nothing was written: {_sentence(told['times'])}.")
    copies = np.array(told["copies"], np.int64)
    return copies, told["times"], None if told["choice"] is None else Choice(copies, *told["choice"])


def speed_apart(graph: Graph, proto: onnx.ModelProto, timing: Timing) -> dict[str, Any]:
    """Times of a network and of what it was rewritten to."""
    from conet_graph.latency.meeting import original_of
    from conet_graph.latency.sessions import conditions_of, opened, raced

    def work() -> dict[str, Any]:
        conditions = conditions_of(timing.provider, timing.threads, timing.shapes)
        before, after = original_of(graph, conditions), opened(proto, graph.folder, conditions)
        first, second, share = raced(before, after)
        return {
            "measured_ms": second.to_json(),
            "original_ms": first.to_json(),
            "share": share,
            **conditions.to_json(),
        }

    return timed(work)


def show_times(out: Console, found: dict[str, Any]) -> None:
    """One line, and a warning where the rewritten network is slower."""
    out.print(f"time {_sentence(found)}")
    table = found.get("table")
    if table is not None and table["measured_before"]:
        out.print(f"times of layers: measured before, {plain(table['path'])} (remove it to measure anew)")
    if found["share"] >= 1:
        note(f"Warning: the network is slower than the original: {found['share']:.2f} times its time.")


def _sentence(found: dict[str, Any]) -> str:
    old, new = found["original_ms"], found["measured_ms"]
    text = f"{old['median']:.4g} ms -> {new['median']:.4g} ms ({100 * found['share']:.1f} %)"
    if "goal_ms" in found:
        text += f", goal {found['goal_ms']:.4g} ms, predicted {found['predicted_ms']:.4g} ms"
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    return f"{text}; medians, quartiles {new['spread']:.2g} ms apart, {found['provider']}, {threads}"
