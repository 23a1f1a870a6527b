"""On a GPU: the same numbers as on the CPU, trials and searches that run there and go on after a stop."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trial import SETTINGS, Interrupting, Spots, small_net, trained
from typer.testing import CliRunner

import conet_graph as cg
from conet_graph import models
from conet_graph.bridge import to_torch
from conet_graph.cli import app_for
from conet_graph.indicators import layer_indicators
from conet_graph.ir.load import load_model
from conet_graph.trials.data import open_data
from conet_graph.trials.distill import DistillSettings
from conet_graph.trials.learner import own_random_numbers
from conet_graph.trials.recover import Recovery, corresponding, signature
from conet_graph.trials.training import ClassificationTrial
from conet_graph.trials.unlabelled import open_images

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SAMPLE = Path(str(cg.__file__)).parent / "models" / "samples" / "digits.onnx"
GPU = torch.device("cuda")


def run(*arguments: object) -> Any:
    words = [str(a) for a in arguments]
    result = CliRunner().invoke(app_for(words), words)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_indicators_are_those_of_the_cpu() -> None:
    module = models.build("resnet20", classes=10, image=32)
    random = torch.Generator().manual_seed(0)
    weights = {}
    for name, weight in module.named_parameters():
        if weight.ndim == 4:
            rows = len(weight)
            signal_part = torch.randn(rows, 4, generator=random) @ torch.randn(
                4, weight[0].numel(), generator=random
            )
            weights[name] = weight.detach() + 0.05 * signal_part.view_as(weight)
    here = layer_indicators(weights)
    there = layer_indicators({name: weight.to(GPU) for name, weight in weights.items()})
    assert any(layer.out_count for layer in here.values())
    for name, layer in here.items():
        assert (layer.out_count, layer.in_count) == (there[name].out_count, there[name].in_count)
        assert there[name].out_condition == pytest.approx(layer.out_condition, rel=1e-4)
        assert there[name].gain == pytest.approx(layer.gain, rel=1e-4)


@pytest.mark.parametrize("schedule", ["cosine", "adas"])
@pytest.mark.parametrize("amp", [True, False], ids=["bfloat16", "float32"])
def test_a_network_learns(schedule: str, amp: bool) -> None:
    _, found = trained(replace(SETTINGS, schedule=schedule, amp=amp), device="cuda")
    assert found[-1]["test_accuracy"] > 0.9


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path) -> None:
    kept = tmp_path / "trial.safetensors"
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        whole, expected = trained(SETTINGS, device="cuda")
        with pytest.raises(KeyboardInterrupt):
            trained(
                SETTINGS,
                kept,
                Interrupting(1, 7, lambda: signal.raise_signal(signal.SIGINT)),
                device="cuda",
            )
        module, found = trained(SETTINGS, kept, device="cuda")
    assert found == expected
    states = zip(whole.state_dict().values(), module.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in states)


def test_the_callers_random_numbers_stay() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1, device=GPU)
    torch.manual_seed(7)
    with own_random_numbers(GPU):
        torch.rand(9, device=GPU)
    assert torch.equal(torch.rand(1, device=GPU), expected)


def test_a_compiled_network_learns_the_same() -> None:
    losses = []
    for compiled in (False, True):
        module = small_net()
        module[6] = torch.nn.Identity()  # compiled, dropout draws other numbers
        settings = replace(SETTINGS, compile=compiled, amp=False)
        losses.append([m["train_loss"] for m in ClassificationTrial(Spots(), settings, "cuda")(module, 2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_images_are_augmented_alike() -> None:
    data = open_data("digits")
    batches = [next(iter(data.train(64, seed=3, epoch=1, device=where))) for where in ("cpu", "cuda")]
    (here, labels), (there, same) = batches
    assert there.device.type == "cuda"
    assert torch.equal(labels, same.cpu())
    assert torch.allclose(here, there.cpu(), atol=1e-6)


def test_a_converted_network_learns_what_the_native_one_does(tmp_path: Path) -> None:
    native = small_net()
    native[6] = torch.nn.Identity()  # dropout draws other numbers in each
    models.export_module(native, tmp_path / "small.onnx", (1, 8, 8))
    converted = to_torch(load_model(tmp_path / "small.onnx"))
    losses = []
    for module in (native, converted):
        trial = ClassificationTrial(Spots(), replace(SETTINGS, amp=False), "cuda")
        losses.append([metrics["train_loss"] for metrics in trial(module, 2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_search_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "search"
    quick = ("--epochs", 2, "--batch", 64, "--device", "cuda", "--json")
    run("search", SAMPLE, "--data", "digits", "--out", out, "--trials", 2, *quick)
    told = run("search", SAMPLE, "--data", "digits", "--out", out, "--trials", 3, "--resume", "--json")
    assert told["trials"] == 3


def test_lost_accuracy_comes_back(tmp_path: Path) -> None:
    original = cg.load(SAMPLE)
    slim = cg.rewrite(original, cg.plan(original, macs=0.4))
    images = open_images("digits", signature(slim, "student").image)
    pairs = corresponding(slim, original)
    history = list(Recovery(slim, SAMPLE, pairs, images, DistillSettings(epochs=3), GPU).run())
    assert history[-1]["agreement"] > 0.9
