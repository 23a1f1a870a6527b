"""What the README and the docs show is what happens."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from conet_graph.cli import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_commands_print_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "models" / "samples" / "digits.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"```console\n\$ conet-graph (.*?)\n(.*?)```", README, re.DOTALL)
    assert len(shown) == 5
    for command, expected in shown:
        capsys.readouterr()
        assert run(command.split()) == 0
        found = [line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines()]
        # The last digits of a difference in floating point belong to the processor.
        masked = [re.sub(r"difference \S+", "difference", line) for line in found]
        assert masked == [re.sub(r"difference \S+", "difference", li) for li in expected.splitlines()]


def test_the_python_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "models" / "samples" / "digits.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "slim.onnx").is_file()


@pytest.mark.parametrize("page", ["README.md", *[f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")]])
def test_links_resolve(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
