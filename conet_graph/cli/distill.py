"""``conet-graph distill``: recover a rewritten network's accuracy without labels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conet_graph.cli.colours import Mean, Std, colours_of
from conet_graph.cli.common import Debug, Json, console, guarded, print_json, say
from conet_graph.ir.errors import BadUsage, shown

if TYPE_CHECKING:
    from conet_graph.trials.recover import Recovery


@guarded
def distill(
    student: Annotated[Path, typer.Argument(help="The network to train: an ONNX file.", show_default=False)],
    teacher: Annotated[Path, typer.Option(help="The network to imitate: an ONNX file.", show_default=False)],
    images: Annotated[
        str,
        typer.Option(
            help="Images to learn from: a folder, an npz file, or as in --data.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    epochs: Annotated[int, typer.Option(min=1, help="How often to go through the images.")] = 10,
    batch: Annotated[int, typer.Option(min=2, help="Images in one step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 1e-3,
    image: Annotated[
        int | None, typer.Option(min=1, help="Side of the images, where the network leaves it free.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Height and width of the images, where they are free."),
    ] = None,
    augment: Annotated[
        str, typer.Option(help="Vary the images: none, crop, flip or crop,flip. Text stays as it is.")
    ] = "none",
    bgr: Annotated[bool, typer.Option("--bgr", help="The network takes blue first, as OpenCV does.")] = False,
    mean: Mean = None,
    std: Std = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a network to give another one's outputs, from images without labels.

    Any outputs will do: logits, feature maps, detections before NMS. Of the weights, those that came
    nearest to the teacher on images kept aside are written.

    Example: conet-graph distill slim.onnx --teacher model.onnx --images photos/ -o recovered.onnx
    """
    from conet_graph.cli.files import check_outputs, data_input, named_inputs
    from conet_graph.ir.load import load_model
    from conet_graph.rewriting.rewriting import save
    from conet_graph.trials.distill import DistillSettings
    from conet_graph.trials.distributed import chosen_device
    from conet_graph.trials.recover import Recovery, corresponding, signature
    from conet_graph.trials.unlabelled import open_images

    if not output.parent.is_dir():
        raise BadUsage(f"There is no folder {shown(str(output.parent))}: make it first.")
    inputs = {"the student": student, "the teacher": teacher, "the images": data_input(images)}
    check_outputs({"-o": output}, named_inputs(inputs))
    settings = DistillSettings(epochs=epochs, batch=batch, learning_rate=lr)
    model, original = load_model(student), load_model(teacher)
    recovery = Recovery(
        student=model,
        teacher=teacher,
        outputs=corresponding(model, original),
        images=open_images(
            images,
            signature(model, "student").image,
            image=_size(size, image),
            colours=colours_of(mean, std),
            augment=_variations(augment),
            bgr=bgr,
        ),
        settings=settings,
        device=chosen_device(device),
        seed=seed,
    )
    history = _trained(recovery)
    save(recovery.student, output)
    best = min(history, key=lambda epoch: epoch["error"])
    if best["epoch"] == 0:
        say("No epoch came nearer to the teacher than the start: what was written is the student as it was.")
    if json:
        print_json(_summary(recovery, history, best, output))
        return
    out = console()
    height, width = recovery.images.size
    out.print(f"images: {recovery.images.count} of {height} x {width} (height x width)")
    out.print(f"at first: {_line(history[0])}")
    out.print(f"nearest to the teacher, after epoch {best['epoch']:.0f}: {_line(best)}")
    out.print(f"wrote {output}", soft_wrap=True)


def _summary(
    recovery: Recovery, history: list[dict[str, float]], best: dict[str, float], output: Path
) -> dict[str, Any]:
    return {
        "format": "conet-graph.distill/1",
        "output": str(output),
        "images": recovery.images.count,
        "images_aside": recovery.images.aside_count,
        "size": list(recovery.images.size),
        "best_epoch": int(best["epoch"]),
        "epochs": history,
    }


def _size(size: str | None, side: int | None) -> tuple[int, int] | int | None:
    if size is None:
        return side
    if side is not None:
        raise BadUsage("--size and --image both say how large the images are: give one of them.")
    height, _, width = size.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise BadUsage(f"--size {shown(size)} is not HEIGHTxWIDTH, as in 48x192.")
    return int(height), int(width)


def _variations(text: str) -> set[str]:
    from conet_graph.trials.unlabelled import VARIATIONS

    asked = {part.strip() for part in text.split(",")} - {"none"}
    if not asked <= VARIATIONS or (asked and "none" in text):
        raise BadUsage(f"--augment {shown(text)} is none of: none, crop, flip, or crop,flip.")
    return asked


def _trained(recovery: Recovery) -> list[dict[str, float]]:
    """Train; returns the metrics of all epochs.

    On stderr: a progress bar on a terminal, gone when done; elsewhere a line an epoch.
    """
    from rich.console import Console
    from rich.progress import Progress

    history: list[dict[str, float]] = []
    epochs, stderr = recovery.settings.epochs, Console(stderr=True)
    bar = Progress(
        *Progress.get_default_columns(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with bar:
        task = bar.add_task("", total=epochs * recovery.images.train_batches(recovery.settings.batch))
        for metrics in recovery.run(lambda: bar.advance(task)):
            history.append(metrics)
            done = f"epoch {metrics['epoch']:.0f}/{epochs}  error {metrics['error']:.4f}"
            bar.update(task, description=done)
            if not stderr.is_terminal:
                print(f"{done}  {metrics['seconds']:.1f} s", file=sys.stderr, flush=True)
    return history


def _line(metrics: dict[str, float]) -> str:
    agreement = f", same class for {metrics['agreement']:.1%}" if "agreement" in metrics else ""
    return f"error {metrics['error']:.4f} of the outputs' variance{agreement}"
