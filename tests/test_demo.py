"""The demo, on a corner of the digits: what it writes, that it repeats itself, that it claims only what it measured."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

import torchgraft as tg
from torchgraft import demo
from torchgraft.demo.networks import source_network, target_network
from torchgraft.demo.report import markdown
from torchgraft.demo.training import load_digits, single_thread

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

TINY = {"seeds": 1, "epochs": 1, "limit": 100}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[demo.DemoResult, Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    text = StringIO()
    result = demo.run(folder, console=Console(file=text, width=100), **TINY)
    return result, folder, text.getvalue()


def test_writes_what_it_lists_and_nothing_else(told):
    result, folder, _ = told
    assert sorted(path.name for path in folder.iterdir()) == sorted(result.files)
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    planned = tg.Plan.from_json((folder / "plan.json").read_text())
    assert planned == tg.plan(source_network(), target_network())
    assert (folder / "plan.txt").read_text().strip() == str(planned)


def test_tells_the_story_without_colours(told):
    result, folder, text = told
    assert "\x1b" not in text
    for needed in (
        "Trained",
        "Wanted",
        "similarity",
        "stages.0.0.conv1",
        "no training",
        *result.verdicts(),
        str(folder),
    ):
        assert " ".join(needed.split()) in " ".join(text.split())
    report = (folder / "report.md").read_text()
    assert report.startswith(f"# {result.headline()}")
    assert all(f"| {curve.initialization} | {curve.means[0]:.1f} " in report for curve in result.curves)


def test_repeats_itself_and_leaves_torch_as_it_was(told, tmp_path):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    again = demo.run(tmp_path, **TINY)
    assert again.curves == told[0].curves
    assert again.source_accuracy == told[0].source_accuracy
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_curves_have_a_value_for_every_seed_and_epoch(told):
    result = told[0]
    assert [curve.initialization for curve in result.curves] == ["random", "dpiat", "graft", "graft + optimizer"]
    for curve in result.curves:
        assert [len(row) for row in curve.accuracy] == [result.epochs + 1] * result.seeds
        assert all(0 <= value <= 100 for row in curve.accuracy for value in row)


def test_every_stage_is_served_by_the_same_stage():
    pairs = tg.plan(source_network(), target_network()).pairs()
    blocks = [(source.split(".")[1], target.split(".")[1]) for source, target in pairs if "conv1" in target]
    assert blocks == [("0", "0")] * 3 + [("1", "1")] * 3


def _measured(result: demo.DemoResult, **rows: list[float]) -> demo.DemoResult:
    curves = tuple(
        replace(curve, accuracy=tuple((value, value) for value in rows[curve.initialization.split()[0]]))
        for curve in result.curves
    )
    return replace(result, curves=curves, seeds=len(rows["graft"]))


def test_claims_a_lead_only_where_there_is_one(told):
    ahead = _measured(told[0], graft=[80, 82, 84], dpiat=[10, 14, 12], random=[9, 10, 11])
    assert ahead.headline() == "Before any training: graft 82 %, dpiat 12 %, random 10 %"
    assert "graft leads dpiat by +70.0 ± 1.2 points" in ahead.verdicts()[0]
    level = _measured(told[0], graft=[20, 80, 50], dpiat=[50, 20, 78], random=[9, 10, 11])
    behind = _measured(told[0], graft=[20, 21, 22], dpiat=[50, 51, 52], random=[9, 10, 11])
    plan = tg.plan(source_network(), target_network())
    for result in (level, behind):
        assert "is not clearly ahead of dpiat" in result.verdicts()[0]
        assert markdown(result, plan).startswith("# Accuracy by initialization of the target\n")


def test_one_seed_claims_nothing(told):
    assert not any("leads" in line for line in told[0].verdicts())


def test_split_is_by_class_and_standardized():
    digits = load_digits(3)
    assert (len(digits.train_labels), len(digits.test_labels)) == (1257, 540)
    counts = torch.bincount(digits.test_labels)
    assert counts.min() >= 52
    assert counts.max() <= 55
    torch.testing.assert_close(digits.train_images.std(), torch.tensor(1.0))


def test_one_thread_is_put_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), single_thread():
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"epochs": 0}, {"seed": -1}, {"limit": 5}])
def test_refuses_numbers_that_make_no_sense(wrong, tmp_path):
    with pytest.raises(tg.SpecError, match=f"{next(iter(wrong))} is -?[0-9]: give at least"):
        demo.run(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["sklearn", "matplotlib"])
def test_names_the_extra_where_a_package_is_missing(module, tmp_path, monkeypatch):
    found = demo.find_spec
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == module else found(name))
    with pytest.raises(tg.SpecError, match=r"pip install torchgraft\[demo\]"):
        demo.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refuses_a_file_in_place_of_the_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(tg.CheckpointError, match=r"file cannot be made: .*; give another folder"):
        demo.run(path)
    assert path.read_text() == "mine"
