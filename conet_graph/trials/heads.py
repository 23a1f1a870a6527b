"""The outputs of a teacher that a student imitates, and how far from them it is.

Every float output counts alike, whatever its scale: its squared error is divided by the variance that the
teacher's output has over images, so that 1 is what the best constant answer gets. Outputs that look like
the scores of a classifier, [N, classes], are also compared as distributions, softened by a temperature
(Hinton, Vinyals and Dean, 2015): there the small scores carry what the teacher knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import kl_div

from conet_graph.ir.errors import BadUsage, shown
from conet_graph.trials.answers import are_probabilities

FEATURES, LOGITS, PROBABILITIES = "features", "logits", "probabilities"
# Where the teacher's output varies less (scores of what no image shows), differences are not worth learning.
LEAST_VARIANCE = 1e-8
# Probabilities are lifted to this before their logarithm is taken.
TINY = 1e-8

Teacher = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Head:
    """One output: its place among the outputs, its name, its kind, and its mean variance over images."""

    place: int
    name: str
    kind: str
    variance: float

    @property
    def classifies(self) -> bool:
        """Whether it gives scores of classes."""
        return self.kind != FEATURES

    def error(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean squared error in units of the teacher's variance: a scalar."""
        return (student.float() - teacher.float()).square().mean() / self.variance

    def loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """What training minimises: the error, and for classifiers also the softened divergence."""
        error = self.error(student, teacher)
        if not self.classifies:
            return error
        mine, wanted = (self._softened(scores.float(), temperature) for scores in (student, teacher))
        return error + temperature**2 * kl_div(mine, wanted, reduction="batchmean", log_target=True)

    def _softened(self, scores: Tensor, temperature: float) -> Tensor:
        # The logarithm of a softmax is its input, but for a constant.
        logits = scores.clamp_min(TINY).log() if self.kind == PROBABILITIES else scores
        return (logits / temperature).log_softmax(1)


def find_heads(teacher: Teacher, batches: Iterable[Tensor], names: Sequence[str]) -> list[Head]:
    """Find what a teacher's float outputs are like, over some images.

    Raises:
        BadUsage: no output has floats, or one has not the same shape for every image.

    """
    seen: dict[int, _Seen] = {}
    for images in batches:
        for place, output in enumerate(teacher(images)):
            if output.is_floating_point():
                head = seen.setdefault(place, _Seen(names[place]))
                head.add(output, len(images))
    if not seen:
        raise BadUsage("The teacher has no output of floats: there is nothing to imitate.")
    return [Head(place, head.name, head.kind(), head.variance()) for place, head in seen.items()]


@dataclass
class _Seen:
    """Sums over images of one output, at each position of it, in float64."""

    name: str
    count: int = 0
    total: Tensor | None = None
    squares: Tensor | None = None
    shares: bool = True

    def add(self, output: Tensor, images: int) -> None:
        """One batch more."""
        fits = output.dim() > 0 and len(output) == images
        if not fits or (self.total is not None and output.shape[1:] != self.total.shape):
            raise BadUsage(
                f"Output {shown(self.name)} has the shape {list(output.shape)} for {images} images: only"
                " outputs of one shape for each image can be imitated (detections before NMS)."
            )
        values = output.double()
        self.count += images
        self.total = values.sum(0) + (0 if self.total is None else self.total)
        self.squares = values.square().sum(0) + (0 if self.squares is None else self.squares)
        self.shares &= are_probabilities(values.flatten(1))

    def kind(self) -> str:
        assert self.total is not None
        if self.total.dim() != 1 or len(self.total) < 2:
            return FEATURES
        return PROBABILITIES if self.shares else LOGITS

    def variance(self) -> float:
        """Mean over positions; an output that is the same for all images is measured by its square."""
        assert self.total is not None
        assert self.squares is not None
        mean_square = self.squares / self.count
        variance = (mean_square - (self.total / self.count).square()).clamp_min(0).mean()
        square = float(mean_square.mean())
        return max(float(variance) if float(variance) > 1e-9 * square else square, LEAST_VARIANCE)
