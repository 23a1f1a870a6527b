"""Distillation: the heads, the settled BatchNorms, and a student that learns."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conet_graph.ir.errors import BadUsage
from conet_graph.trials.distill import DistillSettings, distill
from conet_graph.trials.errors import TrialFailed
from conet_graph.trials.heads import FEATURES, LOGITS, PROBABILITIES, find_heads
from conet_graph.trials.settle_batchnorm import begin_nearest, settle_batchnorm
from conet_graph.trials.unlabelled import open_images

CPU = torch.device("cpu")


class TwoHeads(nn.Module):
    """A feature map and scores; its convolution has a BatchNorm."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.classify = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.norm(self.conv(images)).relu()
        return features, self.classify(features.mean((2, 3)))


@pytest.fixture(autouse=True)
def _own_numbers() -> None:
    torch.manual_seed(0)


def as_teacher(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def test_heads_are_told_apart_and_measured_in_the_teachers_variance() -> None:
    scale = torch.tensor([100.0, 1.0])

    def teacher(images: Tensor) -> Sequence[Tensor]:
        flat = images.flatten(1)
        return images * 7, flat[:, :2] * scale, flat.softmax(1), flat.argmax(1)

    batches = [torch.randn(50, 1, 3, 3) for _ in range(20)]
    heads = find_heads(teacher, batches, ("map", "scores", "shares", "class"))
    assert [(h.place, h.name, h.kind) for h in heads] == [
        (0, "map", FEATURES),
        (1, "scores", LOGITS),
        (2, "shares", PROBABILITIES),
    ]
    assert heads[0].variance == pytest.approx(49, rel=0.05)
    assert heads[1].variance == pytest.approx((100**2 + 1) / 2, rel=0.1)
    images = torch.cat(batches)
    constant = torch.zeros_like(images)
    assert float(heads[0].error(constant, images * 7)) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("kind", [LOGITS, PROBABILITIES])
def test_the_loss_of_a_classifier_is_least_at_the_teachers_answer(kind: str) -> None:
    wanted = torch.randn(8, 5)
    wanted = wanted.softmax(1) if kind == PROBABILITIES else wanted
    (head,) = find_heads(lambda images: [wanted], [torch.zeros(8, 1)], ("scores",))
    assert head.kind == kind
    assert float(head.loss(wanted, wanted, 4.0)) == pytest.approx(0, abs=1e-6)
    other = wanted.flip(1)
    assert float(head.loss(other, wanted, 4.0)) > float(head.error(other, wanted)) > 0


@pytest.mark.parametrize("shape", [(3,), (), (5, 2)])
def test_outputs_that_are_not_one_an_image_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadUsage, match=r"Output 'boxes' has the shape .* before NMS"):
        find_heads(lambda images: [torch.zeros(shape)], [torch.zeros(4, 1)], ("boxes",))


def test_without_a_float_output_there_is_nothing_to_imitate() -> None:
    with pytest.raises(BadUsage, match="nothing to imitate"):
        find_heads(lambda images: [images.argmax(1)], [torch.zeros(4, 1)], ("class",))


def fresh(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """As ``insert_batchnorm`` leaves it: nothing changes in evaluation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    nn.init.normal_(norm.bias)
    return norm


def test_a_settled_batchnorm_is_the_same_function_in_training() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), fresh(nn.BatchNorm2d(5)), nn.ReLU(), nn.Conv2d(5, 2, 1))
    images = torch.randn(64, 3, 12, 12) * 3 + 1
    wanted = net.eval()(images).detach()
    unsettled = net.train()(images).detach()
    assert float((unsettled - wanted).abs().mean()) > 0.1 * float(wanted.abs().mean())
    fresh(net[1])  # type: ignore[arg-type]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    wanted = net.eval()(images).detach()
    net.train()
    assert settle_batchnorm(net, images.split(16)) == 1
    assert net.training
    assert torch.equal(net[0].weight, state["0.weight"])  # type: ignore[arg-type]
    torch.testing.assert_close(net.eval()(images), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net.train()(images), wanted, atol=1e-3, rtol=1e-3)


def test_a_trained_batchnorm_and_a_constant_channel_stay_as_they_are() -> None:
    trained = nn.BatchNorm2d(4)
    assert trained.running_mean is not None
    trained.running_mean.fill_(0.5)
    assert settle_batchnorm(nn.Sequential(trained), [torch.randn(4, 4, 2, 2)]) == 0
    constant = fresh(nn.BatchNorm2d(1))
    assert settle_batchnorm(nn.Sequential(constant), [torch.full((4, 1, 2, 2), 3.0)]) == 1
    torch.testing.assert_close(constant.weight, torch.ones(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("keeps", [True, False])
def test_batchnorms_begin_with_the_better_function(keeps: bool) -> None:
    images = torch.randn(64, 3, 12, 12) * 3 + 1
    net = nn.Sequential(nn.Conv2d(3, 5, 3), fresh(nn.BatchNorm2d(5)), nn.ReLU(), nn.Conv2d(5, 2, 1))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    own, by_the_batch = net.eval()(images).detach(), net.train()(images).detach()
    net.load_state_dict(state)
    goal = own if keeps else by_the_batch

    def loss() -> float:
        return float((net(images) - goal).square().mean())

    assert begin_nearest(net, images.split(32), loss) is keeps
    assert not any(m.training for m in net.modules())
    assert net[1].momentum == 0.1
    torch.testing.assert_close(net(images), goal, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(net.train()(images), goal, atol=1e-2, rtol=1e-2)


def test_a_student_learns_all_heads_and_keeps_its_best_weights() -> None:
    images = open_images("digits", (1, 8, 8))
    student, teacher = TwoHeads(1), as_teacher(TwoHeads(2))
    settings = DistillSettings(epochs=3, batch=64, learning_rate=1e-2)
    seen = list(distill(student, teacher, images, settings, names=("map", "scores"), device=CPU))
    assert [m["epoch"] for m in seen] == [0, 1, 2, 3]
    assert seen[0]["error"] > 0.9
    assert seen[-1]["error"] < 0.1 * seen[0]["error"]
    assert seen[-1]["agreement"] > 0.9
    best = min(m["error"] for m in seen)
    again = distill(student, teacher, images, settings, names=("map", "scores"), device=CPU)
    assert next(again)["error"] == pytest.approx(best, rel=1e-6)


def test_the_same_seed_gives_the_same_student() -> None:
    images, teacher = open_images("digits", (1, 8, 8)), as_teacher(TwoHeads(2))
    made = []
    for seed in (5, 5, 6):
        student = TwoHeads(1)
        list(distill(student, teacher, images, DistillSettings(epochs=1), names="ab", seed=seed, device=CPU))
        made.append(student.conv.weight)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_divergence_is_noticed_and_the_first_weights_come_back() -> None:
    class Broken(TwoHeads):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            features, scores = super().forward(images)
            return features, scores * (float("nan") if self.training else 1.0)

    student = Broken(1)
    before = student.conv.weight.clone()
    run = distill(
        student,
        as_teacher(TwoHeads(2)),
        open_images("digits", (1, 8, 8)),
        DistillSettings(epochs=1),
        names="ab",
        device=CPU,
    )
    with pytest.raises(TrialFailed, match="diverged in epoch 1"):
        list(run)
    assert torch.equal(student.conv.weight, before)


def test_a_student_without_finite_outputs_is_refused() -> None:
    student = TwoHeads(1)
    nn.init.constant_(student.classify.bias, float("inf"))
    images = open_images("digits", (1, 8, 8))
    run = distill(student, as_teacher(TwoHeads(2)), images, DistillSettings(), names="ab", device=CPU)
    with pytest.raises(TrialFailed, match="not finite"):
        next(run)


def test_outputs_of_another_shape_are_refused() -> None:
    teacher = as_teacher(TwoHeads(2))
    run = distill(
        TwoHeads(1),
        lambda images: tuple(reversed(teacher(images))),
        open_images("digits", (1, 8, 8)),
        DistillSettings(epochs=1),
        names=("scores", "map"),
        device=CPU,
    )
    with pytest.raises(BadUsage, match="'scores' has the shapes"):
        next(run)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 1}, {"learning_rate": float("nan")}])
def test_impossible_settings_are_refused(wrong: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(BadUsage):
        DistillSettings(**wrong)  # type: ignore[arg-type]


def test_an_output_that_hardly_varies_does_not_outweigh_the_others() -> None:
    (head,) = find_heads(lambda images: [images * 1e-9], [torch.randn(8, 1, 3, 3)], ("nothing",))
    wanted = torch.zeros(8, 1, 3, 3)
    assert float(head.error(wanted + 1e-3, wanted)) == pytest.approx(100, rel=0.01)
