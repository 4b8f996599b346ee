"""The store: a folder of finished runs that several processes may add to and that no crash can spoil.

rows.jsonl                one JSON object per finished run, only ever appended to
weights/KEY.safetensors   what a source run has trained
experiments/NAME.json     which grids were asked for
failed/KEY.txt            the traceback of a run that failed, until it succeeds
claims/KEY.lock           held, by the lock of the operating system, while some driver has the run in hand
"""

from __future__ import annotations

__all__ = ["Claim", "Store"]

import dataclasses
import io
import json
import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout

from torchgraft.errors import CheckpointError, LabError
from torchgraft.io import atomic_write
from torchgraft.lab.records import Experiment, Row
from torchgraft.lab.rows import row_from_dict, row_to_dict

_log = logging.getLogger(__name__)
_PATIENCE = 60.0  # seconds to wait for the rows' lock; an append holds it for milliseconds
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OURS = b'{"key": '  # how every row begins, and so how a row that was cut off begins


@final
class Claim:
    """One driver's right to do one run; it ends with :meth:`release`, or with the driver itself."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def release(self) -> None:
        """Let others have the run."""
        self._lock.release()


@final
class Store:
    """A folder of rows, weights and claims.

    Only drivers write here, never workers. A row is appended under a lock in one write that is flushed to the disk, so
    that drivers on several machines may share the folder, and a row that a killed driver left half-written is skipped
    with a note. Where a run was done twice, the first row counts.

    Args:
        folder: where the store is.
        create: make the folder where it is missing; a report only reads, and passes ``False``.

    Raises:
        LabError: the folder is missing, is a file or cannot be written, or a line of ``rows.jsonl`` is none of ours.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store(folder)
    ...     store.save_weights("a1", b"...")
    ...     "a1" in store, store.weights("a1"), store.rows()
    (False, b'...', ())
    """

    def __init__(self, folder: str | os.PathLike[str], *, create: bool = True) -> None:
        self.folder = Path(folder)
        self.notes: tuple[str, ...] = ()
        self._rows: dict[str, Row] = {}
        self._read = 0  # bytes of rows.jsonl that are done with
        self._line = 0
        if create:
            for name in ("weights", "experiments", "failed", "claims"):
                self._make(self.folder / name)
        elif not self.folder.is_dir():
            raise LabError(f"{self.folder} is no folder: give the one that `torchgraft lab run` has filled")
        self._refresh()

    @property
    def path(self) -> Path:
        """The file of rows."""
        return self.folder / "rows.jsonl"

    def __contains__(self, key: object) -> bool:
        """Tell whether the run is finished, by this driver or another."""
        if key not in self._rows:
            self._refresh()
        return key in self._rows

    def rows(self) -> tuple[Row, ...]:
        """Return the finished runs, each once, in the order in which they were finished."""
        self._refresh()
        return tuple(self._rows.values())

    def append(self, row: Row) -> None:
        """Add a finished run, unless it is there.

        Raises:
            LabError: the file cannot be written; it is then as it was before.
        """
        _check(row.key)
        line = json.dumps({"key": row.key, **row_to_dict(row)}, allow_nan=False).encode() + b"\n"
        try:
            with FileLock(self.folder / "rows.lock", timeout=_PATIENCE, thread_local=False):
                if row.key not in self:
                    _append(self.path, line)
        except Timeout:
            raise LabError(
                f"{self.folder / 'rows.lock'} has been held for {_PATIENCE:.0f} s by another process"
            ) from None
        except OSError as error:
            raise LabError(f"{self.path} cannot be written: {error.strerror or error}") from None
        self._refresh()

    def weights_path(self, key: str) -> Path:
        """Return where the weights of a source run are, or would be."""
        return self.folder / "weights" / f"{_check(key)}.safetensors"

    def weights(self, key: str) -> bytes:
        """Return the weights of a source run, as the bytes of a safetensors file.

        Raises:
            LabError: there are none.
        """
        path = self.weights_path(key)
        try:
            return path.read_bytes()
        except OSError as error:
            raise LabError(f"{path} cannot be read ({error.strerror}): run the experiment again to train it") from None

    def save_weights(self, key: str, content: bytes) -> None:
        """Keep the weights of a source run; either all of the new file or the old one is there.

        Raises:
            LabError: the file cannot be written.
        """
        self._write(self.weights_path(key), content)

    def save_experiment(self, experiment: Experiment) -> Path:
        """Keep the record of a grid that was asked for, as JSON, and return its path."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", experiment.name).strip(".-") or "experiment"
        path = self.folder / "experiments" / f"{name}.json"
        self._write(path, json.dumps(dataclasses.asdict(experiment), indent=2) + "\n")
        return path

    def experiments(self) -> tuple[Path, ...]:
        """Return the records of the grids that were asked for, by name."""
        return tuple(sorted((self.folder / "experiments").glob("*.json")))

    def save_failure(self, key: str, text: str) -> Path:
        """Keep the traceback of a run that failed, and return its path."""
        path = self.folder / "failed" / f"{_check(key)}.txt"
        self._write(path, text)
        return path

    def forget_failure(self, key: str) -> None:
        """Remove the traceback of a run that has succeeded since."""
        (self.folder / "failed" / f"{_check(key)}.txt").unlink(missing_ok=True)

    def claim(self, key: str) -> Claim | None:
        """Take a run in hand, or return ``None`` where another driver has it.

        The lock belongs to this process and ends with it, however it ends. Look again whether the run is finished
        *after* getting its claim: it may have been finished in between.
        """
        lock = FileLock(self.folder / "claims" / f"{_check(key)}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except OSError as error:
            raise LabError(f"{lock.lock_file} cannot be locked: {error.strerror or error}") from None
        return Claim(lock)

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            taken = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), folder)
            raise LabError(f"{taken} is a file, where the lab needs a folder: choose another") from None
        except OSError as error:
            raise LabError(f"{folder} cannot be made: {error.strerror}") from None

    def _write(self, path: Path, content: str | bytes) -> None:
        try:
            atomic_write(path, content)
        except CheckpointError as error:
            raise LabError(str(error)) from None

    def _refresh(self) -> None:
        """Read what has been appended since the last time, by whomever."""
        try:
            size = self.path.stat().st_size if self.path.exists() else 0
            if size < self._read:
                raise LabError(f"{self.path} has become shorter while it was in use: start again")
            if size == self._read:
                return
            with self.path.open("rb") as file:
                file.seek(self._read)
                fresh = file.read()
        except OSError as error:
            raise LabError(f"{self.path} cannot be read: {error.strerror}") from None
        for line in io.BytesIO(fresh):  # by line feeds alone
            complete = line.endswith(b"\n")
            if self._take(line.strip(), self._line + 1, complete):
                self._line += complete
                self._read += len(line)

    def _take(self, line: bytes, number: int, complete: bool) -> bool:
        """Take one line in, and tell whether it is done with; one without an end may still be being written."""
        text = line.strip(b"\0")  # what a power cut leaves of a block that never reached the disk
        if not text:
            if line:
                self._note(f"{self.path} line {number} was lost and is skipped: its run will be repeated")
            return complete
        try:
            fields = json.loads(text)
        except ValueError:
            if not (text.startswith(_OURS) or _OURS.startswith(text)):
                raise self._foreign(number, line) from None
            still = "" if complete else " (or is still being written)"
            self._note(f"{self.path} line {number} was cut off{still} and is skipped: its run will be repeated")
            return complete
        if not isinstance(fields, dict):
            raise self._foreign(number, line)
        try:
            row = row_from_dict(fields)
            _check(row.key)
        except LabError as error:
            raise LabError(f"{self.path} line {number}: {error}") from None
        self._rows.setdefault(row.key, row)
        return True

    def _foreign(self, number: int, line: bytes) -> LabError:
        shown = line[:40].decode(errors="replace")
        return LabError(
            f"{self.path} line {number} is no row of the lab ({shown}): remove it, or choose another folder"
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            _log.warning(text)
            self.notes += (text,)


def _append(path: Path, line: bytes) -> None:
    """Write a line at the end of a file and see it to the disk; a failure leaves the file as it was."""
    with path.open("ab", buffering=0) as file, path.open("rb") as seen:
        size = seen.seek(0, os.SEEK_END)
        torn = False
        if size:
            seen.seek(size - 1)
            torn = seen.read(1) != b"\n"
        content = b"\n" + line if torn else line
        try:
            if file.write(content) != len(content):
                raise OSError("the disk is full")
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):  # the first error is the one to tell
                file.truncate(size)
            raise


def _check(key: Any) -> str:
    """Return a key that can be part of a file's name."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise LabError(f"{str(key)[:60]!r} is no key of a run: keys are letters, digits, '.', '_' and '-'")
    return key
