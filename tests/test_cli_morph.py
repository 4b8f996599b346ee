"""``torchgraft morph``: edits from the command line, written with what rebuilds their architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from torchgraft import morph
from torchgraft.cli import app
from torchgraft.cli.morphing import edit_of

NAME = "python:test_cli_morph:perceptron"


def perceptron() -> nn.Module:
    """The model that the command is asked to edit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_file(perceptron().state_dict(), "old.safetensors")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["morph", *arguments])


def rebuilt(file: str) -> nn.Module:
    with safe_open(file, "pt") as opened:
        rows = json.loads(opened.metadata()["torchgraft.edits"])
    edits = [morph.Edit.from_dict(row) for row in rows]
    model = morph.apply_edits(perceptron(), edits, certify=False).model
    model.load_state_dict(load_file(file))
    return model


def test_an_edited_model_computes_what_it_did_and_is_rebuilt_from_its_file(folder: Path) -> None:
    result = run("old.safetensors", "--source", NAME, "--edit", "widen 0 width=12", "--edit", "deepen 0",
                 "-o", "new.safetensors")  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[:2] == ["widen 0: width=12", "deepen 0"] and lines[-1] == "wrote new.safetensors"
    model, x = rebuilt("new.safetensors"), torch.randn(5, 4)
    assert model[0].out_features == 12 and len(model) == 4
    assert torch.allclose(model(x), perceptron()(x), atol=1e-6)


def test_edits_are_told_as_json_and_read_again(folder: Path) -> None:
    told = json.loads(run(NAME, "--edit", "widen 0 width=12", "-o", "a.safetensors", "--json").stdout)
    assert told["certificate"]["exact"] and told["edits"] == [{"edit": "widen", "path": "0", "width": 12}]
    Path("edits.json").write_text(json.dumps(told["edits"]))
    assert run(NAME, "--edits", "edits.json", "-o", "b.safetensors", "-q").stdout == ""
    assert all(torch.equal(one, load_file("b.safetensors")[key]) for key, one in load_file("a.safetensors").items())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "there is no edit to make"),
        (("--edit", "widen"), "is no edit"),
        (("--edit", "widen 0 12"), "is no edit"),
        (("--edit", "wden 0 width=12"), "unknown edit 'wden'"),
        (("--edit", "widen 9 width=12"), "9"),
        (("--edit", "narrow 0 width=4"), "approximate"),
        (("--edits", "missing.json"), "missing.json"),
        (("--edits", "object.json"), "holds no list of edits"),
        (("--edits", "words.json"), "holds no list of edits"),
        (("--edits", "deep.json"), "holds no list of edits"),
        (("--edits", "odd.json"), "is no edit"),
    ],
)
def test_a_refusal_is_one_line_and_nothing_is_written(folder: Path, arguments: tuple[str, ...], told: str) -> None:
    for name, text in (("object", "{}"), ("words", "widen 0"), ("deep", "[" * 100_000), ("odd", '["widen"]')):
        Path(f"{name}.json").write_text(text)
    result = run(NAME, *arguments, "-o", "new.safetensors")
    assert result.exit_code == 2 and told in result.stderr and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and not Path("new.safetensors").exists()


def test_an_inexact_edit_on_request_tells_its_deviation(folder: Path) -> None:
    result = run(NAME, "--edit", "narrow 0 width=4", "--approximate", "-o", "new.safetensors", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0 and told["certificate"]["exact"] is False
    assert load_file("new.safetensors")["0.weight"].shape == (4, 4)


def test_an_edit_is_read_from_text() -> None:
    assert edit_of("add_branch . graph=s>t:1x1") == morph.Edit("add_branch", "", {"graph": "s>t:1x1"})
    assert edit_of("split a.b parts=[1,2]").arguments == {"parts": [1, 2]}
