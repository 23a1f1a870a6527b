"""``conet-graph sweep``: many searches of one network, in parallel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conet_graph.cli.common import INTERRUPTED, Debug, Json, guarded, print_json, quantity, say
from conet_graph.cli.stopping import terminated_like_interrupted
from conet_graph.ir.cores import cores
from conet_graph.ir.errors import BadUsage, shown

if TYPE_CHECKING:
    from conet_graph.search.sweep import Job, SweepResult, SweepRow, Tell

FAILED = 1


@guarded
def sweep(
    model: Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)],
    rest: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTIONS]", help="Options of every search.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of all searches.")] = Path("sweep"),
    delta: Annotated[str, typer.Option(help="Values, as in 0.0025,0.005,0.01")] = "",
    epochs: Annotated[str, typer.Option(help="Values, as in 10,20")] = "",
    phi: Annotated[str, typer.Option(help="Values, as in 0.1,0.2")] = "",
    mu: Annotated[str, typer.Option(help="Values, as in 5,10")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Searches of each combination, with seeds 0, 1, ...")] = 1,
    jobs: Annotated[int, typer.Option(min=0, help="Searches at a time here; 0: half of the cores.")] = 0,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster: its address, 'auto' or 'local'.")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="With --ray: cores for each search.")] = 1.0,
    gpus: Annotated[
        float, typer.Option(min=0, help="With --ray: GPUs for each search; 0.5 shares one.")
    ] = 0.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Search with every combination of the values and every seed, in parallel.

    What follows `--` goes to every search. A search that is killed goes on from its folder; the same
    command goes on with an interrupted sweep. OUT gets sweep.json, sweep.png and sweep.svg (accuracy against
    parameters).

    Example: conet-graph sweep model.onnx --out runs/s --delta 0.0025,0.005 --seeds 3 -- --data npz:images.npz
    """
    from conet_graph.cli.files import check_outputs, named_inputs
    from conet_graph.search.sweep import grid, result_of, rows_of

    lists = {"delta": delta, "epochs": epochs, "phi": phi, "mu": mu}
    planned = grid({name: _values(text, f"--{name}") for name, text in lists.items()}, seeds, out.absolute())
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadUsage(f"The folder {shown(str(out))} cannot be made: {error.strerror}.") from None
    made = {f"--out's {name}": out / name for name in ("sweep.json", "sweep.png", "sweep.svg")}
    check_outputs(made, named_inputs({"the model": model}))
    codes: dict[Path, int] = {}

    def tell(job: Job, code: int) -> None:
        codes[job.folder] = code
        what = {0: "done", 1: "failed", 2: "refused", INTERRUPTED: "interrupted"}.get(code, "lost")
        say(f"{job.folder.name}: {what}{'' if code == 0 else f', see {shown(str(job.log))}'}")

    stopped = False
    try:
        with terminated_like_interrupted():
            _run(planned, model.absolute(), rest or [], tell, jobs, ray, cpus, gpus)
    except KeyboardInterrupt:
        stopped = True
    results = [result_of(job) for job in planned]
    rows = rows_of(results)
    _write(out, rows, results)
    if json:
        print_json(_document(results))
    else:
        _show(rows)
    if stopped:
        say("Interrupted: the same command goes on.")
        raise typer.Exit(INTERRUPTED)
    if any(codes.values()):
        raise typer.Exit(FAILED)


def _values(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise BadUsage(f"{option} {shown(text)} is no list of numbers, as in 0.0025,0.005.") from None


def _run(
    planned: list[Job],
    model: Path,
    rest: list[str],
    tell: Tell,
    jobs: int,
    ray: str | None,
    cpus: float,
    gpus: float,
) -> None:
    from conet_graph.cli import run
    from conet_graph.search.sweep import LocalProcesses
    from conet_graph.search.sweep_ray import RayCluster

    if ray is not None:
        RayCluster(ray, run, cpus, gpus).search(planned, model, rest, tell)
    else:
        LocalProcesses(jobs or max(1, cores() // 2)).run(planned, model, rest, tell)


def _document(results: list[SweepResult]) -> dict[str, object]:
    return {"format": "conet-graph.sweep/1", "searches": [result.entry() for result in results]}


def _write(out: Path, rows: list[SweepRow], results: list[SweepResult]) -> None:
    import json

    from conet_graph.ir.save import atomic_write
    from conet_graph.report.sweep_plot import write_picture

    atomic_write(out / "sweep.json", [(json.dumps(_document(results), indent=1) + "\n").encode()])
    write_picture(rows, out / "sweep")


def _show(rows: list[SweepRow]) -> None:
    from conet_graph.cli.table import Column, write_table
    from conet_graph.report.sweep_plot import options_text
    from conet_graph.search.live import clock

    cells = [
        [
            options_text(row.options),
            f"{sum(r.status == 'finished' for r in row.results)} of {len(row.results)}",
            _number(row.mean("parameters")),
            _number(row.mean("macs")),
            _percent(row),
            clock(row.mean("seconds") or 0.0),
        ]
        for row in rows
    ]
    titles = ("finished", "parameters", "MACs", "test accuracy", "time")
    columns = [Column("searches"), *(Column(title, right=True) for title in titles)]
    write_table(sys.stdout, "means over seeds", columns, cells)


def _number(number: float | None) -> str:
    return quantity(None if number is None else round(number))


def _percent(row: SweepRow) -> str:
    mean, spread = row.mean("accuracy"), row.spread("accuracy")
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}{'' if spread is None else f' ± {100 * spread:.2f}'} %"
