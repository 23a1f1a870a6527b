"""``conet-graph train``: full training of a network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conet_graph.cli.common import Debug, Json, console, guarded, print_json
from conet_graph.ir.errors import BadUsage, shown

if TYPE_CHECKING:
    from conet_graph.trials.data import Data
    from conet_graph.trials.networks import FileNetwork, ZooNetwork
    from conet_graph.trials.settings import TrainSettings

CHECKPOINT = "last.safetensors"


@guarded
def train(
    model: Annotated[
        str,
        typer.Argument(help="An ONNX file, a name of the zoo, or torchvision:NAME.", show_default=False),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="digits, npz:FILE, folder:DIR, cifar10:DIR, cifar100:DIR or imagenet:DIR.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The ONNX file to write.", show_default=False)
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the training.")] = 100,
    batch: Annotated[int, typer.Option(min=2, help="Images in one step of one process.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate at the start, or the peak of one-cycle.")] = 0.1,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Of SGD.")] = 5e-4,
    nesterov: Annotated[bool, typer.Option("--nesterov", help="Nesterov's step.")] = False,
    schedule: Annotated[
        str, typer.Option(help="Of the learning rate: adas, step, cosine, one-cycle or constant.")
    ] = "cosine",
    step_epochs: Annotated[int, typer.Option(min=1, help="Schedule step: epochs between drops.")] = 25,
    step_factor: Annotated[float, typer.Option(help="Schedule step: what a drop multiplies by.")] = 0.5,
    adas_beta: Annotated[
        float, typer.Option(help="Schedule adas: what a layer keeps of its rate; 0.8 in searches.")
    ] = 0.95,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin with new weights instead of the file's.")
    ] = False,
    width: Annotated[int | None, typer.Option(min=1, help="Base width of a network of the zoo.")] = None,
    label_smoothing: Annotated[float, typer.Option(help="Share of the target given to all classes.")] = 0.0,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    augment: Annotated[
        bool, typer.Option("--augment", help="Crop, flip and cut out training images.")
    ] = False,
    sparsify: Annotated[
        str | None,
        typer.Option(
            metavar="bn|group",
            help="Draw channels to exact zeros, for rewrite --lossless: BatchNorm's scales, or whole groups.",
        ),
    ] = None,
    sparsity: Annotated[float, typer.Option(help="How strongly --sparsify draws.")] = 1e-3,
    cutout: Annotated[
        bool, typer.Option("--cutout/--no-cutout", help="Whether --augment cuts small images out.")
    ] = True,
    widths_from: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Zoo: the widths that a search of this network found."),
    ] = None,
    auxiliary: Annotated[
        float, typer.Option(help="Cells: add the auxiliary head, its loss times this.")
    ] = 0.0,
    drop_path: Annotated[
        float, typer.Option(help="Cells: drop operations, in the last epoch with this probability.")
    ] = 0.0,
    image: Annotated[int | None, typer.Option(min=1, help="Scale images to this side.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch CIFAR where it is missing.")] = False,
    keep_batchnorm: Annotated[
        bool, typer.Option("--keep-batchnorm", help="Do not fold BatchNorm into the weights at the end.")
    ] = False,
    amp: Annotated[
        bool | None,
        typer.Option("--amp/--no-amp", help="Compute in bfloat16.  [default: on GPUs]", show_default=False),
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--no-channels-last",
            help="Lay images out with channels last, which is faster.  [default: but for 3-D convolutions]",
            show_default=False,
        ),
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Run through torch.compile.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of the state after each epoch, and within.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder of TensorBoard's scalars.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a classifier and write it as ONNX: the weights go back into the file's own graph.

    BatchNorm that was folded away is put back for the training. With --checkpoint a training can be
    stopped at any moment, and --resume goes on. Several GPUs or machines: start it by torchrun.

    Example: conet-graph train slim.onnx --data npz:images.npz -o trained.onnx --epochs 50 --augment
    """
    from conet_graph.trials.data import open_data
    from conet_graph.trials.distributed import is_first
    from conet_graph.trials.networks import FileNetwork, write_trained
    from conet_graph.trials.settings import TrainSettings
    from conet_graph.trials.training import ClassificationTrial

    _require_own_file(output, model, data, widths_from, checkpoint)
    settings = TrainSettings(
        batch=batch,
        learning_rate=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
        schedule=schedule,
        step_epochs=step_epochs,
        step_factor=step_factor,
        adas_beta=adas_beta,
        label_smoothing=label_smoothing,
        clip=clip,
        auxiliary=auxiliary,
        drop_path=drop_path,
        sparsify=sparsify,
        sparsity=sparsity,
        amp=amp,
        channels_last=channels_last,
        compile=compile,
    )
    kept = _checkpoint_file(checkpoint, resume)
    source = open_data(data, augment=augment, cutout=cutout, image=image, download=download)
    network = _network(model, source, settings, fresh=fresh, width=width, widths_from=widths_from, seed=seed)
    show = is_first() and not json
    trial = ClassificationTrial(
        source,
        settings,
        device,
        tensorboard=tensorboard,
        progress=show,
        shrink=_shrink(network, settings, device),
    )
    if isinstance(network, FileNetwork):
        network.begin_nearest(source, batch, trial.device)
    out, history = console(), []
    for metrics in trial(network.module, epochs, seed=seed, checkpoint=kept):
        history.append(metrics)
        if show:
            out.print(_line(metrics, epochs))
        elif is_first():
            print(_line(metrics, epochs), file=sys.stderr, flush=True)  # stdout is for the document
    if not is_first():
        return
    write_trained(network, source, output, keep_batchnorm=keep_batchnorm)
    if json:
        print_json(_summary(history, output))
    else:
        out.print(f"wrote {output}", soft_wrap=True)


def _require_own_file(
    output: Path, model: str, data: str, widths_from: Path | None, checkpoint: Path | None
) -> None:
    """Refuse an output in no folder, or over what is read."""
    from conet_graph.cli.files import check_outputs, data_input, named_inputs

    if not output.absolute().parent.is_dir():
        raise BadUsage(f"There is no folder {shown(str(output.parent))}: make it first.")
    read = {"the run": widths_from, "the model": Path(model), "the data": data_input(data)}
    check_outputs({"-o": output}, named_inputs({**read, **_state(checkpoint)}))


def _shrink(
    network: FileNetwork | ZooNetwork, settings: TrainSettings, device: str
) -> Callable[[float], None] | None:
    """What --sparsify does after each step."""
    from conet_graph.trials.distributed import chosen_device
    from conet_graph.trials.networks import FileNetwork
    from conet_graph.trials.sparsify import sparsifier

    if settings.sparsify is None:
        return None
    if not isinstance(network, FileNetwork):
        raise BadUsage("--sparsify takes an ONNX file: write the network with 'conet-graph export' first.")
    network.module.to(chosen_device(device))
    return sparsifier(network.module, network.source, settings.sparsify, settings.sparsity)


def _state(folder: Path | None) -> dict[str, Path | None]:
    """Files of the training's state, which the network may not take the place of."""
    return {} if folder is None else {"the state in --checkpoint": folder / CHECKPOINT}


def _checkpoint_file(folder: Path | None, resume: bool) -> Path | None:
    if folder is None:
        if resume:
            raise BadUsage("--resume needs to know from where: give --checkpoint too.")
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadUsage(f"The folder {shown(str(folder))} cannot be made: {error.strerror}.") from None
    # What is written within the first epoch has another end to its name.
    if not resume and any(folder.glob(f"{Path(CHECKPOINT).stem}*")):
        raise BadUsage(
            f"{shown(str(folder))} holds a training already: give --resume to go on with it, or another"
            " folder."
        )
    return folder / CHECKPOINT


def _network(
    name: str,
    data: Data,
    settings: TrainSettings,
    *,
    fresh: bool,
    width: int | None,
    widths_from: Path | None,
    seed: int,
) -> FileNetwork | ZooNetwork:
    from conet_graph.ir.load import load_model
    from conet_graph.trials.networks import FileNetwork, ZooNetwork, is_zoo_name

    if is_zoo_name(name):
        options: dict[str, Any] = {"auxiliary": settings.auxiliary > 0, "drop_path": settings.drop_path}
        if widths_from is not None:
            from conet_graph.search.transfer import zoo_widths

            options["widths"] = zoo_widths(widths_from, name, data.shape[1])
        return ZooNetwork.of(name, data, seed=seed, width=width, **options)
    if width is not None or widths_from is not None or settings.auxiliary or settings.drop_path:
        raise BadUsage(
            "--width, --widths-from, --auxiliary and --drop-path are for networks of the zoo, not for a file."
        )
    return FileNetwork.of(load_model(name), fresh=fresh, seed=seed)


def _line(metrics: dict[str, float], epochs: int) -> str:
    return (
        f"epoch {metrics['epoch']:>{len(str(epochs))}.0f}/{epochs}  loss {metrics['train_loss']:.3f}"
        f"  train {metrics['train_accuracy']:.1%}  test {metrics['test_accuracy']:.1%}"
        f"  rate {metrics['learning_rate']:.3g}  {metrics['seconds']:.1f} s"
    )


def _summary(history: list[dict[str, float]], output: Path) -> dict[str, Any]:
    return {
        "format": "conet-graph.train/1",
        "output": str(output),
        "test_accuracy": history[-1]["test_accuracy"],
        "epochs": history,
    }
