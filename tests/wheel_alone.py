"""Build the wheel and try it alone: an empty environment, the core dependencies only, no checkout on the path.

Run by ``make wheel`` (part of ``make test``); not a pytest file, for it builds an environment of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TRIAL = """
import importlib.util, sys
import torch, torchgraft as tg
from torch import nn
assert "site-packages" in tg.__file__, tg.__file__
for extra in ("timm", "torchvision", "transformers", "matplotlib", "sklearn"):
    assert importlib.util.find_spec(extra) is None, f"{extra} is installed: this is no core environment"
source = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
target = nn.Sequential(nn.Conv2d(3, 16, 5), nn.BatchNorm2d(16))
report = tg.transfer(source, target)
assert report.counts() == {"copied": 1, "resized": 6}, report.counts()
assert tg.similarity(source, source) == 1.0
try:
    tg.plan("timm:resnet18", target)
except tg.SpecError as error:
    assert "torchgraft[zoo]" in str(error), error
else:
    raise AssertionError("timm is not there, yet a timm model was built")
"""


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in ``folder`` and return what it prints; its errors are shown as they are."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def main() -> None:
    """Build, look inside, install, use."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, folder=ROOT)
        wheel = next(folder.glob("*.whl"))
        inside = zipfile.ZipFile(wheel).namelist()
        for needed in ("torchgraft/py.typed", "torchgraft/cli/__init__.py", "licenses/LICENSE"):
            assert any(entry.endswith(needed) for entry in inside), f"{wheel.name} lacks {needed}"
        assert not any("tests" in entry or "benchmarks" in entry for entry in inside), inside
        venv.create(folder / "alone", with_pip=True)
        binaries = folder / "alone" / "bin"
        constraints = ["--constraint", ROOT / "constraints.txt"]
        run(binaries / "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, wheel, folder=folder)
        run(binaries / "python", "-W", "error", "-c", TRIAL, folder=folder)
        version = run(binaries / "torchgraft", "--version", folder=folder).strip()
        print(f"{wheel.name} works alone: {version}, {len(inside)} files, py.typed and licence included")


if __name__ == "__main__":
    main()
