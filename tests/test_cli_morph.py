"""``torchgraft morph``: edits from the command line, written with what rebuilds their architecture."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from torchgraft import morph
from torchgraft.cli import app
from torchgraft.morph import edit_of

NAME = "python:test_cli_morph:perceptron"


LARGER = "python:test_cli_morph:larger"


def larger() -> nn.Module:
    """A model to arrive at, in which layers have names of their own."""
    layers = {"stem": nn.Linear(4, 12), "act": nn.ReLU(), "inner": nn.Linear(12, 9), "last": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers | {"head": nn.Linear(9, 3)}))


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
        (("--edits", "words.json"), "'widen' is no edit"),
        (("--edits", "deep.json"), "is no edit"),
        (("--edits", "odd.json"), "is no edit"),
        (("--to", LARGER, "--approximate"), "leave --approximate out"),
        (("--to", "timm:no_such_model"), "no_such_model"),
        (("--to", LARGER, "--edit", "widen 0 width=12"), "the edited model is no Sequential"),
    ],
)
def test_a_refusal_is_one_line_and_nothing_is_written(folder: Path, arguments: tuple[str, ...], told: str) -> None:
    for name, text in (("object", "{}"), ("words", "widen"), ("deep", "[" * 100_000), ("odd", '["widen"]')):
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


def test_a_target_is_asked_for_and_its_script_is_run_again(folder: Path) -> None:
    asked = run("old.safetensors", "--source", NAME, "--to", LARGER)
    lines = ["# old.safetensors → python:test_cli_morph:larger: 3 edits", "deepen 0 kind=identity", "widen 0 width=12"]
    assert (asked.exit_code, asked.stderr, asked.stdout.splitlines()) == (0, "", [*lines, "widen 2.0 width=9"])
    Path("script.txt").write_text(asked.stdout)
    run("old.safetensors", "--source", NAME, "--edits", "script.txt", "-o", "edited.safetensors")
    model, x = rebuilt("edited.safetensors"), torch.randn(5, 4)
    assert torch.allclose(model(x), perceptron()(x), atol=1e-6)


@pytest.mark.parametrize("given", [(), ("--edits", "script.json")])
def test_a_target_is_written_under_its_own_names(folder: Path, given: tuple[str, ...]) -> None:
    script = run("old.safetensors", "--source", NAME, "--to", LARGER, "--json").stdout
    Path("script.json").write_text(script)
    result = run("old.safetensors", "--source", NAME, "--to", LARGER, *given, "-o", "new.safetensors")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "widen 2.0 width=9" in result.stdout and result.stdout.endswith("wrote new.safetensors\n")
    model, x = larger(), torch.randn(5, 4)
    model.load_state_dict(load_file("new.safetensors"))
    assert torch.allclose(model(x), perceptron()(x), atol=1e-6)
    with safe_open("new.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["torchgraft.edits"]) == json.loads(script)["edits"]


def test_a_target_out_of_reach_is_told_and_nothing_is_written(folder: Path) -> None:
    result = run(LARGER, "--to", NAME, "-o", "new.safetensors")
    assert (result.exit_code, result.stderr) == (1, "") and not Path("new.safetensors").exists()
    assert "out of reach\n# the source runs relu twice, the target once" in result.stdout
    told = json.loads(run(LARGER, "--to", NAME, "--json").stdout)
    assert told["reachable"] is False and told["edits"] == [] and told["output"] is None


def test_edits_without_a_file_to_write_are_refused(folder: Path) -> None:
    result = run(NAME, "--edit", "widen 0 width=12")
    assert result.exit_code == 2 and "give -o OUT.safetensors" in result.stderr
