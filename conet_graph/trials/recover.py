"""A narrow network learns from the original that it was made from: two ONNX models in, one out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import onnx
import torch

from conet_graph.bridge import from_torch, trainable
from conet_graph.ir.errors import BadUsage, shown
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel
from conet_graph.passes.fold_batchnorm import fold_batchnorm
from conet_graph.passes.insert_batchnorm import insert_batchnorm, was_inserted
from conet_graph.trials.distill import DistillSettings, distill
from conet_graph.trials.heads import Teacher
from conet_graph.trials.onnx_teacher import OnnxTeacher
from conet_graph.trials.unlabelled import Images

# A size of a value: a number, or None where the model leaves it free or does not say.
Dims = tuple[int | None, ...]
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}


class Signature(NamedTuple):
    """The one image input of a network, without the batch, and its outputs in order (None: not declared)."""

    image: Dims
    outputs: dict[str, Dims | None]


def signature(model: LoadedModel, called: str) -> Signature:
    """What a network takes and gives.

    Raises:
        BadUsage: it does not take one batch of float images.

    """
    graph = Graph.of(model)
    entries = [v for v in graph.skeleton.graph.input if v.name in set(graph.inputs)]
    if len(entries) != 1:
        raise BadUsage(
            f"The {called} has {len(entries)} inputs: distillation takes networks of one image input."
        )
    dims = _dims(entries[0])
    if dims is None or len(dims) != 4 or entries[0].type.tensor_type.elem_type not in FLOATS:
        raise BadUsage(
            f"The {called}'s input {shown(entries[0].name)} is not a batch of float images with four axes."
        )
    return Signature(dims[1:], {v.name: _dims(v) for v in graph.skeleton.graph.output})


def _dims(value: onnx.ValueInfoProto) -> Dims | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.WhichOneof("value") == "dim_value" else None
        for d in value.type.tensor_type.shape.dim
    )


def corresponding(student: LoadedModel, teacher: LoadedModel) -> list[str]:
    """The teacher's outputs, in the order of the student's that shall imitate them.

    They correspond by name where the names are the same, else by position.

    Raises:
        BadUsage: inputs or outputs do not correspond.

    """
    mine, other = signature(student, "student"), signature(teacher, "teacher")
    if not _agree(mine.image, other.image):
        raise BadUsage(
            f"The student takes images of {_text(mine.image)}, the teacher of {_text(other.image)}:"
            " they must take the same."
        )
    if len(mine.outputs) != len(other.outputs):
        raise BadUsage(
            f"The student has {len(mine.outputs)} outputs, the teacher {len(other.outputs)}:"
            " they must correspond."
        )
    names = list(mine.outputs if set(mine.outputs) == set(other.outputs) else other.outputs)
    for name, wanted in zip(mine.outputs, names, strict=True):
        have, want = mine.outputs[name], other.outputs[wanted]
        if have is not None and want is not None and not _agree(have[1:], want[1:]):
            raise BadUsage(
                f"The student's output {shown(name)} has the shape {_text(have)}, the teacher's"
                f" {shown(wanted)} {_text(want)}: they must be the same."
            )
    return names


def _agree(mine: Dims, other: Dims) -> bool:
    return len(mine) == len(other) and all(None in (a, b) or a == b for a, b in zip(mine, other, strict=True))


def _text(dims: Dims) -> str:
    return " x ".join("any" if d is None else str(d) for d in dims)


@dataclass
class Recovery:
    """A student that learns from a teacher; ``run`` trains, ``student`` is what came of it.

    BatchNorm that an exporter folded into the convolutions is put back for the training, which goes badly
    without, and folded again.
    """

    student: LoadedModel
    teacher: Path
    outputs: Sequence[str]
    images: Images
    settings: DistillSettings
    device: torch.device
    seed: int = 0

    def run(self, after_step: Callable[[], None] = lambda: None) -> Iterator[dict[str, float]]:
        """Train; yields what ``distill`` yields. Once it has ended, ``student`` is the best one.

        Raises:
            BadUsage: the networks or the images do not correspond.
            Refused: the student has no form in PyTorch, or takes no other batch than the file's.
            TrialFailed: the training diverged; ``student`` is as it was.

        """
        prepared = insert_batchnorm(self.student)
        module = trainable(prepared)
        teacher: Teacher = OnnxTeacher(self.teacher, self.outputs, self.device)
        yield from distill(
            module,
            teacher,
            self.images,
            self.settings,
            names=self.outputs,
            seed=self.seed,
            device=self.device,
            after_step=after_step,
        )
        trained = from_torch(module, prepared)
        self.student = fold_batchnorm(trained) if was_inserted(self.student, prepared) else trained
