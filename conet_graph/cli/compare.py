"""``conet-graph compare``: found widths beside uniform and random ones, equally trained."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conet_graph.cli.common import INTERRUPTED, Debug, Json, guarded, print_json, quantity, say
from conet_graph.cli.stopping import terminated_like_interrupted

if TYPE_CHECKING:
    from conet_graph.search.compare import Comparison, Summary
    from conet_graph.search.run_store import ComparedRow

NAMES = {
    "conet": "found by the search",
    "uniform": "scaled alike (compound)",
    "flat": "one width everywhere",
    "random": "random widths",
    "original": "the file's own",
}


@guarded
def compare(
    run: Annotated[Path, typer.Argument(help="The folder of a search.", show_default=False)],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of each training  [default: a trial's]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often each network is trained.")] = 3,
    schedule: Annotated[
        str | None,
        typer.Option(help="Of the learning rate, as `train` takes it  [default: the search's]"),
    ] = None,
    match: Annotated[
        str, typer.Option(help="What the others may cost no more of: params, macs or both.")
    ] = "params",
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...  [default: the search's]")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the widths that a search found beside others, all from fresh weights and equally long.

    The others, at the cost of the found widths: the file's own scaled by one factor (compound scaling), one
    width everywhere, random widths; and the file's own. It can be stopped at any moment; the same command
    goes on.

    Example: conet-graph compare runs/a --epochs 50 --seeds 3
    """
    from conet_graph.search.begin import go_on, network_in
    from conet_graph.search.compare import Comparison
    from conet_graph.search.run_folder import RunFolder
    from conet_graph.search.tools import standard_tools

    folder = RunFolder(run)
    with folder.locked():
        store, settings = go_on(folder, None, {})
        with closing(store):
            given = {"device": device, "schedule": schedule}
            settings = settings.changed({name: value for name, value in given.items() if value is not None})
            made = Comparison(folder, store, settings, network_in(folder), standard_tools(settings), match)
            epochs = epochs or settings.search.epochs
            stopped = _trained(made, epochs, seeds)
            cost = sum(trial.seconds for trial in store.trials())
            found = made.summaries(epochs)
            if json:
                entries = [{**asdict(s), "accuracy": s.accuracy, "spread": s.spread} for s in found]
                print_json({"format": "conet-graph.compare/1", "search_seconds": cost, "networks": entries})
            else:
                _show(found, cost)
    if stopped:
        say("Interrupted: the same command goes on.")
        raise typer.Exit(INTERRUPTED)


def _trained(made: Comparison, epochs: int, seeds: int) -> bool:
    """Train everything; whether it was interrupted."""

    def tell(done: ComparedRow) -> None:
        accuracy = "diverged" if done.test_accuracy is None else f"accuracy {done.test_accuracy:.1%}"
        say(f"{NAMES[done.kind.partition(' (')[0]]}, seed {done.seed}: {accuracy}")

    from conet_graph.search.threads import threads_for

    try:
        with terminated_like_interrupted(), threads_for(made.network, made.settings.training.batch):
            made.run(epochs, seeds, tell)
    except KeyboardInterrupt:
        return True
    return False


def _show(summaries: list[Summary], cost: float) -> None:
    from conet_graph.cli.table import Column, write_table
    from conet_graph.search.live import clock

    rows = [
        [
            NAMES[s.kind],
            f"{s.widths[0]}-{s.widths[1]}",
            quantity(s.parameters),
            quantity(s.macs),
            "" if s.latency_ms is None else f"{s.latency_ms:.3g} ms",
            _accuracy(s),
            "" if s.ahead is None else f"{100 * s.ahead[0]:+.2f} ± {100 * s.ahead[1]:.2f}",
            f"{s.seeds - len(s.accuracies)} of {s.seeds} diverged"
            if len(s.accuracies) < s.seeds
            else str(s.seeds),
            clock(cost) if s.kind == "conet" else "",
        ]
        for s in summaries
    ]
    if not rows:
        return
    titles = ("widths", "parameters", "MACs", "latency", "test accuracy", "found ahead by", "seeds", "search")
    columns = [Column("network"), *(Column(title, right=True) for title in titles)]
    write_table(sys.stdout, f"each trained {summaries[0].epochs} epochs", columns, rows)


def _accuracy(summary: Summary) -> str:
    if summary.accuracy is None:
        return "-"
    spread = "" if summary.spread is None else f" ± {100 * summary.spread:.2f}"
    return f"{100 * summary.accuracy:.2f}{spread} %"
