"""The built-in experiments, and those that are read from files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from torchgraft.errors import GraftError, LabError
from torchgraft.lab.experiments import EXPERIMENTS, experiment_from_dict, load_experiment, own_pair
from torchgraft.lab.records import Data, Recipe, Source
from torchgraft.lab.tasks import pairs_of, tasks_of

NETWORKS = {"a": "timm:resnet18", "b": "timm:resnet34"}
# How many runs train sources, and how many targets; sources with weights of their own are not trained.
RUNS = {
    "digits-pairs": (3, 3 * 5 + 6 * 3 * 5),
    "cifar100-small": (5, 5 * 3 + 20 * 3 * 3),
    "paper-pairs": (9, 9 * 3 + 72 * 2 * 3),
    "paper-ablation": (9, 9 * 3 + 20 * 17 * 3),
    "paper-long": (9, 9 + 72 * 2),
}
FULL = """
name = "mine"
title = "All there is"
targets = ["b"]
initializations = ["random", "pretrained", "graft:dp"]
pairs = [["old", "b"]]
seeds = [3, 1]
thresholds = [50, 62.5]
sources = ["a", { name = "old", network = "a", weights = "old.pth", seed = 4 }]
data = { name = "folder:images", size = 64, train = 100, test = 50, seed = 2, normalize = "imagenet" }
source_data = "digits"
[networks]
a = "timm:resnet18"
b = "python:my.models:build,width=2"
[recipe]
epochs = 5
rate = 1
channels_last = false
[source_recipe]
batch = 64
[pretrained]
b = "own.safetensors"
"""


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_built_in_experiment_can_be_run(name: str) -> None:
    experiment = load_experiment(name)
    sources, targets = tasks_of(experiment)
    assert experiment.name == name
    assert experiment.title
    assert experiment.thresholds == tuple(sorted(experiment.thresholds))
    assert "random" in experiment.initializations, "effectiveness is told against it"
    keys = [task.key for task in (*sources, *targets)]
    assert len(set(keys)) == len(keys)
    assert {task.source_key for task in targets} - {""} == {task.key for task in sources}
    if name in RUNS:
        assert (len(sources), len(targets)) == RUNS[name]


def test_the_small_experiments_share_their_runs_on_cifar100() -> None:
    small, ablation, controls = (
        {task.key for tasks in tasks_of(load_experiment(f"cifar100-{name}")) for task in tasks}
        for name in ("small", "ablation", "controls")
    )
    # The sources, and of one seed: random, and dpiat and graft of eight pairs.
    assert len(small & ablation) == 5 + 5 + 8 + 8
    assert small & controls


def test_the_paper_s_experiments_are_the_paper_s() -> None:
    pairs, ablation, long = (load_experiment(f"paper-{name}") for name in ("pairs", "ablation", "long"))
    assert sorted(spec.removeprefix("timm:") for spec in pairs.networks.values()) == [
        "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "mixnet_l", "mixnet_m", "mnasnet_100",
        "rexnet_100", "rexnet_150", "semnasnet_100",
    ]  # fmt: skip
    assert len(pairs_of(pairs)) == 72
    assert {"random", "dpiat", "graft"} == set(pairs.initializations)
    assert len(pairs.seeds) == 3
    recipe = pairs.recipe
    assert (recipe.optimizer, recipe.rate, recipe.final_rate, recipe.horizon) == ("adam", 4e-3, 4e-4, 100)
    assert (recipe.epochs, recipe.batch, recipe.weight_decay, recipe.warmup) == (4, 128, 0, 0)
    assert recipe.augment == "paper"
    assert dataclasses.replace(pairs.source_recipe, epochs=4, keep="last") == recipe
    assert (pairs.source_recipe.epochs, pairs.source_recipe.keep) == (100, "best")
    assert long.recipe == dataclasses.replace(recipe, epochs=100)
    by_target = {
        target: sorted(source for source, other in ablation.pairs if other == target) for target in ablation.targets
    }
    assert by_target == {
        "b0": ["b1", "mnasnet"],
        "b1": ["b2", "mixnet-l", "mixnet-m", "rexnet-100", "semnasnet"],
        "b2": ["b1"],
        "mixnet-l": ["b2", "mnasnet"],
        "mixnet-m": ["b0", "mixnet-l", "mnasnet"],
        "rexnet-150": ["b1", "mixnet-m"],
        "rexnet-100": ["mixnet-m"],
        "mnasnet": ["mixnet-l", "rexnet-150"],
        "semnasnet": ["mixnet-l", "rexnet-150"],
    }
    variants = [name for name in ablation.initializations if name.startswith("dpiat")]
    assert len(variants) == 4 * 4, "matchers times operators, the method itself among them"


def test_a_file_says_everything_that_a_record_holds(tmp_path: Path) -> None:
    path = tmp_path / "any.toml"
    path.write_text(FULL, "utf-8")
    experiment = load_experiment(path)
    assert experiment.networks == {"a": "timm:resnet18", "b": "python:my.models:build,width=2"}
    assert experiment.sources == (Source("a", "a"), Source("old", "a", "old.pth", 4))
    assert experiment.data == Data("folder:images", 64, 100, 50, 2, "imagenet")
    assert experiment.source_data == Data("digits")
    assert experiment.recipe == Recipe(epochs=5, rate=1.0, channels_last=False)
    assert isinstance(experiment.recipe.rate, float), "1 and 1.0 are one run"
    assert experiment.source_recipe == Recipe(epochs=100, keep="best", batch=64)
    assert (experiment.name, experiment.title, experiment.targets) == ("mine", "All there is", ("b",))
    assert (experiment.pairs, experiment.seeds, experiment.thresholds) == ((("old", "b"),), (3, 1), (50.0, 62.5))
    assert experiment.pretrained == {"b": "own.safetensors"}
    assert len(tasks_of(experiment)[1]) == 2 * 3


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_record_written_as_json_is_read_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(dataclasses.asdict(EXPERIMENTS[name]())), "utf-8")
    assert load_experiment(path) == EXPERIMENTS[name]()


def test_the_least_that_a_file_must_say(tmp_path: Path) -> None:
    path = tmp_path / "my grid.toml"
    path.write_bytes(b'\xef\xbb\xbfnetworks = ["timm:resnet18,in_chans=1", "timm:resnet34"]\n')
    experiment = load_experiment(path)
    assert experiment.name == "my-grid"
    assert experiment.networks == {"resnet18": "timm:resnet18,in_chans=1", "resnet34": "timm:resnet34"}
    assert [source.network for source in experiment.sources] == list(experiment.targets) == list(experiment.networks)
    assert experiment.initializations == ("random", "name_shape", "dpiat", "graft")
    assert experiment_from_dict({"networks": NETWORKS, "title": None}).title == ""


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"networks": None}, "no networks"),
    ({"networks": {}}, "networks must be a table"),
    ({"networks": "timm:a"}, "networks must be a table"),
    ({"networks": {"a": 1}}, "networks.a must be text, not 1"),
    ({"networks": ["timm:a", "timm:a,width=2"]}, "2 of them would be called 'a'"),
    ({"name": "../up"}, "name is '../up'"),
    ({"name": ""}, "names a folder too"),
    ({"title": 3}, "title must be text"),
    ({"tilte": "x"}, "unknown field 'tilte': did you mean 'title'?"),
    ({"sources": "a"}, "sources must be a list"),
    ({"sources": [3]}, "sources[0] must be a network's name, or a table"),
    ({"sources": [{"weights": "x"}]}, "sources[0] names no network"),
    ({"sources": [{"network": 1}]}, "must be text, not 1"),
    ({"sources": [{"network": "a", "weight": "x"}]}, "did you mean 'weights'?"),
    ({"sources": ["c"]}, "unknown source 'c'"),
    ({"targets": [1]}, "targets[0] must be text, not 1"),
    ({"targets": []}, "has no targets"),
    ({"initializations": ["graft", 1]}, "initializations[1] must be text"),
    ({"initializations": ["grft"]}, "did you mean 'graft'?"),
    ({"data": 3}, "data must be a table"),
    ({"data": {"size": "32"}}, "data.size must be a whole number"),
    ({"data": {"size": True}}, "data.size must be a whole number"),
    ({"data": {"train": 1.5}}, "data.train must be a whole number"),
    ({"recipe": {"rate": "fast"}}, "recipe.rate must be a number"),
    ({"recipe": {"rate": math.nan}}, "recipe.rate must be a number"),
    ({"recipe": {"compile": 1}}, "recipe.compile must be true or false"),
    ({"recipe": {"epochs": None}}, "recipe.epochs must be a whole number"),
    ({"recipe": {"optimizer": "adm"}}, "did you mean 'adam'?"),
    ({"source_recipe": {"epoch": 1}}, "source_recipe: unknown field 'epoch': did you mean 'epochs'?"),
    ({"pairs": [["a"]]}, "pairs[0] must be [source, target]"),
    ({"pairs": [["a", 2]]}, "pairs[0][1] must be text"),
    ({"pairs": [["a", "c"]]}, "unknown target of a pair 'c'"),
    ({"seeds": 3}, "seeds must be a list, not 3"),
    ({"seeds": [0.5]}, "seeds[0] must be a whole number"),
    ({"seeds": [2**32]}, "seeds[0] must be a whole number"),
    ({"thresholds": ["50"]}, "thresholds[0] must be a number"),
    ({"thresholds": [101]}, "thresholds[0] must be an accuracy in percent"),
    ({"pretrained": {"b": 1}}, "pretrained.b must be text"),
    ({"pretrained": []}, "pretrained must be a table"),
]


@pytest.mark.parametrize(("fields", "told"), REFUSED, ids=[told[:40] for _, told in REFUSED])
def test_what_is_wrong_is_told_by_the_name_of_its_field(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(GraftError) as error:
        tasks_of(experiment_from_dict({"networks": NETWORKS, **fields}, "my.toml"))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


FILES: list[tuple[str, bytes | None, str]] = [
    ("gone.toml", None, "cannot be read: No such file"),
    ("cut.toml", b"networks = [", "is no valid TOML"),
    ("cut.json", b'{"networks": ', "is no valid JSON"),
    ("twice.json", b'{"name": "a", "name": "b"}', "'name' is there twice"),
    ("latin.toml", b'title = "\xe9"', "is no valid TOML"),
    ("list.json", b"[1]", "it must be a table"),
    ("deep.json", b"[" * 100_000, "is no valid JSON"),
    ("grid.yaml", b"", "or a .toml or .json file"),
]


@pytest.mark.parametrize(("name", "content", "told"), FILES, ids=[name for name, _, _ in FILES])
def test_a_file_that_is_no_experiment_is_named(name: str, content: bytes | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LabError) as error:
        load_experiment(tmp_path / name)
    assert name in str(error.value)
    assert told in str(error.value)


def test_a_wrong_name_is_answered_with_the_right_ones() -> None:
    with pytest.raises(LabError, match=r"unknown experiment 'digit-pairs': did you mean 'digits-pairs'\? \(valid: "):
        load_experiment("digit-pairs")


def test_an_own_pair_is_an_experiment_of_one_pair() -> None:
    data = Data("folder:images", size=64)
    pair = own_pair("timm:resnet18", "python:my.models:build,width=2", data, "old.pth", seeds=(0,))
    assert pair.name == "resnet18-to-my.models-build"
    assert pair.title == "old.pth → python:my.models:build,width=2"
    sources, targets = tasks_of(pair)
    assert sources == (), "there are weights"
    assert [task.initialization for task in targets] == ["random", "name_shape", "dpiat", "graft"]
    assert {task.spec for task in targets} == {"python:my.models:build,width=2"}
    assert {task.data for task in targets} == {data}
    trained, _ = tasks_of(own_pair("timm:resnet18", "timm:resnet34", data))
    assert [task.spec for task in trained] == ["timm:resnet18"]


def test_an_own_pair_may_be_of_one_architecture_or_of_one_name() -> None:
    same = own_pair("timm:resnet18", "timm:resnet18", Data(), "old.pth")
    assert pairs_of(same) == (("resnet18", "resnet18"),)
    assert len(tasks_of(same)[1]) == 4 * 3
    alike = own_pair("timm:resnet18", "torchvision:resnet18", Data())
    assert alike.networks == {"source": "timm:resnet18", "target": "torchvision:resnet18"}
    assert len(tasks_of(alike)[1]) == 4 * 3
