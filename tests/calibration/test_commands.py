"""``rewrite --calibrate`` and what comes after it: what is printed, written, verified and applied."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from golden_text import parsed
from onnx import numpy_helper
from safetensors.torch import load_file

import conet_graph as cg
from conet_graph.calibration.inputs import open_calibration
from conet_graph.cli import run
from conet_graph.ir.load import load_model
from conet_graph.models import digits
from conet_graph.passes import analysed
from tests.helpers.small_networks import answers

SAMPLE = Path(__file__).parents[2] / "models" / "samples" / "digits.onnx"


def told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert run(argv) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_half_of_the_sample_network_keeps_its_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plan = tmp_path / "slim.onnx", tmp_path / "plan.json"
    argv = ["rewrite", str(SAMPLE), "-o", str(out), "--macs", "0.5", "--plan", str(plan), "--json"]
    data = told([*argv, "--calibrate", "digits", "--samples", "200"], capsys)
    calibration = data["calibration"]
    assert isinstance(calibration, dict)
    assert calibration["samples"] == 200
    errors = calibration["errors"]
    assert errors["refitted"] < 0.25 * errors["plain"]
    assert set(calibration["predicted"]) == {g["id"] for g in data["groups"]}  # type: ignore[attr-defined]
    known = digits.load()
    name = onnx.load(SAMPLE).graph.input[0].name
    old, new = (answers(cg.load(p), **{name: known.test_images})[0].argmax(1) for p in (SAMPLE, out))
    assert (new == known.test_labels).mean() > (old == known.test_labels).mean() - 0.03
    assert run(["verify", str(SAMPLE), str(out), "--plan", str(plan)]) == 0
    capsys.readouterr()
    again = told([*argv, "--calibrate", "digits", "--samples", "200"], capsys)
    assert again["calibration"] == calibration


def test_channels_that_nothing_hears_are_no_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The half of the channels that a Slice leaves out goes; the outputs are what they were."""
    net = parsed(
        "agraph (float[1,3,6,6] x) => (float[1,5,6,6] y)"
        "<float[8,3,1,1] w, float[5,4,1,1] wy, int64[1] from = {0}, int64[1] to = {4}, int64[1] on = {1}>"
        "{a = Conv(x, w) s = Slice(a, from, to, on) y = Conv(s, wy)}"
    )
    onnx.save(net, tmp_path / "net.onnx")
    wanted = ["--macs", "0.9", "--multiple-of", "1"]
    assert run(["rewrite", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "slim.onnx"), *wanted]) == 0
    said = capsys.readouterr().out
    assert "the outputs are what they were" in said
    assert "not kept" not in said


def test_without_inputs_the_loss_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rewrite", str(SAMPLE), "-o", str(tmp_path / "slim.onnx"), "--macs", "0.5"]) == 0
    assert "the function is not kept" in capsys.readouterr().out
    assert run(["rewrite", str(SAMPLE), "-o", str(tmp_path / "wide.onnx"), "--scale", "2"]) == 0
    assert "the function is not kept" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"images": np.zeros((32, 9, 9), np.uint8)}, "the network takes"),
        ({"x": np.ones((32, 1, 8, 8), np.float32)}, "the same"),
        ({"x": np.full((32, 1, 8, 8), np.nan, np.float32)}, "not finite"),
        ({"x": np.zeros((3, 1, 8, 8), np.float32)}, "at least 8"),
        ({"x": np.zeros((32, 1, 8, 8), np.int64)}, "holds int64"),
        ({"a": np.zeros((32, 1, 8, 8)), "b": np.zeros(3)}, "no array"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    arrays: dict[str, np.ndarray], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    argv = ["rewrite", str(SAMPLE), "-o", str(tmp_path / "slim.onnx"), "--macs", "0.5"]
    assert run([*argv, "--calibrate", str(tmp_path / "data.npz")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "slim.onnx").exists()


def test_a_folder_of_images_is_read(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    for k, image in enumerate(digits.load().train_images[:24]):
        Image.fromarray((image[0] * 255).astype(np.uint8)).save(folder / f"{k}.png")
    argv = ["rewrite", str(SAMPLE), "-o", str(tmp_path / "slim.onnx"), "--macs", "0.5"]
    assert run([*argv, "--calibrate", str(tmp_path / "images"), "--importance", "activation"]) == 0


def test_a_checkpoint_gets_the_refitted_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plan = tmp_path / "slim.onnx", tmp_path / "plan.json"
    argv = ["rewrite", str(SAMPLE), "-o", str(out), "--macs", "0.5", "--plan", str(plan)]
    assert run([*argv, "--calibrate", "digits", "--samples", "64"]) == 0
    stored = onnx.load(SAMPLE).graph.initializer
    state = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in stored}
    torch.save(state, tmp_path / "weights.pt")
    capsys.readouterr()
    assert (
        run(["apply", str(plan), str(tmp_path / "weights.pt"), "-o", str(tmp_path / "new.safetensors")]) == 0
    )
    assert capsys.readouterr().err == ""
    found = load_file(tmp_path / "new.safetensors")
    for tensor in onnx.load(out).graph.initializer:
        assert np.array_equal(found[tensor.name].numpy(), numpy_helper.to_array(tensor))
    # A checkpoint whose weights were folded into the file's is narrowed, and what is not refitted is named.
    first = next(iter(json.loads(plan.read_text())["refit"]["before"]))
    torch.save({**state, first: state[first] * 2}, tmp_path / "weights.pt")
    assert (
        run(["apply", str(plan), str(tmp_path / "weights.pt"), "-o", str(tmp_path / "new.safetensors")]) == 0
    )
    assert first in capsys.readouterr().err


def test_images_get_the_colours_that_are_named(tmp_path: Path) -> None:
    graph = analysed(load_model(SAMPLE))
    (name,) = graph.inputs
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8), np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels)
    found = open_calibration(str(tmp_path / "data.npz"), graph, 24, colours=((0.5,), (0.25,)))
    runs = np.concatenate([feed[name] for feed in (*found.fit, *found.aside)])
    wanted = (pixels[:, None] / 255 - 0.5) / 0.25
    assert sorted(runs.sum((1, 2, 3))) == pytest.approx(sorted(wanted.sum((1, 2, 3))), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--mean", "0.5", "--std", "0.2"), "are for images"),
        (("--mean", "0.5"), "go together"),
    ],
)
def test_colours_without_images_are_refused(
    options: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "rewrite",
        str(SAMPLE),
        "-o",
        str(tmp_path / "slim.onnx"),
        "--macs",
        "0.5",
        "--calibrate",
        "digits",
    ]
    assert run([*argv, *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_page_draws_what_each_width_loses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert run(["analyze", str(SAMPLE), "--html", str(page), "--calibrate", "digits"]) == 0
    free = [g for g in cg.analyze(cg.load(SAMPLE)).to_dict()["groups"] if g["free"]]
    text = page.read_text("utf-8")
    assert "What a width loses" in text
    assert text.count('<svg class="curve"') == len(free)
    for group in free:
        assert f"<title>{group['id']}: " in text
    assert run(["analyze", str(SAMPLE), "--calibrate", "digits"]) == 2
    assert "--html FILE" in capsys.readouterr().err
