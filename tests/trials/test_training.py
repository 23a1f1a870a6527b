from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_trial import SETTINGS, Spots, numbers, small_net
from torch import Tensor, nn

from conet_graph.ir.errors import BadUsage
from conet_graph.models import build
from conet_graph.trials import training_bar
from conet_graph.trials.errors import TrialFailed
from conet_graph.trials.settings import SCHEDULES, TrainSettings
from conet_graph.trials.training import ClassificationTrial


def run(module: nn.Module, settings: TrainSettings = SETTINGS, epochs: int = 4) -> list[dict[str, float]]:
    return list(ClassificationTrial(Spots(), settings, "cpu")(module, epochs))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_network_learns_under_each_schedule(schedule: str) -> None:
    found = run(small_net(), replace(SETTINGS, schedule=schedule))
    assert [metrics["epoch"] for metrics in found] == [1, 2, 3, 4]
    assert found[-1]["test_accuracy"] > 0.9
    assert found[-1]["train_loss"] < found[0]["train_loss"]
    assert found[0]["learning_rate"] > 0


@pytest.mark.parametrize(
    "changed",
    [
        {"amp": True},
        {"channels_last": True},
        {"clip": 1.0, "nesterov": True},
        {"label_smoothing": 0.1},
    ],
    ids=str,
)
def test_a_network_learns_with_each_option(changed: dict[str, object]) -> None:
    assert run(small_net(), replace(SETTINGS, **changed))[-1]["test_accuracy"] > 0.9  # type: ignore[arg-type]


@pytest.mark.wide
@pytest.mark.filterwarnings("ignore")  # inductor's own, while it compiles
def test_a_compiled_network_learns_the_same() -> None:
    module, other = small_net(), small_net()
    for net in (module, other):
        net[6] = nn.Identity()  # compiled, dropout draws other numbers
    compiled, plain = run(module, replace(SETTINGS, compile=True), 2), run(other, epochs=2)
    for one, two in zip(compiled, plain, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-3)


def test_options_change_what_is_learned() -> None:
    plain = run(small_net(), epochs=1)[0]["train_loss"]
    for changed in ({"clip": 0.01}, {"label_smoothing": 0.2}, {"weight_decay": 0.1}, {"momentum": 0.0}):
        assert run(small_net(), replace(SETTINGS, **changed), 1)[0]["train_loss"] != plain  # type: ignore[arg-type]


def test_the_seed_decides_everything_and_the_global_generator_stays() -> None:
    trial = ClassificationTrial(Spots(), SETTINGS, "cpu")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second = small_net(), small_net()
    once = [numbers(m) for m in trial(first, 2, seed=3)]
    assert torch.rand(1) == expected
    twice = [numbers(m) for m in trial(second, 2, seed=3)]
    assert once == twice
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert [numbers(m) for m in trial(small_net(), 2, seed=4)] != once


def test_the_first_step_is_sgd_by_hand() -> None:
    settings = TrainSettings(batch=320, learning_rate=0.5, schedule="constant", weight_decay=0.01)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    linear = module[1]
    before = linear.weight.detach().clone().requires_grad_()
    images, labels = next(Spots().train(320, seed=0, epoch=0, device="cpu"))
    loss = nn.functional.cross_entropy(images.flatten(1) @ before.T + linear.bias.detach(), labels)
    (gradient,) = torch.autograd.grad(loss, before)
    (metrics,) = ClassificationTrial(Spots(), settings, "cpu")(module, 1)
    torch.testing.assert_close(linear.weight, before - 0.5 * (gradient + 0.01 * before))
    assert metrics["train_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_a_softmax_at_the_end_trains_like_the_logits_before_it() -> None:
    plain, soft = small_net(), small_net(4, 0, nn.Softmax(1))
    one, other = run(plain, epochs=2)[-1], run(soft, epochs=2)[-1]
    assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
    torch.testing.assert_close(plain[0].weight, soft[0].weight, rtol=1e-2, atol=1e-3)


class Spread(nn.Module):
    """Answers [N, classes, 1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, None, None]


class ChannelsFirst(nn.Module):
    """Makes a network out of one that takes [N, H, W, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


def test_outputs_of_one_pixel_are_flattened() -> None:
    assert [numbers(m) for m in run(small_net(4, 0, Spread()))] == [numbers(m) for m in run(small_net())]


def test_networks_with_channels_last_get_their_images_so() -> None:
    last = nn.Sequential(ChannelsFirst(), *small_net())
    assert [numbers(m) for m in run(last)] == [numbers(m) for m in run(small_net())]


class Several(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (small_net(5), r"answers a batch of 2 with \[2, 5\], and the data 'spots' has 4 classes"),
        (nn.Conv2d(3, 4, 8), "does not take the images of 'spots', 1 x 8 x 8"),
        (small_net(4, 0, Several()), "has 2 outputs"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten(0), nn.Unflatten(0, (-1, 2))),
            r"answers a batch of 2 with \[4, 2\]",
        ),
        (nn.Flatten(), "no weights to train"),
    ],
)
def test_networks_that_do_not_fit_are_refused(module: nn.Module, sentence: str) -> None:
    with pytest.raises(BadUsage, match=sentence):
        run(module)


def test_labels_outside_the_classes_are_refused() -> None:
    class Wrong(Spots):
        def test(self, batch: int, **options: object):  # type: ignore[no-untyped-def, override]
            yield torch.zeros(2, 1, 8, 8), torch.tensor([0, 4])

    with pytest.raises(BadUsage, match="labels outside 0 to 3"):
        next(ClassificationTrial(Wrong(), SETTINGS, "cpu")(small_net(), 1))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"schedule": "warm"}, "no schedule 'warm'"),
        ({"learning_rate": 0.0}, "must be above 0"),
        ({"learning_rate": float("nan")}, "must be above 0"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"batch": 0}, "must be at least 1"),
        ({"momentum": 0.0, "nesterov": True}, "needs momentum"),
    ],
)
def test_settings_out_of_range_are_refused(changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadUsage, match=sentence):
        replace(SETTINGS, **changed)  # type: ignore[arg-type]


def test_what_does_not_fit_the_data_is_refused() -> None:
    with pytest.raises(BadUsage, match="too small for batches of 321"):
        run(small_net(), replace(SETTINGS, batch=321))
    with pytest.raises(BadUsage, match="drop path"):
        run(small_net(), replace(SETTINGS, drop_path=0.2))
    with pytest.raises(BadUsage, match="no device 'nowhere'"):
        ClassificationTrial(Spots(), SETTINGS, "nowhere")


def test_divergence_is_noticed_and_the_checkpoint_stays(tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    settings = replace(SETTINGS, schedule="constant")
    module = small_net()
    running = ClassificationTrial(Spots(), settings, "cpu")(module, 3, checkpoint=kept)
    next(running)
    before = kept.read_bytes()
    with torch.no_grad():
        module[8].weight.mul_(float("nan"))
    with pytest.raises(TrialFailed, match=r"diverged in epoch 2, step 10: the loss is nan"):
        next(running)
    assert kept.read_bytes() == before
    assert list(tmp_path.iterdir()) == [kept]


def test_an_exploding_loss_is_noticed() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(TrialFailed, match="lower learning rate"):
        run(linear, replace(SETTINGS, learning_rate=1e6), 5)


class Cells(Spots):
    """Colour images of 32 pixels for networks of cells."""

    def __init__(self) -> None:
        super().__init__(count=8, classes=10, shape=(3, 32, 32))

    def train(self, batch: int, **options: object):  # type: ignore[no-untyped-def, override]
        for images, labels in super().train(batch, **options):  # type: ignore[arg-type]
            yield images.repeat(1, 3, 4, 4), labels

    def test(self, batch: int, **options: object):  # type: ignore[no-untyped-def, override]
        yield torch.ones(4, 3, 32, 32), torch.arange(4)


def test_auxiliary_head_and_drop_path_of_cells() -> None:
    torch.manual_seed(0)
    module = build("darts7", width=4, auxiliary=True, drop_path=0.3)
    head = module.auxiliary_head.classifier.weight  # type: ignore[union-attr]
    before = head.detach().clone()
    settings = TrainSettings(batch=4, drop_path=0.3, clip=5.0, learning_rate=0.01)
    reached = [module.drop_path for _ in ClassificationTrial(Cells(), settings, "cpu")(module, 2)]
    assert reached == pytest.approx([0.15, 0.3])
    assert not torch.equal(head, before)


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trial = ClassificationTrial(Spots(), SETTINGS, "cpu", tensorboard=tmp_path)
    found = list(trial(small_net(), 2))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("accuracy/test")]
    assert written == [(m["epoch"], pytest.approx(m["test_accuracy"])) for m in found]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_shows_on_a_terminal_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Terminal() if terminal else io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(training_bar, "AFTER_SECONDS", 0.0)
    monkeypatch.setattr(training_bar, "REFRESH_SECONDS", 0.0)
    list(ClassificationTrial(Spots(), SETTINGS, "cpu", progress=True)(small_net(), 1))
    shown = [word in written.getvalue() for word in ("epoch 1/1", "accuracy", "loss", "left")]
    assert shown == [terminal] * 4
