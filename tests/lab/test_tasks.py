"""The runs of an experiment, their keys, and the experiments that are refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from torchgraft.errors import LabError, SpecError
from torchgraft.lab.records import Data, Experiment, Recipe, Source
from torchgraft.lab.tasks import key_of, tasks_of

GRID = Experiment(
    name="grid",
    title="A grid",
    networks={"a": "timm:mobilenetv2_035", "b": "timm:mnasnet_050", "c": "timm:semnasnet_050"},
    sources=(Source("a", "a"), Source("b", "b")),
    targets=("a", "b", "c"),
    initializations=("random", "graft"),
    seeds=(0, 1),
)


def names(experiment: Experiment) -> list[tuple[str, str, str, int]]:
    return [
        (task.source.name if task.source else "", task.network, task.initialization, task.seed)
        for task in tasks_of(experiment)[1]
    ]


def test_all_pairs_of_different_networks_and_one_random_run_a_target_and_seed() -> None:
    sources, targets = tasks_of(GRID)
    assert [task.network for task in sources] == ["a", "b"]
    assert names(GRID)[:7] == [
        ("", "a", "random", 0), ("b", "a", "graft", 0), ("", "b", "random", 0), ("a", "b", "graft", 0),
        ("", "c", "random", 0), ("a", "c", "graft", 0), ("b", "c", "graft", 0),
    ]  # fmt: skip
    assert len(targets) == 14 and len({task.key for task in (*sources, *targets)}) == 16
    keys = {task.network: task.key for task in sources}
    assert all(task.source_key == (keys[task.source.network] if task.source else "") for task in targets)


def test_pairs_that_are_listed_are_the_only_ones() -> None:
    listed = replace(GRID, pairs=(("a", "c"), ("b", "b")), seeds=(3,), initializations=("graft",))
    assert names(listed) == [("b", "b", "graft", 3), ("a", "c", "graft", 3)]


def test_a_source_is_trained_only_where_it_is_needed_and_has_no_weights() -> None:
    given = replace(GRID, sources=(Source("a", "a", "pretrained"), Source("b", "b")))
    assert [task.network for task in tasks_of(given)[0]] == ["b"]
    assert tasks_of(replace(GRID, initializations=("random",)))[0] == ()
    assert [task.network for task in tasks_of(replace(GRID, pairs=(("b", "c"),)))[0]] == ["b"]
    started = [task for task in tasks_of(given)[1] if task.source and task.source.weights]
    assert started and all(task.source_key == "" and task.source_data is None for task in started)


def test_a_source_is_trained_by_its_own_recipe_data_and_seed() -> None:
    other = Data(size=16)
    experiment = replace(GRID, source_data=other, sources=(Source("a0", "a", seed=5), Source("a1", "a", seed=6)))
    sources, targets = tasks_of(experiment)
    assert [(task.kind, task.seed, task.recipe, task.data) for task in sources] == [
        ("source", seed, experiment.source_recipe, other) for seed in (5, 6)
    ]
    assert all(task.source_data == other for task in targets if task.source)
    assert all(task.recipe == experiment.recipe and task.data == Data() for task in targets)


def test_pretrained_is_one_run_a_target_that_has_weights() -> None:
    experiment = replace(GRID, initializations=("pretrained",), pretrained={"b": "b.safetensors"}, seeds=(0,))
    (task,) = tasks_of(experiment)[1]
    assert (task.network, task.weights, task.source) == ("b", "b.safetensors", None)


def test_names_do_not_count_in_a_key() -> None:
    renamed = replace(
        GRID,
        name="other",
        title="Other",
        networks={"x": GRID.networks["a"], "y": GRID.networks["b"]},
        sources=(Source("first", "x"),),
        targets=("y",),
    )
    mine, theirs = ({task.key for part in tasks_of(grid) for task in part} for grid in (GRID, renamed))
    assert theirs < mine


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": Recipe(epochs=5)},
        {"recipe": Recipe(precision="amp-bf16")},
        {"data": Data(train=100)},
        {"networks": {**GRID.networks, "b": "timm:mnasnet_075"}},
        {"seeds": (7,)},
        {"initializations": ("dpiat",)},
    ],
)
def test_whatever_decides_the_result_counts_in_a_key(change: dict[str, object]) -> None:
    one = replace(GRID, targets=("b",), initializations=("graft",), seeds=(0,))
    assert tasks_of(one)[1][0].key != tasks_of(replace(one, **change))[1][0].key


@pytest.mark.parametrize(
    "change",
    [
        {"source_recipe": Recipe(epochs=9)},
        {"source_data": Data(size=16)},
        {"sources": (Source("a", "a", seed=1),)},
        {"sources": (Source("a", "a", "pretrained"),)},
        {"sources": (Source("a", "a", "a.safetensors"),)},
        {"networks": {**GRID.networks, "a": "timm:mobilenetv2_050"}},
    ],
)
def test_the_source_counts_in_the_keys_of_its_targets_and_in_no_other(change: dict[str, object]) -> None:
    one = replace(GRID, sources=(Source("a", "a"),), targets=("b",), seeds=(0,))
    before, after = (tasks_of(grid)[1] for grid in (one, replace(one, **change)))
    assert before[0].key == after[0].key and before[0].initialization == "random"
    assert before[1].key != after[1].key and before[1].initialization == "graft"


def test_keys_are_the_same_in_every_process() -> None:
    task = tasks_of(GRID)[1][1]
    assert len(task.key) == 16 and key_of(task) == task.key
    code = "from tests.lab.test_tasks import *; print(tasks_of(GRID)[1][1].key)"
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == task.key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ()}, "experiment 'grid' has no targets: give at least one"),
        ({"seeds": ()}, "has no seeds"),
        ({"initializations": ()}, "has no initializations"),
        ({"targets": ("a", "z")}, r"unknown target 'z' \(valid: a, b, c\)"),
        ({"sources": (Source("s", "z"),)}, "unknown source 'z'"),
        ({"pairs": (("z", "a"),)}, r"unknown source of a pair 'z' \(valid: a, b\)"),
        ({"pairs": (("a", "z"),)}, "unknown target of a pair 'z'"),
        ({"pretrained": {"z": "z.pt"}}, "unknown target of 'pretrained' 'z'"),
        ({"targets": ("a", "a")}, "has the target 'a' 2 times: leave one"),
        ({"seeds": (1, 1)}, "the seed 1 2 times"),
        ({"initializations": ("graft", "graft")}, "the initialization 'graft' 2 times"),
        ({"pairs": (("a", "b"), ("a", "b"))}, "2 times"),
        ({"sources": (Source("a", "a"), Source("a", "b"))}, "the source 'a' 2 times"),
        ({"networks": {**GRID.networks, "d": "timm:mnasnet_050"}}, "the network 'timm:mnasnet_050' 2 times"),
        ({"initializations": ("grafft",)}, "unknown initialization 'grafft': did you mean 'graft'"),
        ({"sources": ()}, "graft needs a source, and no target has one"),
        ({"initializations": ("pretrained",)}, "pretrained needs weights"),
        ({"seeds": (-1,)}, "the seed -1 is negative"),
        ({"recipe": Recipe(batch=0)}, "batch is 0"),
    ],
)
def test_impossible_experiments_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(LabError, match=message):
        tasks_of(replace(GRID, **change))


def test_an_unknown_optimizer_is_refused_before_anything_runs() -> None:
    with pytest.raises(SpecError, match="unknown optimizer 'adm'"):
        tasks_of(replace(GRID, source_recipe=Recipe(optimizer="adm")))
