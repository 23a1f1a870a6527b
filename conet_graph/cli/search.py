"""``conet-graph search``: find the channel sizes of a network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conet_graph.cli.common import INTERRUPTED, Debug, Json, console, guarded, print_json, quantity, say
from conet_graph.cli.stopping import terminated_like_interrupted
from conet_graph.ir.errors import BadUsage, ConetGraphError, shown

if TYPE_CHECKING:
    from conet_graph.search.network import Network
    from conet_graph.search.run_folder import RunFolder
    from conet_graph.search.run_store import RunStore
    from conet_graph.search.runner import Tools
    from conet_graph.search.settings import RunSettings
    from conet_graph.search.watch import Watch

OWN = "own"


@guarded
def search(
    model: Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder of the search.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, npz:FILE, folder:DIR, cifar10:DIR, cifar100:DIR or imagenet:DIR  [default: digits]"
        ),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="conet, slopes, conetv2, worth, pairs, surface, loose, taper (docs/SEARCH.md)  [conet]"
        ),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Sizes whose rank grows slower in an epoch shrink  [default: 0.01]")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="The most trials  [default: 25]")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a trial  [default: 20]")] = None,
    width: Annotated[
        str | None,
        typer.Option(help="The first width of every size, or 'own': the file's  [default: 32]"),
    ] = None,
    mu: Annotated[
        float | None, typer.Option(help="Sizes of this condition and more shrink  [default: 10]")
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(help="A size that turns round with a smaller step stops  [default: 0.01]")
    ] = None,
    phi: Annotated[float | None, typer.Option(help="The first step, in widths  [default: 0.2]")] = None,
    min_width: Annotated[int | None, typer.Option(help="No width under this  [default: 16]")] = None,
    max_width: Annotated[int | None, typer.Option(help="No width over this  [default: 256]")] = None,
    multiple_of: Annotated[int | None, typer.Option(help="Round widths to a multiple  [default: 2]")] = None,
    warm: Annotated[
        bool | None, typer.Option("--warm", help="Trials go on with the last one's weights.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images in a step  [default: 128]")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate  [default: 0.1]")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="adas, step, cosine, one-cycle or constant  [default: adas]")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of SGD  [default: 0.0005]")] = None,
    augment: Annotated[bool | None, typer.Option("--augment", help="Crop and flip training images.")] = None,
    cutout: Annotated[
        bool | None,
        typer.Option("--cutout", help="With --augment: cut them out, too; the published searches do not."),
    ] = None,
    image: Annotated[int | None, typer.Option(help="Scale images to this side.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch CIFAR where it is missing.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random  [default: 0]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps  [default: auto]")] = None,
    max_params: Annotated[
        float | None,
        typer.Option(help="No trial has more parameters: a number, or a fraction of the file's."),
    ] = None,
    max_macs: Annotated[
        float | None, typer.Option(help="No trial has more MACs: a number, or a fraction of the file's.")
    ] = None,
    max_hours: Annotated[float | None, typer.Option(help="Stop after so many hours of training.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in the folder.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the channel sizes of a network: train, watch the ranks, widen or narrow, again (CONet).

    The folder holds final.onnx, widths.json (for `rewrite --widths`), run.sqlite and an ONNX file of each
    trial. It can be stopped at any moment; --resume goes on, with more --trials if you like.

    Example: conet-graph search model.onnx --data npz:images.npz --out runs/a --delta 0.01 --trials 10
    """
    given: dict[str, Any] = {
        "data": data,
        "rule": rule,
        "delta": delta,
        "trials": trials,
        "epochs": epochs,
        **_first_width(width),
        "mu": mu,
        "gamma": gamma,
        "phi": phi,
        "min_width": min_width,
        "max_width": max_width,
        "multiple": multiple_of,
        "warm": warm,
        "batch": batch,
        "learning_rate": lr,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "augment": augment,
        "cutout": cutout,
        "image": image,
        "seed": seed,
        "device": device,
        "max_parameters": max_params,
        "max_macs": max_macs,
        "max_hours": max_hours,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    from conet_graph.search.begin import go_on, network_in
    from conet_graph.search.run_folder import RunFolder

    folder = RunFolder(out)
    tools = None if resume else _begun(folder, model, asked, download)
    with folder.locked():
        store, settings = go_on(folder, model, asked)
        with closing(store):
            network = network_in(folder)
            tools = tools or _tools(settings, download)
            interrupted = _run(folder, store, settings, network, tools)
            if json:
                print_json(_summary(folder, store, network))
            else:
                _show(folder, store, network)
    if interrupted:
        say(f"Interrupted. The same command with --resume goes on: {shown(str(out))} has all that was done.")
        raise typer.Exit(INTERRUPTED)


def _begun(folder: RunFolder, model: Path, asked: dict[str, Any], download: bool) -> Tools:
    """Lay out the folder of a new search; what its trials need."""
    from conet_graph.cli.files import check_outputs, data_input, named_inputs
    from conet_graph.ir.load import load_model
    from conet_graph.search.begin import begin
    from conet_graph.search.settings import RunSettings

    settings = RunSettings(data="digits").changed({"schedule": "adas", **asked})
    folder.require_empty()
    if folder.path.is_dir():
        kept = (folder.original, folder.final, folder.widths, folder.config, folder.database)
        inputs = {"the model": model, "the data": data_input(asked.get("data"))}
        check_outputs({f"--out's {path.name}": path for path in kept}, named_inputs(inputs))
    load_model(model)  # a wrong path is told before PyTorch is loaded
    tools = _tools(settings, download)
    begin(model, folder, settings, " ".join(sys.argv))
    return tools


def _first_width(text: str | None) -> dict[str, Any]:
    if text is None or text == OWN:
        return {} if text is None else {"own_widths": True}
    if not text.isdigit():
        raise BadUsage(f"--width {shown(text)} is neither a number nor '{OWN}'.")
    return {"start_width": int(text), "own_widths": False}


def _tools(settings: RunSettings, download: bool) -> Tools:
    from conet_graph.search.tools import standard_tools

    return standard_tools(settings, download=download)


def _run(folder: RunFolder, store: RunStore, settings: RunSettings, network: Network, tools: Tools) -> bool:
    """Search; whether it was interrupted."""
    from conet_graph.search.runner import Search
    from conet_graph.search.threads import threads_for

    threads = threads_for(network, settings.training.batch)
    try:
        with terminated_like_interrupted(), threads, _watching(settings, network) as watch:
            Search(folder, store, settings, network, tools, watch).run()
    except KeyboardInterrupt:
        return True
    except ConetGraphError:
        if not store.hours():
            folder.database.unlink()  # model and data do not fit, say: nothing is lost, the folder is free
        raise
    return False


@contextmanager
def _watching(settings: RunSettings, network: Network) -> Iterator[Watch]:
    from rich.console import Console

    from conet_graph.search.live import LiveTable, LogLines

    made = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        yield LogLines(made, settings, network.sizes)
        return
    table = LiveTable(made, settings, network.sizes)
    with table.live:
        yield table


def _summary(folder: RunFolder, store: RunStore, network: Network) -> dict[str, Any]:
    trials = store.trials()
    done = [trial for trial in trials if trial.status == "finished"]
    last = done[-1] if done else None
    states = {} if last is None else store.states(last.trial)
    settled = {} if last is None else store.settled(last.trial)
    return {
        "format": "conet-graph.search/1",
        "folder": str(folder.path),
        "status": store.about().get("status"),
        "trials": len(done),
        "seconds": sum(trial.seconds for trial in done),
        "graph_seconds": sum(trial.graph_seconds for trial in done),
        "indicator_seconds": sum(trial.indicator_seconds for trial in done),
        "parameters": None if last is None else last.parameters,
        "macs": None if last is None else last.macs,
        "test_accuracy": None if last is None else last.test_accuracy,
        "sizes": [
            {
                "size": size.name,
                "layers": list(size.layers),
                "original_width": size.width,
                "width": states[size.name].width if states else None,
                "settled": settled.get(size.name),
            }
            for size in network.sizes
        ],
        "final": str(folder.final) if folder.final.exists() else None,
    }


def _show(folder: RunFolder, store: RunStore, network: Network) -> None:
    from conet_graph.cli.table import Column, write_table
    from conet_graph.search.live import clock

    found = _summary(folder, store, network)
    if not found["trials"]:
        return
    first = store.states(0)
    rows = [
        [
            entry["size"],
            shown(", ".join(entry["layers"]))[1:-1],
            *(str(n) for n in (entry["original_width"], first[entry["size"]].width, entry["width"])),
            "settled" if entry["settled"] else "",
        ]
        for entry in found["sizes"]
    ]
    columns = [Column("size"), Column("layers", widest=48)]
    columns += [Column(title, right=True) for title in ("file", "first", "found")]
    write_table(sys.stdout, f"{len(rows)} sizes", [*columns, Column("")], rows)
    trials, out = store.trials(), console()
    accuracy = "" if found["test_accuracy"] is None else f", test accuracy {found['test_accuracy']:.1%}"
    out.print(
        f"{found['trials']} trials in {clock(found['seconds'])};"
        f" parameters {quantity(trials[0].parameters)} -> {quantity(found['parameters'])},"
        f" MACs {quantity(trials[0].macs)} -> {quantity(found['macs'])}{accuracy}"
    )
    out.print(
        f"of the time {_share(found, 'indicator_seconds')} on indicators,"
        f" {_share(found, 'graph_seconds')} on the graph"
    )
    if found["final"]:
        out.print(f"wrote {found['final']} and {folder.widths}", soft_wrap=True)


def _share(found: dict[str, Any], part: str) -> str:
    return f"{100 * found[part] / max(found['seconds'], 1e-9):.1f} %"
