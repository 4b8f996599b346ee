"""Whatever is wrong with the input: exit code 2, one line on stderr, nothing on stdout, nothing written."""

import errno
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import Bomb
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

import torchgraft
from torchgraft.cli import app
from torchgraft.io import saving

LINEAR = "python:torch.nn:Linear,in_features=4,out_features=3"
LAYER = "python:torch.nn:TransformerEncoderLayer,d_model=8,nhead=2,dim_feedforward=12"


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working folder with one good file in it."""
    monkeypatch.chdir(tmp_path)
    save_file(nn.Linear(4, 3).state_dict(), "good.safetensors")
    return tmp_path


@pytest.fixture
def models(folder: Path) -> Iterator[str]:
    """Write models that misbehave; return the prefix of their specs."""
    name = f"bad_models_of_{folder.name}"
    (folder / f"{name}.py").write_text(
        "import sys\nfrom torch import nn\n"
        "number = 3\n"
        "def nothing(): return 5\n"
        "def fails(): raise RuntimeError('no\\nluck \\x1b[2J')\n"
        "def leaves(): sys.exit(0)\n"
        "def lazy(): return nn.LazyLinear(4)\n"
    )
    yield f"python:{name}:"
    sys.modules.pop(name, None)


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with what is in it; caches of imported models aside."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


def check_refused(folder: Path, arguments: list[str], *told: str) -> str:
    """Assert that a command is refused in one line that holds every word of ``told``, and changes no file."""
    before = everything(folder)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, (result.stdout, result.exception)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("torchgraft: error: ")
    assert lines[0].isprintable()
    assert len(lines[0]) < 600
    for word in told:
        assert word in lines[0]
    assert everything(folder) == before
    return lines[0]


def transfer(source: str, *more: str, target: str = LINEAR, output: str = "out.safetensors") -> list[str]:
    return ["transfer", source, "--target", target, "-o", output, "--report", "report.json", *more]


def missing() -> str:
    return "gone.safetensors"


def empty() -> str:
    Path("empty.safetensors").touch()
    return "empty.safetensors"


def empty_folder() -> str:
    Path("hollow.safetensors").mkdir()
    return "hollow.safetensors"


def truncated() -> str:
    Path("cut.safetensors").write_bytes(Path("good.safetensors").read_bytes()[:-7])
    return "cut.safetensors"


def garbage() -> str:
    Path("garbage.safetensors").write_bytes(bytes(range(256)) * 4)
    return "garbage.safetensors"


def endless_header() -> str:
    Path("endless.safetensors").write_bytes(raw(b"{}", length=2**62))
    return "endless.safetensors"


def lying_shape() -> str:
    header = json.dumps({"weight": entry([3, 4], 0, 8)}).encode()
    Path("lying.safetensors").write_bytes(raw(header, bytes(8)))
    return "lying.safetensors"


def overlapping() -> str:
    header = json.dumps({"weight": entry([3, 4], 0, 48), "bias": entry([3], 40, 52)}).encode()
    Path("overlap.safetensors").write_bytes(raw(header, bytes(52)))
    return "overlap.safetensors"


def bomb() -> str:
    torch.save({"state_dict": {"weight": torch.zeros(3, 4)}, "args": Bomb()}, "bomb.pth")
    return "bomb.pth"


def bare_bomb() -> str:
    Path("bare.pt").write_bytes(pickle.dumps(Bomb()))
    return "bare.pt"


def object_array() -> str:
    np.savez("objects.npz", weight=np.array([{"a": 1}], dtype=object))
    return "objects.npz"


def cut_archive() -> str:
    with zipfile.ZipFile("cut.npz", "w") as archive:
        archive.writestr("weight.npy", b"\x93NUMPY\x01\x00")
    return "cut.npz"


def wrong_format() -> str:
    Path("model.onnx").write_bytes(b"onnx")
    return "model.onnx"


BROKEN = [
    missing,
    empty,
    empty_folder,
    truncated,
    garbage,
    endless_header,
    lying_shape,
    overlapping,
    bomb,
    bare_bomb,
    object_array,
    cut_archive,
    wrong_format,
]


@pytest.mark.parametrize("make", BROKEN)
@pytest.mark.parametrize("command", ["transfer", "plan", "similarity", "rank"])
def test_a_broken_source(folder: Path, make: Callable[[], str], command: str) -> None:
    name = make()
    arguments = {
        "transfer": transfer(name),
        "plan": ["plan", name, "--target", LINEAR, "-o", "plan.json"],
        "similarity": ["similarity", name, LINEAR, "--json"],
        "rank": ["rank", "--target", LINEAR, "good.safetensors", name],
    }[command]
    check_refused(folder, arguments, name)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(folder: Path, value: float) -> None:
    weights = {"weight": torch.zeros(3, 4), "bias": torch.tensor([0, value, 0])}
    save_file(weights, "nan.safetensors")
    check_refused(folder, transfer("nan.safetensors"), "nan.safetensors", "'bias'")


def test_a_wrong_factory(folder: Path) -> None:
    check_refused(folder, transfer("good.safetensors", "--source", LAYER), "good.safetensors", LAYER)
    check_refused(folder, transfer(LINEAR, "--source", LINEAR), LINEAR)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("nonsense", "nonsense"),
        ("keras:resnet50", "unknown kind 'keras'"),
        ("timm:resnet5000", "unknown timm model 'resnet5000'"),
        ("torchvision:resnet5000", "unknown torchvision model 'resnet5000'"),
        ("hf:./nowhere", "hf:./nowhere is no folder"),
        ("timm:", "names no model"),
        ("python:torch.nn", "incomplete"),
        ("python:no_such_module:net", "no_such_module"),
        ("python:torch.nn:Linea", "did you mean Linear"),
        ("python:torch.nn:Linear,4,3", "key=value"),
        ("python:torch.nn:Linear,in_features=4", "out_features"),
        ("good.safetensors", "no code"),
    ],
)
def test_a_target_that_cannot_be_built(folder: Path, spec: str, told: str) -> None:
    check_refused(folder, transfer("good.safetensors", target=spec), told)


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("number", "is a int"),
        ("nothing", "returned a int"),
        ("fails", r"RuntimeError: no"),
        ("leaves", "ended the program (exit 0)"),
        ("lazy", "lazy"),
    ],
)
def test_code_that_misbehaves(folder: Path, models: str, factory: str, told: str) -> None:
    check_refused(folder, transfer("good.safetensors", target=models + factory), told)
    check_refused(folder, ["plan", "good.safetensors", "--target", models + factory], told)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--pin", "weight"], "TARGET=SOURCE"),
        (["--pin", "bod=linear1"], "the pin 'bod' ← 'linear1' cannot hold"),
        (["--pin", "linear1=bod"], "the pin 'linear1' ← 'bod' cannot hold"),
        (["--pin", "linear1=norm1"], "the pin 'linear1' ← 'norm1' cannot hold"),
        (["--pin", "linear1=linear1", "--pin", "linear1=linear2"], "'linear1' is pinned to 'linear1' and to 'linear2'"),
        (["--pin", "linear1=linear1", "--exclude-target", "linear1"], "it is excluded"),
        (["--exclude-target", "bod"], "nothing to exclude at target path 'bod'"),
        (["--exclude-source", "bod"], "nothing to exclude at source path 'bod'"),
        (["--method", "magic"], "'magic' is not one of"),
        (["--exponent", "1.5"], "1.5"),
        (["--exponent", "nan"], "nan"),
        (["--seed", "-1"], "--seed"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_options_that_cannot_hold(folder: Path, options: list[str], told: str) -> None:
    check_refused(folder, ["plan", LAYER, "--target", LAYER, "-o", "plan.json", *options], told)


def test_arguments_that_are_not_there(folder: Path) -> None:
    check_refused(folder, ["frobnicate"], "frobnicate", "torchgraft --help")
    check_refused(folder, ["plan"], "SOURCE", "torchgraft plan --help")
    check_refused(folder, ["transfer", "good.safetensors", "--target", LINEAR], "--output")
    check_refused(folder, ["rank", "--target", LINEAR], "SOURCE")
    check_refused(folder, ["demo", "--output", "good.safetensors"], "good.safetensors is a file")


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"a": 1}', b'{"0": "1"}', b'{"0": 1, "00": 2}', b'{"0": 1.5}', b"\xff", b"[" * 100000],
)
def test_a_label_file_that_is_none(folder: Path, content: bytes) -> None:
    Path("labels.json").write_bytes(content)
    check_refused(folder, transfer("good.safetensors", "--labels", "labels.json"), "labels.json")


def test_classes_that_do_not_exist(folder: Path) -> None:
    Path("labels.json").write_text('{"0": 99}')
    check_refused(folder, transfer("good.safetensors", "--labels", "labels.json"), "99")
    check_refused(folder, transfer("good.safetensors", "--labels", "gone.json"), "gone.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"5", b'{"format": 99}', b"\xff\xfe", b"[" * 100000])
def test_a_plan_file_that_is_none(folder: Path, content: bytes) -> None:
    Path("plan.json").write_bytes(content)
    check_refused(folder, transfer("good.safetensors", "--plan", "plan.json"), "plan.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("transfers", 0, "moves", 0, "source", "key"), "elsewhere"),
        (("transfers", 0, "moves", 0, "target", "key"), None),
        (("transfers", 0, "moves", 0, "source", "shape"), [9, 9]),
        (("transfers", 0, "moves", 0, "prepare"), ["magic"]),
        (("transfers", 0, "kind"), None),
        (("tensors", 0, "elements"), "many"),
        (("tensors", 0, "status"), []),
        (("tensors", 0, "shape"), [9, 9]),
        (("operator",), "magic"),
        (("score",), 10**400),
    ],
)
def test_a_plan_that_was_tampered_with(folder: Path, path: tuple[str | int, ...], value: object) -> None:
    save_file(nn.Linear(5, 3).state_dict(), "other.safetensors")
    plan: Any = torchgraft.plan("other.safetensors", LINEAR).to_dict()
    place = plan
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    Path("plan.json").write_text(json.dumps(plan))
    check_refused(folder, transfer("other.safetensors", "--plan", "plan.json"))


def test_a_plan_for_another_pair(folder: Path) -> None:
    Path("plan.json").write_text(torchgraft.plan("good.safetensors", LINEAR).to_json())
    check_refused(folder, transfer(LAYER, "--plan", "plan.json"), "another source")
    check_refused(folder, transfer("good.safetensors", "--plan", "plan.json", target=LAYER), "another target")
    check_refused(folder, transfer("good.safetensors", "--plan", "plan.json", "--method", "graft"), "drop --method")
    check_refused(folder, transfer("good.safetensors", "--plan", "gone.json"), "gone.json")


def test_outputs_that_cannot_be(folder: Path) -> None:
    Path("folder.safetensors").mkdir()
    Path("file").touch()
    for output, told in {
        "out.pt": "does not end in .safetensors",
        "folder.safetensors": "is a folder",
        "nowhere/out.safetensors": "nowhere does not exist",
        "file/out.safetensors": "file does not exist",
        "good.safetensors": "would destroy it",
        "./good.safetensors": "would destroy it",
    }.items():
        check_refused(folder, transfer("good.safetensors", output=output), output.removeprefix("./"), told)
    both = ["transfer", "good.safetensors", "--target", LINEAR, "-o", "x.safetensors", "--report", "./x.safetensors"]
    check_refused(folder, both, "two names")
    check_refused(
        folder, ["plan", "good.safetensors", "--target", LINEAR, "-o", "good.safetensors"], "would destroy it"
    )


def test_a_part_of_the_source_is_not_overwritten(folder: Path) -> None:
    Path("shards").mkdir()
    for source in ("shards", "shards/model.safetensors.index.json"):
        for name, part in {"a": {"weight": torch.zeros(3, 4)}, "b": {"bias": torch.zeros(3)}}.items():
            save_file(part, f"shards/{name}.safetensors")
        index = {"metadata": {}, "weight_map": {"weight": "a.safetensors", "bias": "b.safetensors"}}
        Path("shards/model.safetensors.index.json").write_text(json.dumps(index))
        check_refused(
            folder, transfer(source, output="shards/a.safetensors"), "shards/a.safetensors", "would destroy it"
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(folder: Path) -> None:
    Path("sealed").mkdir(mode=0o500)
    check_refused(folder, transfer("good.safetensors", output="sealed/out.safetensors"), "no permission")


def test_a_disk_that_fills_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    check_refused(folder, transfer("good.safetensors"), "out.safetensors cannot be written: No space left on device")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 2, "out of memory"),
        (PermissionError(errno.EACCES, "Permission denied", "a/file"), 2, "a/file: Permission denied"),
    ],
)
def test_what_ends_a_transfer_halfway(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, told: str
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(torchgraft, "apply", stop)
    before = everything(folder)
    result = CliRunner().invoke(app, transfer("good.safetensors"))
    assert (result.exit_code, result.stdout) == (code, "")
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert everything(folder) == before


def test_a_fault_of_our_own_is_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(torchgraft, "apply", stop)
    result = CliRunner().invoke(app, transfer("good.safetensors"))
    assert isinstance(result.exception, ZeroDivisionError)
