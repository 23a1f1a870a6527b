"""``conet-graph report``: a search as an HTML page and plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conet_graph.cli.common import Debug, Json, console, guarded, print_json
from conet_graph.cli.steps import step

if TYPE_CHECKING:
    from conet_graph.search.recorded import RecordedRun


@guarded
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a search.", show_default=False)],
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write the page  [default: RUN/report/index.html]"),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a search as one HTML page that needs no network, and its pictures as PNG and SVG files.

    The pictures go to RUN/report/. A search that is still running is shown as it stands.

    Example: conet-graph report runs/resnet20 --html report.html
    """
    from conet_graph.cli.files import check_outputs
    from conet_graph.report.page import write_page
    from conet_graph.report.plot_files import write_plots
    from conet_graph.search.read_run import read_run

    folder = run / "report"
    if html is not None:
        inside = [path for path in run.rglob("*") if folder not in path.parents] if run.is_dir() else []
        check_outputs({"--html": html}, [("a file of the search", p) for p in inside if p.is_file()])
    step("drawing")
    data = read_run(run)
    plots = write_plots(data, folder)
    page = html or folder / "index.html"
    write_page(data, page)
    if json:
        print_json(_summary(data, page, plots))
        return
    out = console()
    out.print(f"wrote {page}", soft_wrap=True)
    out.print(f"wrote {len(plots)} pictures to {folder}", soft_wrap=True)


def _summary(run: RecordedRun, page: Path, plots: list[Path]) -> dict[str, Any]:
    return {
        "format": "conet-graph.report/1",
        "run": str(run.folder),
        "status": run.status,
        "trials": len(run.trials),
        "html": str(page),
        "plots": [str(path) for path in plots],
    }
