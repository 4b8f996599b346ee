"""Peak memory of a transfer from file to file, beside the target and the largest tensor of the source."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.rows import Row

# Runs in a process of its own: VmHWM is the greatest resident size so far, mapped file pages included.
CODE = """
import json, re, sys
from pathlib import Path
import torch, torchgraft as tg
from torchgraft.io import save_safetensors
from benchmarks.memory import wide

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

torch.set_num_threads(1)
tg.transfer(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
target = wide(int(sys.argv[3]))
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
report = tg.transfer(sys.argv[1], target)
save_safetensors(sys.argv[2], target.state_dict())
print(json.dumps({"above": status("VmHWM") - before, "coverage": report.coverage}))
"""


def wide(width: int) -> torch.nn.Module:
    """Twelve square linear layers: 12 × width² × 4 bytes."""
    return torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(12)))


def rows() -> Iterator[Row]:
    """Measure a source of 12 tensors of 16 MiB into a target of the same and of a greater width."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source.safetensors"
        state = wide(2048).state_dict()
        largest = max(tensor.nbytes for tensor in state.values())
        save_file(state, source)
        for width in (2048, 2304):
            command = [sys.executable, "-c", CODE, str(source), str(folder / "out.safetensors"), str(width)]
            done = subprocess.run(command, capture_output=True, check=True, text=True)
            above = json.loads(done.stdout.splitlines()[-1])["above"]
            yield Row(
                f"memory, file to file, {12 * width * width * 4 >> 20} MiB target",
                f"target + {above / largest:.2f} × the largest source tensor",
                "≤ target + 1.2 ×",
                f"largest source tensor: {largest >> 20} MiB",
            )
