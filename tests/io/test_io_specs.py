"""Specs: what they build, that they repeat, and what they say when they cannot."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from torchgraft.errors import CheckpointError, SpecError
from torchgraft.io import resolve, resolve_source

FACTORIES = """
import random
import numpy as np
import torch
from torch import nn

def tiny(width=4, depth=1, act="relu", shape=()):
    layers = [nn.Linear(3, width)] + [nn.Linear(width, width) for _ in range(depth - 1)]
    net = nn.Sequential(*layers)
    net.options = (width, depth, act, shape)
    return net

def drawn():
    net = nn.Linear(1, 3)
    net.weight.data[:, 0] = torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))])
    return net

def measured():
    return nn.Linear(3, int(torch.full((), 4).item()))

class Box:
    @staticmethod
    def build():
        return nn.Linear(1, 1)

def number():
    return 3

def broken():
    raise ZeroDivisionError("first line\\nsecond line")

constant = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder, under a name of its own for every test."""
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


def weights(spec: str, **options: object) -> torch.Tensor:
    module = resolve(spec, role="target", **options).module  # type: ignore[arg-type]
    assert module is not None
    return torch.cat([tensor.detach().flatten() for tensor in module.parameters()])


def test_python_factory_from_the_working_folder(factories: str) -> None:
    before = list(sys.path)
    found = resolve(f"python:{factories}:tiny,width=8,depth=2", role="target")
    assert found.name == f"python:{factories}:tiny,width=8,depth=2"
    assert found.table is None
    assert isinstance(found.module, nn.Sequential)
    assert [layer.out_features for layer in found.module] == [8, 8]
    assert sys.path == before
    assert isinstance(resolve(f"python:{factories}:Box.build", role="target").module, nn.Linear)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", (4, 1, "relu", ())),
        (",act=gelu", (4, 1, "gelu", ())),
        (",act=gelu-tanh", (4, 1, "gelu-tanh", ())),
        (",act='a, b'", (4, 1, "a, b", ())),
        (",shape=(1, 2),width=5", (5, 1, "relu", (1, 2))),
        (",shape={'a': [1]},act=None", (4, 1, None, {"a": [1]})),
    ],
)
def test_options_are_literals_or_words(factories: str, text: str, options: tuple[object, ...]) -> None:
    module = resolve(f"python:{factories}:tiny{text}", role="target").module
    assert module is not None
    assert module.options == options


def test_seed_repeats_and_leaves_the_callers_state(factories: str) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    spec = f"python:{factories}:drawn"
    assert torch.equal(weights(spec, seed=1), weights(spec, seed=1))
    assert not (weights(spec, seed=1) == weights(spec, seed=2)).any()
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()


def test_meta_builds_shapes_alone(factories: str) -> None:
    module = resolve(f"python:{factories}:tiny", role="target", meta=True).module
    assert module is not None
    assert all(tensor.is_meta for tensor in module.parameters())


BAD = {
    "python:nets": "write python:package.module:factory",
    "python:no_such_module_x:f": "there is no module 'no_such_module_x'",
    "python:{0}:tinny": "did you mean tiny?",
    "python:{0}:constant": "is a int: name a class or a function",
    "python:{0}:number": "returned a int: let the factory return",
    "python:{0}:broken": "cannot be built: ZeroDivisionError: first line$",
    "python:{0}:tiny,depht=3": "cannot be built: TypeError: .*depht",
    "python:{0}:tiny,3": "not key=value",
    "python:{0}:tiny,a=b c": "not key=value",
    "python:{0}:tiny,**x": "not key=value",
    "python:": "names no model: write python:NAME",
    "tim:resnet50": r"unknown kind 'tim' \(valid: timm:NAME, torchvision:NAME, hf:NAME, python:NAME, or a path\)",
    "resnet50": "did you mean timm:resnet50?",
}


@pytest.mark.parametrize("spec", BAD)
def test_bad_specs_say_what_to_write(factories: str, spec: str) -> None:
    with pytest.raises(SpecError, match=BAD[spec]) as caught:
        resolve(spec.format(factories), role="target")
    assert "\n" not in str(caught.value)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SpecError, match=r"transformers is not installed: pip install torchgraft\[zoo\]"):
        resolve("hf:any", role="target")


def test_path_is_a_source_and_never_a_target(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file({"weight": torch.ones(2, 3)}, path)
    found = resolve(path, role="source")
    assert (found.name, found.module) == ("old.safetensors", None)
    assert found.table is not None
    assert list(found.table.infos()) == ["weight"]
    with pytest.raises(SpecError, match="has weights but no code"):
        resolve(path, role="target")
    with pytest.raises(CheckpointError, match=r"gone\.pt does not exist"):
        resolve("gone.pt", role="source")


def saved(path: Path, model: nn.Module) -> Path:
    save_file({f"module.{key}": tensor for key, tensor in model.state_dict().items()}, path)
    return path


def test_checkpoint_with_its_factory(factories: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "old.safetensors", nn.Sequential(nn.Linear(3, 4)))
    found = resolve_source(path, f"python:{factories}:tiny")
    assert found.module is not None
    assert found.table is not None
    assert all(tensor.is_meta for tensor in found.module.parameters())
    assert set(found.table.infos()) == set(found.module.state_dict())
    assert resolve_source(path).module is None


def test_factory_that_computes_with_values_is_built_with_them(factories: str, tmp_path: Path) -> None:
    planned = resolve(f"python:{factories}:measured", role="target", meta=True).module
    assert planned is not None and not any(tensor.is_meta for tensor in planned.state_dict().values())
    path = saved(tmp_path / "old.safetensors", nn.Linear(3, 4))
    module = resolve_source(path, f"python:{factories}:measured").module
    assert module is not None
    assert {key: tuple(t.shape) for key, t in module.state_dict().items()} == {"weight": (4, 3), "bias": (4,)}


def test_checkpoint_with_a_factory_that_fits_in_part(factories: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "old.safetensors", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
    with pytest.warns(UserWarning, match=r"fits 2 of the 4 .*2 misshaped"):
        found = resolve_source(path, f"python:{factories}:tiny,depth=2")
    assert found.module is not None


def test_wrong_factory_is_told_apart(factories: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "old.safetensors", nn.Sequential(*(nn.Linear(3, 3) for _ in range(5))))
    with pytest.raises(
        CheckpointError, match=r"fits 0 of the 2 .*8 unexpected \(.*, \.\.\.\); 2 misshaped.*of another model"
    ):
        resolve_source(path, f"python:{factories}:tiny")
    with pytest.raises(SpecError, match="is a model already"):
        resolve_source(f"python:{factories}:tiny", f"python:{factories}:tiny")


def test_absent_batch_counters_do_not_count(tmp_path: Path) -> None:
    state = nn.BatchNorm1d(4).state_dict()
    del state["num_batches_tracked"]
    save_file(state, tmp_path / "bn.safetensors")
    found = resolve_source(tmp_path / "bn.safetensors", "python:torch.nn:BatchNorm1d,num_features=4")
    assert isinstance(found.module, nn.BatchNorm1d)


# The zoo packages are imported in a process of their own: their import emits warnings that are no concern of ours.
def run(code: str, **env: str) -> str:
    prelude = "from torchgraft.io import resolve, resolve_source\nfrom torchgraft.errors import *\nimport torch\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | env
    done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


VISION = """
def attempt(spec, **options):
    try:
        return sum(p.numel() for p in resolve(spec, role="target", **options).module.parameters())
    except SpecError as error:
        return str(error)
print(attempt("timm:resnet10t,num_classes=7", meta=True) - attempt("timm:resnet10t,num_classes=8", meta=True))
print(attempt("timm:resnet10t.c3_in1k,pretrained=True", meta=True) == attempt("timm:resnet10t", meta=True))
print(attempt("timm:resnet10q"))
print(attempt("timm:resnet10t,pretrained=True"))
print(attempt("torchvision:squeezenet1_1") == attempt("torchvision:squeezenet1_1", meta=True))
from torchvision.models.segmentation import fcn_resnet50
with torch.device("meta"):  # without weights_backbone=None it would ask for a download
    plain = fcn_resnet50(weights_backbone=None)
print(attempt("torchvision:fcn_resnet50", meta=True) == sum(p.numel() for p in plain.parameters()))
print(attempt("torchvision:googlenet", meta=True))
print(attempt("torchvision:squeezenet1"))
"""


def test_timm_and_torchvision(tmp_path: Path) -> None:
    lines = run(VISION, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)).splitlines()
    assert lines[0] == str(-513)
    assert lines[1] == "True"
    assert lines[2].startswith("unknown timm model 'resnet10q': did you mean ")
    assert "resnet10t" in lines[2]
    assert lines[3].startswith("timm:resnet10t,pretrained=True cannot be built: ")
    assert lines[4] == "True"
    assert lines[5] == "True"
    assert int(lines[6]) == 13004888
    assert lines[7].startswith("unknown torchvision model 'squeezenet1': did you mean squeezenet1_")


HUB = """
import os
from torchgraft.io import import_torchvision
import_torchvision()
from transformers import BertConfig, BertForMaskedLM
folder = os.environ["FOLDER"]
torch.manual_seed(7)
config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=11)
model = BertForMaskedLM(config)
model.save_pretrained(folder)
"""
HUB_CHECKS = """
def tell(spec, **options):
    try:
        model = resolve(spec, **options).module
        return type(model).__name__, any(p.is_meta for p in model.parameters()), model
    except SpecError as error:
        return str(error)
source, target = tell(spec, role="source"), tell(spec, role="target")
print(source[:2], target[:2], tell(spec, role="source", meta=True)[:2])
same = [torch.equal(a, b) for a, b in zip(source[2].state_dict().values(), model.state_dict().values())]
other = [torch.equal(a, b) for a, b in zip(target[2].state_dict().values(), model.state_dict().values())]
print(all(same), all(other))
print(tell("hf:nobody/nothing", role="source"))
print(tell("hf:./no/folder", role="source"))
"""


def test_transformers_folder_and_hub_cache(tmp_path: Path) -> None:
    """One process: a tiny model is saved into a cache laid out as the hub's, and found by folder and by id."""
    repository = tmp_path / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    kinds = "('BertForMaskedLM', False) ('BertForMaskedLM', False) ('BertForMaskedLM', True)"
    loop = f"for spec in ('hf:org/tiny', 'hf:{snapshot}'):\n" + "".join(
        f"    {line}\n" for line in HUB_CHECKS.splitlines()
    )
    lines = run(HUB + loop, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), FOLDER=str(snapshot)).splitlines()
    assert len(lines) == 8
    for start in (0, 4):
        assert lines[start] == kinds
        assert lines[start + 1] == "True False"
        assert lines[start + 2].startswith("hf:nobody/nothing cannot be loaded: ")
        assert lines[start + 3] == "hf:./no/folder is no folder: check the path, or give a hub id as hf:OWNER/NAME"


def test_transformers_oddities(tmp_path: Path) -> None:
    """Missing weights are told; a config without a class gives AutoModel; an unknown class is refused."""
    code = (
        HUB
        + """
import json, warnings
from safetensors.torch import load_file, save_file
state = load_file(f"{folder}/model.safetensors")
state.pop("bert.embeddings.position_embeddings.weight")
save_file(state, f"{folder}/model.safetensors", metadata={"format": "pt"})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    resolve(f"hf:{folder}", role="source")
print([str(w.message).split(" has ")[1] for w in caught if "no weights" in str(w.message)])
for architectures in (None, ["NoSuchModel"]):
    config = json.load(open(f"{folder}/config.json")) | {"architectures": architectures}
    json.dump(config, open(f"{folder}/config.json", "w"))
    try:
        print(type(resolve(f"hf:{folder}", role="target", meta=True).module).__name__)
    except SpecError as error:
        print(error)
"""
    )
    lines = run(code, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), FOLDER=str(tmp_path / "tiny")).splitlines()
    assert lines[0] == ("['no weights for 1 tensors (bert.embeddings.position_embeddings.weight): these are random']")
    assert lines[1] == "BertModel"
    assert "is a NoSuchModel, which transformers" in lines[2]
