"""The certificate, its forecast, and what both are run on, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import nn

from torchgraft.cli import app
from torchgraft.cli.options import inputs_of

CONV = "python:torch.nn:Conv2d,in_channels=3,kernel_size=3"
SMALL, LARGE = f"{CONV},out_channels=4", f"{CONV},out_channels=6"
STRIDED = f"{LARGE},stride=2"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("target", "code", "verdict"), [(LARGE, 0, "exact"), (STRIDED, 1, "not exact")])
def test_a_certificate_as_text_and_an_exit_code(target: str, code: int, verdict: str) -> None:
    result = run("verify", SMALL, target, "--input-shape", "2x3x9x9")
    lines = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (code, "")
    assert lines[0] == f"{SMALL} → {target}: {verdict}, measured on 2×3×9×9"
    assert lines[1].split() == ["mode", "precision", "relative", "absolute"]
    assert ("stride 1×1 → 2×2" in result.stdout) == (code == 1)
    assert run("verify", SMALL, "--target", target, "--input-shape", "2x3x9x9", "-q").stdout == ""


def test_a_certificate_as_json() -> None:
    result = run("verify", SMALL, LARGE, "--json", "--input-shape", "2x3x9x9")
    told = json.loads(result.stdout)
    assert (told["exact"], told["source"], told["target"], told["inputs"]) == (True, SMALL, LARGE, "2×3×9×9")
    assert [one["mode"] for one in told["deviations"]] == ["eval", "eval", "train", "train"]


def test_a_checkpoint_is_verified_with_its_model(tmp_path: Path) -> None:
    file = tmp_path / "old.safetensors"
    save_file(nn.Linear(4, 3).state_dict(), file)
    linear = "python:torch.nn:Linear,in_features=4,out_features="
    assert run("verify", file, "--source", f"{linear}3", "--target", f"{linear}5").exit_code == 0
    result = run("verify", file, "--target", f"{linear}5")
    assert result.exit_code == 2
    assert result.stderr.endswith("has weights but no code to run: name its model, as in --source timm:resnet50\n")


def test_the_plan_foretells_it() -> None:
    assert run("plan", SMALL, LARGE).stdout.splitlines()[-1] == "exact: the target will compute the source's function"
    result = run("plan", SMALL, STRIDED)
    assert result.stdout.splitlines()[-1] == "not exact: stride 1×1 → 2×2, at weight"
    told = json.loads(run("plan", SMALL, STRIDED, "--json").stdout)
    assert (told["exact"], told["obstacles"]) == (False, [{"what": "stride 1×1 → 2×2", "where": "weight"}])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["verify", SMALL], "Missing argument 'TARGET' (or option '--target')"),
        (["plan", SMALL, LARGE, "--target", LARGE], "the target is given twice"),
        (["plan", SMALL, LARGE, "--input-shape", "3y4"], "--input-shape '3y4' is no shape: write 1x3x224x224"),
        (["plan", SMALL, LARGE, "--input-shape", "3:what"], "is no shape"),
        (["plan", SMALL, LARGE, "--input-shape", "3", "--input-shape", "x=3"], "names some arguments and not others"),
        (["verify", SMALL, LARGE, "--input-shape", "2x5x9x9"], "does not run on 2×5×9×9"),
        (["verify", SMALL, LARGE, "--input-shape", "2x5x9x9"], "pass --input-shape that both models accept"),
        (["verify", SMALL, "python:torch.nn:Nothing"], "Nothing"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_shapes_become_inputs() -> None:
    assert inputs_of([]) is None
    picture, words = inputs_of(["1×3×4×4", "2,5:int64"]) or ()
    assert (picture.shape, words.shape, words.dtype) == ((1, 3, 4, 4), (2, 5), torch.int64)
    named = inputs_of(["mask=1x4:bool", "ids=7:long"])
    assert isinstance(named, dict)
    assert (list(named), named["mask"].dtype, named["ids"].dtype) == (["mask", "ids"], torch.bool, torch.int64)


def test_a_plan_can_be_told_what_its_models_run_on() -> None:
    transformer = (
        "python:torch.nn:Transformer,num_encoder_layers=1,num_decoder_layers=1,nhead=2,dim_feedforward=8,d_model="
    )
    result = run("plan", f"{transformer}8", f"{transformer}12", "--input-shape", "3x1x8", "--input-shape", "3x1x8")
    assert result.exit_code == 0
    assert "could not be run" in result.stdout  # the larger one reads other widths
    assert run("plan", SMALL, LARGE, "--trainable", "--input-shape", "1x3x9x9").exit_code == 0
