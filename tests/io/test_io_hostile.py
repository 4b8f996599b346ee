"""Broken and hostile files: one clear line that names the file and the fix, and nothing is run."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from torchgraft.errors import CheckpointError
from torchgraft.io import open_table


class Bomb:
    """Writes a file when it is unpickled, so that a test can see that it was not."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def read(path: Path | str, key: str | None) -> None:
    table = open_table(path)
    if key is not None:
        table.load(key)


def check_refused(path: Path | str, match: str, key: str | None = None) -> None:
    """Assert that opening (or loading ``key``) fails in one line that names the file."""
    with pytest.raises(CheckpointError, match=match) as caught:
        read(path, key)
    message = str(caught.value)
    assert "\n" not in message
    assert Path(str(path).partition("#")[0]).name in message
    assert len(message) < 500


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(begin: int, end: int, shape: str = "[1]", dtype: str = "F32") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'


LIES = {
    "garbage": (b"hello, this is not a checkpoint", "not a complete safetensors"),
    "short": (b"1234567", "not a complete safetensors"),
    "huge header": (raw(b"{}", length=2**62), "not a complete safetensors"),
    "header beyond file": (raw(b"{}", length=1000), "not a complete safetensors"),
    "no json": (raw(b"hello"), "not a complete safetensors"),
    "offsets beyond file": (raw(f'{{"a":{entry(0, 4)}}}'.encode()), "not a complete safetensors"),
    "overlap": (raw(f'{{"a":{entry(0, 4)},"b":{entry(0, 4)}}}'.encode(), bytes(4)), "not a complete safetensors"),
    "hole": (raw(f'{{"a":{entry(4, 8)}}}'.encode(), bytes(8)), "not a complete safetensors"),
    "trailing bytes": (raw(f'{{"a":{entry(0, 4)}}}'.encode(), bytes(8)), "not a complete safetensors"),
    "negative shape": (raw(f'{{"a":{entry(0, 4, "[-1]")}}}'.encode(), bytes(4)), "not a complete safetensors"),
    "shape too big": (raw(f'{{"a":{entry(0, 4, "[9]")}}}'.encode(), bytes(4)), "not a complete safetensors"),
    "overflow": (raw(f'{{"a":{entry(0, 4, f"[{2**62},{2**62}]")}}}'.encode(), bytes(4)), "not a complete safetensors"),
    "unknown dtype": (raw(f'{{"a":{entry(0, 4, dtype="Q9")}}}'.encode(), bytes(4)), "not a complete safetensors"),
    "dtype torch lacks": (raw(f'{{"a":{entry(0, 3, "[4]", "F6_E2M3")}}}'.encode(), bytes(3)), "stored as F6_E2M3"),
    "same key twice": (raw(f'{{"a":{entry(0, 4)},"a":{entry(0, 4)}}}'.encode(), bytes(4)), "'a' twice"),
    "no tensors": (raw(b"{}"), "holds no tensors"),
    "tie to nothing": (
        raw(f'{{"__metadata__":{{"torchgraft.tied":"{{\\"b\\":\\"c\\"}}"}},"a":{entry(0, 4)}}}'.encode(), bytes(4)),
        "torchgraft.tied",
    ),
    "tie no object": (
        raw(f'{{"__metadata__":{{"torchgraft.tied":"[[1]]"}},"a":{entry(0, 4)}}}'.encode(), bytes(4)),
        "torchgraft.tied",
    ),
}


@pytest.mark.parametrize("case", LIES)
def test_lying_safetensors(tmp_path: Path, case: str) -> None:
    content, match = LIES[case]
    (tmp_path / "bad.safetensors").write_bytes(content)
    check_refused(tmp_path / "bad.safetensors", match)


def test_boolean_bytes_above_one(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(raw(f'{{"a":{entry(0, 1, dtype="BOOL")}}}'.encode(), b"\x07"))
    check_refused(tmp_path / "bad.safetensors", "bytes above 1", key="a")


def test_nan_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file({"a": torch.tensor([1.0, float("nan")])}, path)
    check_refused(path, "holds NaN in 'a'.*allow_nonfinite=True", key="a")
    assert open_table(path, allow_nonfinite=True).load("a").isnan().any()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.ones(3, dtype=torch.int64)}
    save_file(tensors, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **{key: tensor.numpy() for key, tensor in tensors.items()})
    torch.save(tensors, tmp_path / "a.pt")
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    for source in ("a.safetensors", "a.npz", "a.pt", "a.pth"):
        content = (tmp_path / source).read_bytes()
        cut = tmp_path / f"cut-{source}"
        for keep in range(1, len(content), max(1, len(content) // 23)):
            cut.write_bytes(content[:keep])
            check_refused(cut, "save it again|or is damaged")


def test_random_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    """Overwrite random bytes: whatever comes, it is a table or one clear error, and never a crash."""
    random = np.random.default_rng(0)
    tensors = {"a": torch.arange(6.0), "b": torch.ones(3, dtype=torch.int64), "c": torch.tensor(True)}
    save_file(tensors, tmp_path / "a.safetensors")
    np.savez_compressed(tmp_path / "a.npz", **{key: tensor.numpy() for key, tensor in tensors.items()})
    torch.save({"model": tensors, "epoch": 1}, tmp_path / "a.pt")
    refusals = 0
    for source in ("a.safetensors", "a.npz", "a.pt"):
        content = np.frombuffer((tmp_path / source).read_bytes(), np.uint8)
        for _ in range(60):
            damaged = content.copy()
            damaged[random.integers(len(content), size=3)] = random.integers(256, size=3)
            (tmp_path / f"bad-{source}").write_bytes(damaged.tobytes())
            try:
                with open_table(tmp_path / f"bad-{source}") as table:
                    assert all(table.load(key).shape == info.shape for key, info in table.infos().items())
            except CheckpointError as error:
                message = str(error)
            else:
                continue
            assert message.startswith((f"bad-{source}", str(tmp_path)))
            assert "\n" not in message
            refusals += 1
    assert refusals > 90  # of 180


def test_file_truncated_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(100)}, path)
    table = open_table(path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(CheckpointError, match=r"a\.safetensors ended early"):
        table.load("a")


@pytest.mark.parametrize("name", ["bomb.pt", "bomb.pth", "bomb.bin", "bomb.ckpt"])
def test_pickle_bomb_does_not_go_off(tmp_path: Path, name: str) -> None:
    proof = tmp_path / "proof"
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Bomb(proof)}, tmp_path / name)
    check_refused(tmp_path / name, "system.*never executes pickles: resave")
    (tmp_path / name).write_bytes(pickle.dumps({"w": Bomb(proof)}))
    check_refused(tmp_path / name, "never executes pickles: resave")
    assert not proof.exists()


def test_npz_pickle_bomb_does_not_go_off(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    np.savez(tmp_path / "bomb.npz", w=np.array([Bomb(proof)], dtype=object))
    check_refused(tmp_path / "bomb.npz", "never executes: save arrays of numbers")
    assert not proof.exists()


def test_whole_module_and_script(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    check_refused(tmp_path / "module.pt", r"torch.nn.modules.linear.Linear.*torch.save\(model.state_dict\(\), path\)")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
    check_refused(tmp_path / "script.pt", "TorchScript program")


def test_compressed_torch_archive(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as plain,
        zipfile.ZipFile(tmp_path / "zip.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    check_refused(tmp_path / "zip.pt", "compressed archive")


CONTENTS: dict[str, tuple[object, str]] = {
    "list": ([torch.ones(1)], "holds a list, not a state dict"),
    "tensor": (torch.ones(1), "holds a Tensor, not a state dict"),
    "number among tensors": ({"w": torch.ones(1), "epoch": 3}, "'epoch' is of type int"),
    "number as key": ({"w": torch.ones(1), 3: torch.ones(1)}, "3 is of type Tensor"),
    "no tensors": ({"epoch": 3, "loss": 0.5}, "holds no state dict .*'epoch', 'loss'"),
    "unknown nest": ({"mine": {"w": torch.ones(1)}}, "holds no state dict .*'mine'.*#PLACE"),
    "empty": ({}, "holds no state dict"),
    "sparse": ({"w": torch.ones(2, 2).to_sparse()}, "'w' is sparse"),
    "flat shard": ({"a._flat_param": torch.ones(2)}, "FULL_STATE_DICT"),
    "two keys, one name": ({"a": torch.ones(1), "_orig_mod.a": torch.ones(1)}, "'a' and '_orig_mod.a'"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_wrong_contents(tmp_path: Path, case: str) -> None:
    content, match = CONTENTS[case]
    torch.save(content, tmp_path / "wrong.pt")
    check_refused(tmp_path / "wrong.pt", match)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write_npz(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_npz_with_a_lying_shape(tmp_path: Path) -> None:
    header = npy(np.ones(4, np.float32)).replace(b"(4,)", b"(9,)")
    write_npz(tmp_path / "lie.npz", [("w.npy", header)])
    check_refused(tmp_path / "lie.npz", "shape \\(9,\\)")


def test_npz_with_a_corrupt_value(tmp_path: Path) -> None:
    write_npz(tmp_path / "bad.npz", [("w.npy", npy(np.full(64, 7, np.uint8)))])
    content = (tmp_path / "bad.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(content.replace(bytes([7] * 64), bytes([7] * 63 + [8])))
    check_refused(tmp_path / "bad.npz", "not a complete array .*CRC|cannot be read .*CRC", key="w")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_that_is_no_table_of_numbers(tmp_path: Path) -> None:
    one = npy(np.ones(1))
    write_npz(tmp_path / "twice.npz", [("w.npy", one), ("w.npy", one)])
    check_refused(tmp_path / "twice.npz", "'w' twice")
    write_npz(tmp_path / "text.npz", [("w.npy", npy(np.array(["a"])))])
    check_refused(tmp_path / "text.npz", "is of type <U1")
    write_npz(tmp_path / "member.npz", [("readme.txt", b"hello")])
    check_refused(tmp_path / "member.npz", "not a complete array")
    write_npz(tmp_path / "none.npz", [])
    check_refused(tmp_path / "none.npz", "holds no tensors")


def test_npz_that_claims_to_unpack_to_a_terabyte(tmp_path: Path) -> None:
    header = npy(np.ones(4, np.float32)).replace(b"(4,), }         ", b"(274877906944,)}")
    write_npz(tmp_path / "bomb.npz", [("w.npy", header)])
    content = bytearray((tmp_path / "bomb.npz").read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 0xFFFFFFF0)  # the uncompressed size in the directory
    (tmp_path / "bomb.npz").write_bytes(content)
    check_refused(tmp_path / "bomb.npz", "claims to unpack to 4294967280 bytes")


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    check_refused(tmp_path / "gone.safetensors", "does not exist")
    (tmp_path / "empty.pt").touch()
    check_refused(tmp_path / "empty.pt", "is empty")
    (tmp_path / "folder").mkdir()
    check_refused(tmp_path / "folder", "holds no checkpoint")
    np.save(tmp_path / "one.npy", np.ones(3))
    check_refused(tmp_path / "one.npy", "numpy.savez")
    (tmp_path / "a.h5").write_bytes(b"x")
    check_refused(tmp_path / "a.h5", "Keras")
    (tmp_path / "a.txt").write_bytes(b"x")
    check_refused(tmp_path / "a.txt", "convert it to safetensors")


def test_folder_with_several_checkpoints(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"a": torch.ones(1)}, tmp_path / name)
    check_refused(tmp_path, "several checkpoints \\(a.safetensors, b.safetensors\\)")


def test_place_in_a_file_without_places(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    check_refused(f"{tmp_path / 'a.safetensors'}#teacher", "drop '#teacher'")


INDEXES = {
    "missing shard": ({"weight_map": {"a": "gone.safetensors"}}, "'gone.safetensors', which is missing"),
    "missing key": ({"weight_map": {"b": "s.safetensors"}}, "puts 'b' into 's.safetensors', which lacks it"),
    "climbs out": ({"weight_map": {"a": "../../etc/passwd"}}, "outside its own folder"),
    "climbs out inside": ({"weight_map": {"a": "x/../../s.safetensors"}}, "outside its own folder"),
    "absolute": ({"weight_map": {"a": "/etc/passwd"}}, "outside its own folder"),
    "windows": ({"weight_map": {"a": "..\\s.safetensors"}}, "outside its own folder"),
    "drive": ({"weight_map": {"a": "C:s.safetensors"}}, "outside its own folder"),
    "no map": ({"metadata": {}}, "no shard index"),
    "empty map": ({"weight_map": {}}, "no shard index"),
    "list": ([1, 2], "no shard index"),
    "not names": ({"weight_map": {"a": 3}}, "no shard index"),
    "itself": ({"weight_map": {"a": "m.safetensors.index.json"}}, "which is an index"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_index(tmp_path: Path, case: str) -> None:
    content, match = INDEXES[case]
    save_file({"a": torch.ones(1)}, tmp_path / "s.safetensors")
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(content))
    check_refused(tmp_path / "m.safetensors.index.json", match)


def test_index_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors.index.json").write_text("[" * 100_000)
    check_refused(tmp_path / "m.safetensors.index.json", "no shard index")
