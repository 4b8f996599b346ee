"""A checkpoint in several files, put together by its ``.index.json``."""

from __future__ import annotations

__all__ = ["ShardedTable"]

import json
import posixpath
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import final

import torch

from torchgraft.errors import CheckpointError
from torchgraft.io.tables import TensorInfo, TensorTable


@final
class ShardedTable(TensorTable):
    """The tensors that an index file spreads over shards beside it.

    Args:
        path: the ``.index.json``.
        open_shard: opens one shard file as a table.

    Raises:
        CheckpointError: the index is malformed, leads out of its folder, or does not agree with the shards.
    """

    def __init__(self, path: Path, open_shard: Callable[[Path], TensorTable], *, allow_nonfinite: bool = False) -> None:
        super().__init__(path.name, ordered=False, allow_nonfinite=allow_nonfinite)
        self._shard_of = _weight_map(path)
        self._shards: dict[str, TensorTable] = {}
        for shard in dict.fromkeys(self._shard_of.values()):
            if not (path.parent / shard).is_file():
                raise CheckpointError(
                    f"{path.name} names shard {shard!r}, which is missing: download it beside the index"
                )
            self._shards[shard] = open_shard(path.parent / shard)
        self._index()

    def raw_infos(self) -> dict[str, TensorInfo]:
        """Return shape and dtype of the keys in the index; what only a shard knows counts as skipped."""
        found = {shard: table.raw_infos() for shard, table in self._shards.items()}
        for key, shard in self._shard_of.items():
            if key not in found[shard]:
                raise CheckpointError(
                    f"{self.name} puts {key!r} into {shard!r}, which lacks it: index and shards differ"
                )
        self.skipped = tuple(key for shard, infos in found.items() for key in infos if self._shard_of.get(key) is None)
        return {key: found[shard][key] for key, shard in self._shard_of.items()}

    def raw_load(self, key: str) -> torch.Tensor:
        """Read one tensor from its shard."""
        return self._shards[self._shard_of[key]].raw_load(key)

    def metadata(self) -> Mapping[str, str]:
        """Return the text attached to the first shard."""
        return next(iter(self._shards.values())).metadata()

    def close(self) -> None:
        """Close every shard."""
        for shard in self._shards.values():
            shard.close()


def _weight_map(path: Path) -> dict[str, str]:
    try:
        weights = json.loads(path.read_bytes())["weight_map"]
        sound = all(isinstance(key, str) and isinstance(shard, str) for key, shard in weights.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound or not weights:
        raise CheckpointError(f"{path.name} is no shard index (no 'weight_map' of names to files): download it again")
    for shard in dict.fromkeys(weights.values()):
        if shard.endswith(".json"):
            raise CheckpointError(f"{path.name} names {shard!r} as a shard, which is an index: download it again")
        # Judged by the text alone: in a hub cache the shards are links that do lead out of the folder.
        plain = PurePosixPath(shard)
        if plain.is_absolute() or PureWindowsPath(shard).drive or ".." in plain.parts or "\\" in shard:
            raise CheckpointError(f"{path.name} names {shard!r}, outside its own folder: do not trust this checkpoint")
    return {key: posixpath.normpath(shard) for key, shard in weights.items()}
