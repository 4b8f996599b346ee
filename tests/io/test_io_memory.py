"""Peak memory of a transfer from file to file, file-backed pages included."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from torchgraft.io import save_safetensors

MIB = 1 << 20
SIZES = [4, 24, 8, 16, 2, 24, 6, 12]  # MiB
# Reads every tensor into a target of the same size, writes the target, and prints how far the peak rose above the
# start, per byte: above the target, in units of the largest source tensor.
CODE = """
import sys, torch
from torchgraft.io import open_table, save_safetensors

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024

path, out = sys.argv[1:]
warm = torch.ones(2).sum() + torch.aminmax(torch.ones(100))[0]
with open_table(path) as table:
    infos = table.infos()
    open("/proc/self/clear_refs", "w").write("5")  # resets the peak
    start = status("VmRSS")
    target = {key: torch.ones(info.shape, dtype=info.dtype) for key, info in infos.items()}
    for key in target:
        target[key].copy_(table.load(key))
    save_safetensors(out, target)
    total = sum(info.nbytes for info in infos.values())
    largest = max(info.nbytes for info in infos.values())
    print((status("VmHWM") - start - total) / largest)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_peak_is_target_and_one_source_tensor(tmp_path: Path, suffix: str) -> None:
    tensors = {f"w{i}": torch.full((size * MIB // 4,), float(i)) for i, size in enumerate(SIZES)}
    path = tmp_path / f"old{suffix}"
    if suffix == ".safetensors":
        save_safetensors(path, tensors)
    elif suffix == ".npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in tensors.items()})
    else:
        torch.save(tensors, path)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path), str(tmp_path / "warm.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) <= 1.2
