"""Every format gives back what was written, by name, shape, dtype and value."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from torchgraft.errors import CheckpointError
from torchgraft.io import DictTable, TensorInfo, check_finite, open_table, save_safetensors

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.bool),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]
NUMPY = [dtype for dtype in DTYPES if dtype not in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)]
SHAPES = [(), (3,), (0, 4), (2, 3, 5)]


def sample(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    values = torch.randint(0, 2 if dtype is torch.bool else 100, shape, generator=generator)
    tensor = values.to(dtype)
    return tensor * (1 + 2j) if dtype.is_complex else tensor


def samples(dtypes: list[torch.dtype]) -> dict[str, torch.Tensor]:
    return {f"z.{dtype}.{len(shape)}": sample(dtype, shape) for dtype in reversed(dtypes) for shape in SHAPES}


def octets(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def assert_same(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with open_table(path) as table:
        infos = table.infos()
        assert set(infos) == set(tensors)
        if table.ordered:
            assert list(infos) == list(tensors)
        for key, tensor in tensors.items():
            assert infos[key] == TensorInfo(tuple(tensor.shape), tensor.dtype)
            loaded = table.load(key)
            assert (loaded.shape, loaded.dtype, loaded.device.type) == (tensor.shape, tensor.dtype, "cpu")
            assert torch.equal(octets(loaded), octets(tensor))


def test_safetensors_round_trip(tmp_path: Path) -> None:
    tensors = samples(DTYPES)
    save_safetensors(tmp_path / "a.safetensors", tensors, {"source": "old"})
    assert_same(tmp_path / "a.safetensors", tensors)
    assert open_table(tmp_path / "a.safetensors").metadata() == {"source": "old", "format": "pt"}


def test_foreign_safetensors_round_trip(tmp_path: Path) -> None:
    tensors = samples(DTYPES)
    save_file(tensors, tmp_path / "a.safetensors")
    assert_same(tmp_path / "a.safetensors", tensors)
    assert open_table(tmp_path / "a.safetensors").metadata() == {}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_round_trip(tmp_path: Path, save: object) -> None:
    tensors = samples(NUMPY)
    save(tmp_path / "a.npz", **{key: tensor.numpy() for key, tensor in tensors.items()})  # type: ignore[operator]
    assert_same(tmp_path / "a.npz", tensors)


def test_npz_of_either_byte_order_and_layout(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "a.npz", big=array.astype(">f4"), fortran=np.asfortranarray(array))
    with open_table(tmp_path / "a.npz") as table:
        assert table.infos()["big"].dtype is torch.float32
        assert torch.equal(table.load("big"), torch.from_numpy(array))
        assert torch.equal(table.load("fortran"), torch.from_numpy(array))


# The format before torch 1.6 cannot hold float8 and uint16 (torch's own loader fails on what its writer writes).
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_round_trip(tmp_path: Path, suffix: str, zipped: bool) -> None:
    tensors = samples(DTYPES if zipped else [t for t in DTYPES if t.itemsize > 1 and t is not torch.uint16])
    tensors["view"] = torch.arange(12.0).view(3, 4).t()
    tensors["tied"] = tensors["view"]
    torch.save(tensors, tmp_path / f"a{suffix}", _use_new_zipfile_serialization=zipped)
    assert_same(tmp_path / f"a{suffix}", tensors)


def test_dict_table_keeps_order_and_strips_wrappers() -> None:
    module = torch.nn.DataParallel(torch.nn.Linear(2, 3))
    table = DictTable(module.state_dict(), "live model")
    assert (list(table.infos()), table.ordered, table.name) == (["weight", "bias"], True, "live model")
    assert torch.equal(table.load("weight"), module.module.weight)
    assert not table.load("weight").requires_grad


def test_dict_table_on_meta_has_infos_but_no_values() -> None:
    table = DictTable({"w": torch.empty(2, 3, device="meta")})
    assert table.infos()["w"].shape == (2, 3)
    with pytest.raises(CheckpointError, match="meta device"):
        table.load("w")


def test_unknown_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state dict has no tensor 'b': its keys begin \['a'\]"):
        DictTable({"a": torch.ones(1)}).load("b")


@pytest.mark.parametrize("key", ["state_dict", "model", "module", "net", "state_dict_ema"])
def test_state_dict_is_found_in_a_training_checkpoint(tmp_path: Path, key: str) -> None:
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save({"epoch": 3, "optimizer": optimizer.state_dict(), key: model.state_dict()}, tmp_path / "run.pth")
    with open_table(tmp_path / "run.pth") as table:
        assert list(table.infos()) == ["weight", "bias"]
        assert torch.equal(table.load("weight"), model.weight)
        assert table.name == f"run.pth#{key}"


def test_plain_choice_among_several_state_dicts(tmp_path: Path) -> None:
    torch.save({"state_dict_ema": {"w": torch.ones(2)}, "state_dict": {"w": torch.zeros(2)}}, tmp_path / "run.pt")
    assert open_table(tmp_path / "run.pt").load("w").sum() == 0
    assert open_table(f"{tmp_path / 'run.pt'}#state_dict_ema").load("w").sum() == 2


def test_several_state_dicts_without_a_plain_choice_are_listed(tmp_path: Path) -> None:
    torch.save({"student": {"w": torch.ones(2)}, "teacher": {"w": torch.zeros(2)}}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=r"student, teacher.*run.pt#PLACE"):
        open_table(tmp_path / "run.pt")
    assert open_table(f"{tmp_path / 'run.pt'}#teacher").load("w").sum() == 0
    with pytest.raises(CheckpointError, match=r"holds no 'pupil'.*student, teacher"):
        open_table(f"{tmp_path / 'run.pt'}#pupil")


def test_arguments_of_a_training_script_do_no_harm(tmp_path: Path) -> None:
    import argparse

    torch.save({"args": argparse.Namespace(lr=0.1), "model": {"w": torch.ones(2)}}, tmp_path / "run.pt")
    assert list(open_table(tmp_path / "run.pt").infos()) == ["w"]


def test_extra_state_is_left_aside_and_told(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "fc._extra_state": {"scale": 1.0}}, tmp_path / "a.pt")
    table = open_table(tmp_path / "a.pt")
    assert (list(table.infos()), table.skipped) == (["w"], ("fc._extra_state",))


def shard(folder: Path, shards: dict[str, dict[str, torch.Tensor]]) -> Path:
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    index = {"metadata": {}, "weight_map": {key: name for name, tensors in shards.items() for key in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


def test_shards_by_index_and_by_folder(tmp_path: Path) -> None:
    one, two = {"module.a": torch.ones(2), "module.c": torch.tensor(3)}, {"module.b": torch.zeros(4)}
    index = shard(tmp_path, {"m-1-of-2.safetensors": one, "m-2-of-2.safetensors": two})
    for path in (index, tmp_path):
        with open_table(path) as table:
            assert set(table.infos()) == {"a", "b", "c"}
            assert torch.equal(table.load("a"), torch.ones(2))
            assert torch.equal(table.load("b"), torch.zeros(4))


def test_shard_tensor_outside_the_index_is_skipped_and_told(tmp_path: Path) -> None:
    index = shard(tmp_path, {"m.safetensors": {"a": torch.ones(2), "b": torch.ones(3)}})
    index.write_text(json.dumps({"weight_map": {"a": "m.safetensors"}}))
    table = open_table(index)
    assert (list(table.infos()), table.skipped) == (["a"], ("b",))


def test_folder_with_one_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert list(open_table(tmp_path).infos()) == ["a"]


def test_tied_names_come_back(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    save_safetensors(tmp_path / "a.safetensors", {"embed": weight, "x": torch.ones(1), "head": weight}, {})
    table = open_table(tmp_path / "a.safetensors")
    assert set(table.infos()) == {"embed", "x", "head"}
    assert torch.equal(table.load("head"), weight)


def test_close_lets_go_of_the_file(tmp_path: Path) -> None:
    for name, save in (("a.safetensors", save_file), ("a.pt", torch.save)):
        save({"a": torch.ones(2)}, tmp_path / name)
        with open_table(tmp_path / name) as table:
            kept = table.load("a")
        with pytest.raises(CheckpointError, match="closed"):
            table.load("a")
        assert kept.sum() == 2


def test_replaced_file_is_read_as_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_safetensors(path, {"a": torch.ones(2)})
    table = open_table(path)
    save_safetensors(path, {"b": torch.zeros(100), "a": torch.zeros(3)})
    assert torch.equal(table.load("a"), torch.ones(2))


@pytest.mark.parametrize("dtype", [t for t in DTYPES if t.is_floating_point or t.is_complex])
@pytest.mark.parametrize(("value", "what"), [("nan", "NaN"), ("inf", "infinite"), ("-inf", "infinite")])
def test_nonfinite_values_are_refused(dtype: torch.dtype, value: str, what: str) -> None:
    if dtype is torch.float8_e4m3fn and value != "nan":
        pytest.skip("this dtype has no infinity")
    tensor = torch.zeros(3, 5).to(dtype)
    tensor[1, 2] = float(value)
    with pytest.raises(CheckpointError, match=rf"^old.pt holds {what}.* in 'w': .*allow_nonfinite=True$"):
        check_finite("old.pt", "w", tensor)
    with pytest.raises(CheckpointError, match="holds"):
        DictTable({"w": tensor}).load("w")
    assert DictTable({"w": tensor}, allow_nonfinite=True).load("w") is not None


def test_extreme_but_finite_values_pass() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        tensor = torch.full((300,), torch.finfo(dtype).max, dtype=dtype)
        assert check_finite("old.pt", "w", tensor) is None
    assert check_finite("old.pt", "w", torch.empty(0)) is None


def test_header_alone_is_read(tmp_path: Path) -> None:
    """A sparse file of 4 GiB: were its values read, the process would grow by as much."""
    path = tmp_path / "huge.safetensors"
    size = 1 << 32
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    code = (
        "import sys, resource; from torchgraft.io import open_table\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "info = open_table(sys.argv[1]).infos()['w']\n"
        "print(info.nbytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    nbytes, grown = map(int, done.stdout.split())
    assert nbytes == size
    assert grown < 64 << 10  # KiB
