"""Writing is all or nothing, and what is written is what others expect."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model

from torchgraft.errors import CheckpointError
from torchgraft.io import atomic_write, open_table, save_safetensors, saving


def test_failure_in_the_middle_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "warm.safetensors"
    save_safetensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()

    def fail(tensors: object, filename: Path, metadata: object) -> None:
        Path(filename).write_bytes(b"half of a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_file", fail)
    with pytest.raises(CheckpointError, match=r"warm.safetensors cannot be written: No space left on device$"):
        save_safetensors(path, {"a": torch.zeros(2)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["warm.safetensors"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_interruption_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "plan.json"
    atomic_write(path, "old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["plan.json"]


def test_text_and_bytes(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", "größe")
    assert (tmp_path / "a").read_bytes() == "größe".encode()
    atomic_write(tmp_path / "a", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_safetensors(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a.safetensors")}
    assert len(modes) == 1


def test_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    atomic_write(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone/a\.safetensors cannot be written: No such file"):
        save_safetensors(tmp_path / "gone" / "a.safetensors", {"a": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"does not end in \.safetensors"):
        save_safetensors(tmp_path / "a.pt", {"a": torch.ones(1)})
    with pytest.raises(CheckpointError, match="is a folder"):
        atomic_write(tmp_path, "x")
    assert os.listdir(tmp_path) == []


def tied_model() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    return model


def test_tied_tensors_are_stored_once_as_safetensors_does(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_safetensors(path, tied_model().state_dict(), {"plan": "abc"})
    assert list(load_file(path)) == ["0.weight"]
    metadata = open_table(path).metadata()
    assert json.loads(metadata["torchgraft.tied"]) == {"1.weight": "0.weight"}
    assert (metadata["plan"], metadata["format"]) == ("abc", "pt")
    assert load_model(tied_model(), path) == (set(), [])


def test_tied_tensors_repeated_for_a_strict_loader(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = tied_model()
    save_safetensors(path, model.state_dict(), repeat_tied=True)
    stored = load_file(path)
    assert torch.equal(stored["0.weight"], stored["1.weight"])
    assert str(model.load_state_dict(stored)) == "<All keys matched successfully>"


def test_shared_storage_that_is_not_tied(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    tensors = {
        "whole": base,
        "part": base[2:6],
        "overlap": base[4:8],
        "turned": base.view(3, 4).t(),
        "reshaped": base.view(3, 4),
        "wide": torch.ones(1).expand(5),
        "image": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "conj": torch.tensor([1 + 2j]).conj(),
    }
    save_safetensors(tmp_path / "a.safetensors", tensors)
    stored = load_file(tmp_path / "a.safetensors")
    assert set(stored) == set(tensors)
    assert all(torch.equal(stored[key], tensor) for key, tensor in tensors.items())


UNSTORABLE = {
    "meta": (torch.empty(2, device="meta"), "meta device"),
    "sparse": (torch.ones(2, 2).to_sparse(), "sparse"),
    "complex128": (torch.ones(2, dtype=torch.complex128), "cast it to complex64"),
    "number": (3, "of type int"),
}


@pytest.mark.parametrize("case", UNSTORABLE)
def test_tensors_without_a_place_in_the_format(tmp_path: Path, case: str) -> None:
    tensor, match = UNSTORABLE[case]
    with pytest.raises(CheckpointError, match=f"'w'.*{match}"):
        save_safetensors(tmp_path / "a.safetensors", {"w": tensor})  # type: ignore[dict-item]
    assert os.listdir(tmp_path) == []


def test_no_tensors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tensors to write"):
        save_safetensors(tmp_path / "a.safetensors", {})
