"""The store: rows that no crash spoils, weights that are whole or absent, claims that end with their holder."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.fakes import fake_row
from torchgraft.errors import LabError
from torchgraft.lab import store as store_module
from torchgraft.lab.records import Data, Epoch, Experiment, Source
from torchgraft.lab.store import Store


def test_what_is_written_is_read_back_by_another_store(tmp_path: Path) -> None:
    row = replace(fake_row("k1"), curve=(Epoch(0, 0, 10.0, math.inf), Epoch(1, 3, 20.0, 1.5, 2.0, 1e-3, 0.5, 9.0)))
    store = Store(tmp_path / "new" / "folder")
    store.append(row)
    store.save_weights("k1", b"weights")
    other = Store(tmp_path / "new" / "folder", create=False)
    assert other.rows() == (row,)
    assert other.weights("k1") == b"weights"
    assert "k1" in other and "k2" not in other and other.notes == ()


def test_a_store_sees_what_another_appends_afterwards(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    one.append(fake_row("k1"))
    assert "k1" in two
    two.append(fake_row("k2"))
    one.append(fake_row("k3"))
    assert [row.key for row in one.rows()] == [row.key for row in two.rows()] == ["k1", "k2", "k3"]


def test_the_first_row_of_a_key_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(fake_row("k1", 10.0))
    store.append(fake_row("k1", 20.0))
    store.path.write_bytes(store.path.read_bytes() + store.path.read_bytes().replace(b"10.0", b"30.0"))
    assert [row.accuracy for row in Store(tmp_path).rows()] == [10.0]
    assert store.path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("cut", [1, 5, 30, -20, -2])
def test_a_line_cut_off_is_skipped_and_the_next_append_starts_on_a_new_line(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.append(fake_row("k1"))
    whole = store.path.read_bytes()
    store.path.write_bytes(whole + whole.replace(b"k1", b"k2")[:cut])
    hurt = Store(tmp_path)
    assert [row.key for row in hurt.rows()] == ["k1"]
    assert hurt.notes == (
        f"{hurt.path} line 2 was cut off (or is still being written) and is skipped: its run will be repeated",
    )
    hurt.append(fake_row("k2", 70.0))
    hurt.append(fake_row("k3"))
    with caplog.at_level(logging.WARNING):
        again = Store(tmp_path)
    assert [(row.key, row.accuracy) for row in again.rows()] == [("k1", 50.0), ("k2", 70.0), ("k3", 50.0)]
    assert again.rows() == hurt.rows()
    assert again.notes == (f"{again.path} line 2 was cut off and is skipped: its run will be repeated",)
    assert again.notes[0] in caplog.text


def test_a_line_still_being_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    writer, reader = Store(tmp_path / "a"), Store(tmp_path / "b")
    writer.append(fake_row("k1"))
    whole = writer.path.read_bytes()
    reader.path.write_bytes(whole[:40])
    assert reader.rows() == ()
    reader.path.write_bytes(whole[:-1])  # whole but for its end, as an editor may leave it
    assert reader.rows() == writer.rows()
    reader.append(fake_row("k2"))
    assert [row.key for row in Store(tmp_path / "b").rows()] == [row.key for row in reader.rows()] == ["k1", "k2"]


def test_a_block_lost_in_a_power_cut_is_skipped(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(fake_row("k1"))
    with store.path.open("ab") as file:
        file.write(b"\0" * 100 + b"\n")
    store.append(fake_row("k2"))
    again = Store(tmp_path)
    assert [row.key for row in again.rows()] == ["k1", "k2"]
    assert "line 2 was lost" in again.notes[0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"hello world", "line 2 is no row of the lab (hello world)"),
        (b"[1, 2]", "line 2 is no row of the lab ([1, 2])"),
        (b'{"name": "other"}', "line 2: this is no row of the lab"),
        (b"\xff\xfe\x00", "line 2 is no row of the lab"),
    ],
)
def test_a_foreign_line_is_an_error_with_its_place(tmp_path: Path, line: bytes, says: str) -> None:
    store = Store(tmp_path)
    store.append(fake_row("k1"))
    with store.path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(LabError) as error:
        Store(tmp_path)
    assert f"{store.path} {says}" in str(error.value)


def test_a_failed_append_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.append(fake_row("k1"))
    before = store.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(LabError, match=r"rows\.jsonl cannot be written: No space left on device"):
        store.append(fake_row("k2"))
    assert store.path.read_bytes() == before
    monkeypatch.undo()
    store.append(fake_row("k2"))
    assert [row.key for row in store.rows()] == ["k1", "k2"]


def test_rows_are_strict_json(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(replace(fake_row("k1"), curve=(Epoch(0, 0, 1.0, math.nan),)))
    (line,) = store.path.read_text().splitlines()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(line, parse_constant=refuse)["key"] == "k1"


def test_odd_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="file is a file, where the lab needs a folder"):
        Store(tmp_path / "file")
    with pytest.raises(LabError, match="file is a file, where the lab needs a folder"):
        Store(tmp_path / "file" / "below")
    with pytest.raises(LabError, match="missing is no folder: give the one that"):
        Store(tmp_path / "missing", create=False)
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(LabError, match=r"rows.jsonl cannot be read: Is a directory"):
        Store(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LabError, match="cannot be made: Permission denied"):
        Store(tmp_path / "inner")
    tmp_path.chmod(0o700)


def test_missing_weights_and_odd_keys_are_errors(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(LabError, match=r"k9\.safetensors cannot be read"):
        store.weights("k9")
    for key in ("../escape", "", "a/b", "x" * 200):
        with pytest.raises(LabError, match="is no key of a run"):
            store.weights_path(key)


def test_a_reader_makes_no_folders(tmp_path: Path) -> None:
    assert Store(tmp_path, create=False).rows() == ()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_excludes_others_until_it_is_released(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    claim = one.claim("k1")
    assert claim is not None
    assert two.claim("k1") is None and one.claim("k1") is None
    other = two.claim("k2")
    assert other is not None
    claim.release()
    taken = two.claim("k1")
    assert taken is not None
    taken.release()
    other.release()


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, os; from torchgraft.lab.store import Store; "
        "kept = Store(sys.argv[1]).claim('k1'); print('claimed', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "claimed\n"
        store = Store(tmp_path)
        assert store.claim("k1") is None
        process.kill()
        process.wait()
        claim = store.claim("k1")
        assert claim is not None
        claim.release()


def test_experiments_are_kept_by_name_and_may_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    experiment = Experiment("digits pairs/2", "A title", {"a": "x"}, (Source("a", "a"),), ("a",), ("random",))
    path = store.save_experiment(experiment)
    assert path.name == "digits-pairs-2.json"
    store.save_experiment(replace(experiment, data=Data(size=8)))
    assert store.experiments() == (path,)
    assert json.loads(path.read_text())["data"]["size"] == 8


def test_failures_are_kept_until_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.save_failure("k1", "why")
    assert path.read_text() == "why"
    store.forget_failure("k1")
    store.forget_failure("k1")
    assert not path.exists()
