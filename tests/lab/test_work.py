"""One run from start to end, on a few real digits."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from torchgraft.errors import LabError
from torchgraft.lab import setting as setting_module
from torchgraft.lab.networks import build
from torchgraft.lab.records import Data, Experiment, Initialized, Outcome, Recipe, Source, Task
from torchgraft.lab.rows import row_from_dict, row_to_dict
from torchgraft.lab.setting import setting
from torchgraft.lab.tasks import tasks_of
from torchgraft.lab.training import Images, Trained
from torchgraft.lab.weights import load_network, read_state
from torchgraft.lab.work import work

HERE = "python:tests.lab.test_work"
DATA = Data(size=8, train=120, test=60)


def narrow(num_classes: int = 4) -> nn.Module:
    """The source's architecture, made for more classes than it is told only by default."""
    return _network(6, num_classes)


def wide(num_classes: int = 4) -> nn.Module:
    """The target's architecture."""
    return _network(10, num_classes)


def _network(width: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(16 * width, classes),
    )


GRID = Experiment(
    name="grid",
    title="A grid",
    networks={"narrow": f"{HERE}:narrow", "wide": f"{HERE}:wide"},
    sources=(Source("narrow", "narrow"),),
    targets=("wide",),
    initializations=("random", "graft", "dpiat"),
    data=DATA,
    recipe=Recipe(epochs=1, batch=32, augment="none"),
    source_recipe=Recipe(epochs=2, batch=32, augment="none", keep="best"),
    seeds=(0,),
)


@pytest.fixture(scope="module")
def source() -> Outcome:
    return work(tasks_of(GRID)[0][0])


def target(initialization: str, grid: Experiment = GRID) -> Task:
    return next(task for task in tasks_of(grid)[1] if task.initialization == initialization)


def timeless(outcome: Outcome) -> Outcome:
    """Without clocks."""
    row = outcome.row
    curve = tuple(replace(point, seconds=0.0) for point in row.curve)
    return replace(
        outcome, row=replace(row, curve=curve, start=replace(row.start, seconds=0.0), seconds=0.0, finished="")
    )


def test_a_source_returns_its_weights_and_a_full_row(source: Outcome) -> None:
    row = source.row
    task = tasks_of(GRID)[0][0]
    assert (row.key, row.kind, row.network, row.source, row.initialization) == (
        task.key, "source", "narrow", "", "random",
    )  # fmt: skip
    assert [point.epoch for point in row.curve] == [0, 1, 2] and row.accuracy > 50
    assert row.parameters == sum(p.numel() for p in narrow(10).parameters())
    assert row.seconds > 0 and row.finished.endswith("+00:00") and row.exploded == ""
    assert row.setting["threads"] == torch.get_num_threads() and len(row.setting["data"]) == 64
    network = read_state(narrow(10), source.weights, "it")
    assert not torch.equal(network[0].weight, build(f"{HERE}:narrow", 10, 1_000_003)[0].weight)


def test_a_row_is_json_and_says_how_to_repeat_it(source: Outcome) -> None:
    text = json.dumps(row_to_dict(source.row), allow_nan=False)
    assert row_from_dict(json.loads(text)) == replace(source.row, task=json.loads(text)["task"])
    assert json.loads(text)["task"]["data"]["train"] == 120


@pytest.mark.parametrize("initialization", ["random", "graft"])
def test_equal_tasks_give_equal_runs(source: Outcome, initialization: str) -> None:
    task = target(initialization)
    weights = source.weights if task.source else b""
    first = work(task, weights)
    torch.manual_seed(99)
    torch.randn(7)
    assert timeless(work(task, weights)) == timeless(first)
    assert first.weights == b""


def test_tasks_and_outcomes_travel(source: Outcome) -> None:
    task = target("graft")
    assert pickle.loads(pickle.dumps(task)) == task
    assert pickle.loads(pickle.dumps(source)) == source
    assert pickle.loads(pickle.dumps(work)) is work


def test_a_graft_starts_ahead_and_its_row_tells_what_it_did(source: Outcome) -> None:
    random, graft = (work(target(name), source.weights).row for name in ("random", "graft"))
    assert random.start.coverage == 0 and graft.start.coverage > 0.3
    assert graft.start.plan_hash and 0 < graft.start.similarity["graft"] <= 1
    assert graft.source == "narrow" and random.source == ""
    assert graft.zero_shot != random.zero_shot


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, int]]:
    """First weights of the network before its initialization, and seed of its training, of every run since."""
    from torchgraft.lab import work as module
    from torchgraft.lab.training import train

    seen: list[tuple[torch.Tensor, int]] = []
    weights: list[torch.Tensor] = []

    def spy_initialize(name: str, given: nn.Module | None, network: nn.Module, *, seed: int) -> Initialized:
        weights.append(network[0].weight.detach().clone())
        return Initialized()

    def spy_train(network: nn.Module, images: Images, recipe: Recipe, *, seed: int, **rest: Any) -> Trained:
        seen.append((weights[-1], seed))
        return train(network, images, recipe, seed=seed, **rest)

    monkeypatch.setattr(module, "initialize", spy_initialize)
    monkeypatch.setattr(module, "train", spy_train)
    return seen


def test_a_share_of_the_rate_is_taken_and_its_row_holds_no_keys(source: Outcome) -> None:
    tasks = [replace(target("graft"), initialization=f"graft{rate}") for rate in ("", ":rate=0.01", ":rate=auto")]
    runs = [work(task, source.weights).row for task in tasks]
    plain, slow, auto = ([point.train_loss for point in row.curve[1:]] for row in runs)
    assert plain != slow and slow != auto and auto != plain
    assert all(row.start.shares == {} and row.start.plan_hash == runs[0].start.plan_hash for row in runs)
    assert [row.curve[0] for row in runs] == [runs[0].curve[0]] * 3


def test_initializations_of_one_seed_share_the_random_network_and_the_order_of_the_images(
    spied: list[tuple[torch.Tensor, int]], source: Outcome
) -> None:
    for name in GRID.initializations:
        work(target(name), source.weights)
    first, *others = spied
    assert len(others) == 2
    assert all(torch.equal(weights, first[0]) and seed == first[1] for weights, seed in others)
    work(target("random", replace(GRID, seeds=(1,))))
    assert not torch.equal(spied[-1][0], first[0]) and spied[-1][1] != first[1]


def test_a_source_draws_nothing_that_its_target_draws(spied: list[tuple[torch.Tensor, int]]) -> None:
    """One architecture on both sides, and one seed."""
    same = replace(GRID, targets=("narrow",), pairs=(("narrow", "narrow"),))
    outcome = work(tasks_of(same)[0][0])
    work(target("graft", same), outcome.weights)
    (mine, seed), (theirs, other) = spied
    assert mine.shape == theirs.shape and not torch.equal(mine, theirs) and seed != other


def test_a_source_with_other_classes_keeps_its_own(source: Outcome, tmp_path: Path) -> None:
    """A checkpoint of 23 classes: the head says so, though neither the spec nor the data does."""
    path = tmp_path / "old.safetensors"
    save_file(narrow(23).state_dict(), path)
    given = replace(GRID, sources=(Source("old", "narrow", str(path)),), initializations=("graft",))
    assert tasks_of(given)[0] == ()
    row = work(target("graft", given)).row
    assert row.source == "old" and row.start.coverage > 0.3 and row.exploded == ""


def test_pretrained_weights_from_a_file(tmp_path: Path, source: Outcome) -> None:
    path = tmp_path / "own.safetensors"
    trained = narrow(10)
    read_state(trained, source.weights, "it")
    save_file(trained.state_dict(), path)
    own = replace(GRID, targets=("narrow",), initializations=("pretrained",), pretrained={"narrow": str(path)})
    row = work(tasks_of(own)[1][0]).row
    assert row.start.coverage == 1 and row.zero_shot == pytest.approx(source.row.best, abs=2)


def test_pretrained_weights_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def fake_load(spec: str, weights: str, seed: int = 0) -> nn.Module:
        asked.append((spec, weights))
        return narrow(1000)

    from torchgraft.lab import work as module

    monkeypatch.setattr(module, "load_network", fake_load)
    own = replace(GRID, targets=("narrow",), initializations=("pretrained",), pretrained={"narrow": "pretrained"})
    row = work(tasks_of(own)[1][0]).row
    assert asked == [(f"{HERE}:narrow", "pretrained")]
    assert 0.3 < row.start.coverage < 1, "all but the head, which has other classes"


def test_a_source_without_weights_is_an_error() -> None:
    with pytest.raises(LabError, match=r"the source 'narrow' has no weights: its run [0-9a-f]{16} comes first"):
        work(target("graft"))


def test_weights_that_are_damaged_or_of_another_network_are_named(source: Outcome) -> None:
    with pytest.raises(LabError, match="the weights of the source 'narrow' are damaged"):
        work(target("graft"), source.weights[:100])
    with pytest.raises(LabError, match=r"do not fit Sequential: 0.weight is \(6, 3, 3, 3\), not \(10, 3, 3, 3\)"):
        read_state(wide(10), source.weights, "narrow")


def test_a_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"1.weight": torch.zeros(6), "stranger": torch.zeros(2)}, path)
    with pytest.raises(LabError, match=r"other.safetensors does not fit .*narrow: it has no 0.weight \(and \d+ more\)"):
        load_network(f"{HERE}:narrow", str(path))


def test_an_exploding_run_keeps_its_curve_and_an_exploding_source_its_measured_weights() -> None:
    hot = Recipe(epochs=2, batch=32, augment="none", optimizer="sgd", rate=1e30, final_rate=1e30)
    row = work(target("random", replace(GRID, recipe=hot))).row
    assert row.exploded.startswith(("loss is", "gradient is")) and "epoch 1, step" in row.exploded
    assert [point.epoch for point in row.curve] == [0] and row.accuracy == row.zero_shot
    outcome = work(tasks_of(replace(GRID, source_recipe=hot))[0][0])
    state = read_state(narrow(10), outcome.weights, "it").state_dict()
    assert outcome.row.exploded and all(tensor.isfinite().all() for tensor in state.values())


def test_every_point_ticks_and_threads_are_put_back() -> None:
    before, seen = torch.get_num_threads(), []
    row = work(target("random"), threads=2, tick=lambda point: seen.append((point.epoch, torch.get_num_threads()))).row
    assert seen == [(0, 2), (1, 2)] and row.setting["threads"] == 2
    assert torch.get_num_threads() == before


def test_the_setting_tells_the_commit_of_a_checkout_and_none_of_an_installed_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = setting("cpu")
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0] and found["device"]
    assert found["commit"] == "" or len(found["commit"]) == 40
    monkeypatch.setattr(setting_module, "__file__", str(tmp_path / "lab" / "setting.py"))
    assert setting_module._commit.__wrapped__() == ("", False)
    monkeypatch.setenv("PATH", "")
    assert setting_module._git(tmp_path, "status") is None


def test_a_row_tells_the_contents_of_the_files_that_it_started_from(tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    save_file(build(GRID.networks["narrow"], 10).state_dict(), path)
    grid = replace(GRID, sources=(Source("narrow", "narrow", str(path)),), initializations=("random", "graft"))
    tasks = {task.initialization: task for task in tasks_of(grid)[1]}
    assert work(tasks["random"]).row.setting["files"] == {}
    first = work(tasks["graft"]).row.setting["files"]
    assert list(first) == [str(path)] and len(first[str(path)]) == 64
    save_file(build(GRID.networks["narrow"], 10, seed=1).state_dict(), path)
    assert work(tasks["graft"]).row.setting["files"] != first
