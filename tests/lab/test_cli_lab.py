"""The command ``torchgraft lab``, with tiny networks of a user's own on a few digits."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.datasets import load_digits

from torchgraft.cli import app
from torchgraft.lab.experiments import EXPERIMENTS, own_pair
from torchgraft.lab.initializations import INITIALIZATIONS
from torchgraft.lab.records import Data, Recipe
from torchgraft.lab.store import Store

MODELS = """
from torch import nn

print("models imported")


def small(num_classes=10, width=4):
    convolution = nn.Conv2d(3, width, 3, 2, 1, bias=False)
    parts = [convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(4 * width, num_classes))


def large(num_classes=10):
    return small(num_classes, 6)


def fixed():
    return small(7)


def broken(num_classes=10):
    raise RuntimeError("out of luck")
"""
GRID = """
title = "Tiny networks"
initializations = ["random", "graft"]
seeds = [0, 1]
thresholds = [20]
source_recipe = { epochs = 2, batch = 32, augment = "none" }
recipe = { epochs = 1, batch = 32, augment = "none" }
data = { name = "digits", size = 8, train = 60, test = 40 }
[networks]
small = "python:MODELS:small"
large = "python:MODELS:large"
"""
FORMATS = {
    "txt": ["report.txt"],
    "md": ["report.md"],
    "tex": ["report.tex"],
    "json": ["summary.json"],
    "csv": ["runs.csv", "speed.csv"],
}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Work in a folder with a module of networks and a grid of them; return the prefix of their specs."""
    monkeypatch.chdir(tmp_path)
    name = f"lab_models_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    (tmp_path / "grid.toml").write_text(GRID.replace("MODELS", name))
    yield f"python:{name}"
    sys.modules.pop(name, None)


def lab(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["lab", *arguments])


def done(*arguments: str) -> Result:
    """Run a command that must succeed."""
    result = lab(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def rows(store: str) -> list[str]:
    return Path(store, "rows.jsonl").read_text().splitlines()


def pair(models: str, *more: str, source: str = "small", target: str = "large") -> list[str]:
    specs = ["--source", f"{models}:{source}", "--target", f"{models}:{target}"]
    short = ["--size", "8", "--epochs", "1", "--source-epochs", "1", "--seeds", "1", "--engine", "inline"]
    return ["run", *specs, *short, *more]


def check_refused(*arguments: str, told: str) -> None:
    """Assert that a command is refused in one line, and writes nothing."""
    before = sorted(Path.cwd().rglob("*"))
    result = lab(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line != "models imported"]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("torchgraft: error: ")
    assert told in lines[0]
    assert [path for path in sorted(Path.cwd().rglob("*")) if "__pycache__" not in path.parts] == before


def test_list_names_everything_that_can_be_asked_for() -> None:
    text = done("list").stdout
    first = [line.split(" ")[0].split("[")[0].split(":")[0] for line in text.splitlines()]
    assert set(first) >= {*EXPERIMENTS, *INITIALIZATIONS, "experiment", "initialization"}
    assert "digits-pairs" in done("run", "--help").stdout


def test_a_grid_is_run_once_and_reported(models: str) -> None:
    first = done("run", "grid.toml", "--engine", "inline")
    assert len(rows("lab-runs/grid")) == 2 + 2 * 2 + 2 * 2
    assert first.stdout.startswith("Tiny networks ")
    assert "10/10: " in first.stderr
    assert "models imported" in first.stderr, "what a network prints is no result"
    report = Path("lab-runs/grid/report")
    assert {path.name for path in report.iterdir()} >= {"report.html", "report.txt", "curves.png", "summary.json"}
    assert json.loads((report / "summary.json").read_text())["runs"] == 8

    again = done("run", "grid.toml", "--engine", "inline")
    assert len(rows("lab-runs/grid")) == 10
    assert again.stderr == "", "nothing was built, opened or run"
    assert again.stdout == first.stdout
    assert done("report", "grid").stdout == first.stdout, "by the name of the experiment"
    assert done("report", "lab-runs/grid", "--quiet").stdout == ""
    more = done("report", "grid", "--full").stdout
    assert len(more) > len(first.stdout)


def test_sentences_keep_a_width_that_can_be_read_in_a_pipe(models: str) -> None:
    done("run", "grid.toml", "--engine", "inline", "--quiet", "--seeds", "1")
    lines = done("report", "grid", "--format", "txt").stdout.splitlines()
    assert lines[0].startswith("Tiny networks ─")
    assert max(map(len, lines)) <= 135, "no more than the widest table"
    assert all(line == line.rstrip() for line in lines)


def test_a_budget_leaves_the_rest_to_the_next_time(models: str) -> None:
    begun = done("run", "grid.toml", "--engine", "inline", "--budget", "0.000001")
    assert "torchgraft: warning: 10 of 10 runs are left: the same command goes on with them" in begun.stderr
    assert "0 of 8 runs are there" in begun.stdout
    assert done("run", "grid.toml", "--engine", "inline", "--quiet").output == ""
    assert len(rows("lab-runs/grid")) == 10


def test_a_format_is_written_alone(models: str) -> None:
    done("run", "grid.toml", "--engine", "inline", "--quiet")
    for kind, files in FORMATS.items():
        written = done("report", "grid", "--format", kind, "--output", kind).stdout.splitlines()[-1]
        assert sorted(path.name for path in Path(kind).iterdir()) == files
        assert f"{kind}/{files[0]}" in written


def test_a_pair_of_ones_own_on_images_of_ones_own(models: str, tmp_path: Path) -> None:
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:100], digits.target[:100], strict=True)):
        folder = tmp_path / "images" / ("test" if number % 4 == 0 else "train") / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).save(folder / f"{number}.png")
    command = pair(models, "--data", "folder:images")
    assert done(*command).stdout.startswith(f"{models}:small → {models}:large")
    (store,) = Path("lab-runs").iterdir()
    assert len(rows(str(store))) == 1 + 4
    (tmp_path / "images" / "train").rename(tmp_path / "undivided")
    told = done(*pair(models, "--data", "folder:undivided", "--store", "other")).stderr
    assert "warning: undivided is not divided into training and test images" in told


def test_a_pair_starts_from_a_checkpoint(models: str) -> None:
    done("run", "grid.toml", "--engine", "inline", "--quiet", "--seeds", "1")
    weights = next(path for path in Path("lab-runs/grid/weights").iterdir() if path.stat().st_size < 2000)
    text = done(*pair(models, "--data", "digits", "--train", "60", "--weights", str(weights), "-i", "graft")).stdout
    assert text.startswith(f"{weights} → ")
    (store,) = (path for path in Path("lab-runs").iterdir() if path.name != "grid")
    (row,) = Store(store).rows()
    assert row.start.coverage > 0.5, "no source was trained, and the target was started from the checkpoint"


def told_command(store: str) -> list[str]:
    summary = json.loads(Path(store, "report", "summary.json").read_text())
    return shlex.split(summary["command"])[2:]


def test_the_command_below_the_tables_asks_for_the_same_again(models: str) -> None:
    grid = ["run", "grid.toml", "--engine", "inline", "--quiet", "--seeds", "1"]
    own = pair(models, "--data", "digits", "--train", "60", "--test", "40", "-i", "random", "--quiet", "--store", "own")
    for store, command in (("lab-runs/grid", grid), ("own", own)):
        done(*command)
        (before,) = Store(store).experiments()
        record = before.read_text()
        again = done(*told_command(store), "--store", store, "--engine", "inline")
        assert again.stderr == "", "every run is there"
        assert before.read_text() == record
    assert told_command("own")[:3] == ["run", "--source", f"{models}:small"]
    assert told_command("lab-runs/grid") == ["run", "lab-runs/grid/experiments/grid.json"]


def test_a_built_in_experiment_is_told_with_the_options_that_changed_it() -> None:
    from torchgraft.cli.lab import _changed, _command

    base = EXPERIMENTS["digits-pairs"]()
    assert _command(base, Path("s")) == "torchgraft lab run digits-pairs"
    options = {"data": "npz:a b.npz", "size": 16, "train": None, "test": None, "epochs": 2, "source_epochs": 3}
    options = {**options, "thresholds": (60.0, 70.0)}
    changed = _changed(base, {**options, "seeds": 2, "initializations": ("random", "graft:dp")})
    assert changed.source_data is not None and changed.source_data.name == "npz:a b.npz"
    assert changed.source_recipe.horizon == 3
    assert _command(changed, Path("s")) == (
        "torchgraft lab run digits-pairs --data 'npz:a b.npz' --size 16 --epochs 2 --source-epochs 3 --seeds 2 "
        "--initialization random --initialization graft:dp --threshold 60.0 --threshold 70.0"
    )
    other = replace(base, recipe=replace(base.recipe, rate=1.0), seeds=(5,))
    assert _command(other, Path("s")) == "torchgraft lab run s/experiments/digits-pairs.json", "no option says that"
    same = own_pair("timm:a", "timm:a", Data("digits"), "w.pt", recipe=Recipe(epochs=2))
    assert _command(same, Path("s")) == (
        "torchgraft lab run --source timm:a --weights w.pt --target timm:a --data digits --epochs 2"
    )


def test_two_experiments_may_share_a_store(models: str) -> None:
    text = Path("grid.toml").read_text()
    Path("wide.toml").write_text(text.replace('large = "', 'wide = "').replace(":large", ":small,width=5"))
    done("run", "grid.toml", "--engine", "inline", "--quiet", "--seeds", "1")
    done("run", "wide.toml", "--engine", "inline", "--quiet", "--seeds", "1", "--store", "lab-runs/grid")
    assert len(rows("lab-runs/grid")) == 6 + 4, "the small source and its random run serve both"
    check_refused("report", "grid", told="lab-runs/grid has several experiments: give --experiment grid or wide")
    check_refused("report", "grid", "--experiment", "x", told="no experiment 'x': give --experiment grid or wide")
    assert "grid/report-wide" in done("report", "grid", "--experiment", "wide").stdout
    assert {"report", "report-wide"} <= {path.name for path in Path("lab-runs/grid").iterdir()}


REFUSED: list[tuple[list[str], str]] = [
    (["run"], "give --source, --target and --data for your own pair"),
    (["run", "--source", "timm:resnet18", "--data", "digits"], "give --source, --target and --data"),
    (["run", "digit-pairs"], "did you mean 'digits-pairs'?"),
    (["run", "gone.toml"], "gone.toml cannot be read"),
    (["run", "digits-pairs", "--source", "timm:resnet18"], "--source is for a pair of your own"),
    (["run", "digits-pairs", "--seeds", "0"], "Invalid value for '--seeds'"),
    (["run", "digits-pairs", "--budget", "0"], "Invalid value for '--budget'"),
    (["run", "digits-pairs", "-i", "grft"], "unknown initialization 'grft': did you mean 'graft'?"),
    (["run", "digits-pairs", "--engine", "mpi"], "Invalid value for '--engine'"),
    (["run", "digits-pairs", "--engine", "inline", "--workers", "2"], "--workers is for --engine cores or ray"),
    (["run", "digits-pairs", "--address", "auto"], "--address is for --engine ray"),
    (["run", "digits-pairs", "--per-gpu", "2"], "--per-gpu is for --device cuda"),
    (["run", "digits-pairs", "--data", "letters"], "unknown data set 'letters'"),
    (["run", "digits-pairs", "--data", "npz:gone.npz"], "npz:gone.npz: there is no such file"),
    (["run", "digits-pairs", "--train", "5"], "5 training images of digits leave classes out"),
    (["run", "grid.toml", "--data", "folder:gone"], "folder:gone: there is no such folder"),
    (["report"], "Missing argument 'STORE'"),
    (["report", "gone"], "gone is no folder: give the one that `torchgraft lab run` has filled"),
    (["report", "."], "no record of an experiment"),
    (["report", ".", "--format", "doc"], "Invalid value for '--format'"),
]


@pytest.mark.parametrize(("arguments", "told"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_cannot_be_done_is_refused_before_the_work(models: str, arguments: list[str], told: str) -> None:
    check_refused(*arguments, told=told)


@pytest.mark.parametrize(
    ("target", "more", "told"),
    [
        ("broken", [], "broken,num_classes=10 cannot be built: RuntimeError: out of luck"),
        ("fixed", [], "with (2, 7), not (2, 10): let the factory take num_classes"),
        ("gone", [], "gone"),
        ("large", ["--weights", "gone.pth"], "gone.pth does not exist"),
        ("large", ["-i", "random", "-i", "pretrained:gone.pth"], "gone.pth does not exist"),
        ("large", ["-i", "random", "-i", "predicted:gone.npz"], "gone.npz does not exist"),
        ("large", ["--store", "grid.toml"], "grid.toml is a file, where the lab needs a folder"),
        ("large", ["--device", "cuda"], "there is no GPU here that torch can use"),
    ],
)
def test_a_pair_that_cannot_run_is_refused_before_the_work(
    models: str, target: str, more: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    check_refused(*pair(models, "--data", "digits", *more, target=target), told=told)


def test_an_unknown_augmentation_is_refused_before_the_work(models: str) -> None:
    Path("odd.toml").write_text(Path("grid.toml").read_text().replace('"none"', '"nnoe"'))
    check_refused("run", "odd.toml", told="unknown augmentation 'nnoe': did you mean 'none'?")


def test_a_run_that_fails_on_its_way_is_told_in_one_line(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no more memory")

    monkeypatch.setattr("torchgraft.lab.work.train", fail)
    result = lab("run", "grid.toml", "--engine", "inline", "--quiet")
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line != "models imported"]
    assert line.startswith("torchgraft: error: 6 of 10 runs failed, and 4 wait for a source that failed; ")
    assert line.endswith("more: RuntimeError: no more memory")


@pytest.mark.parametrize(("line", "told"), [("garbage\n", "line 7 is no row of the lab"), ('{"key": 3}\n', "line 7: ")])
def test_a_store_that_others_have_written_to_is_refused(models: str, line: str, told: str) -> None:
    done("run", "grid.toml", "--engine", "inline", "--quiet", "--seeds", "1")
    with Path("lab-runs/grid/rows.jsonl").open("a") as file:
        file.write(line)
    check_refused("report", "grid", told=told)
    check_refused("run", "grid.toml", "--engine", "inline", told=told)


def test_a_row_that_was_cut_off_is_told_once(models: str) -> None:
    done("run", "grid.toml", "--engine", "inline", "--quiet", "--seeds", "1")
    path = Path("lab-runs/grid/rows.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    told = done("report", "grid").stderr.splitlines()
    assert len(told) == 1
    assert told[0].startswith("torchgraft: warning: lab-runs/grid/rows.jsonl line 6 was cut off")
    again = done("run", "grid.toml", "--engine", "inline", "--quiet", "--seeds", "1").stderr.splitlines()
    assert all("line 6 was cut off" in line for line in again)
    assert len(set(again)) == len(again)
    assert len(Store("lab-runs/grid").rows()) == 6


@pytest.mark.parametrize(
    ("number", "code", "engine"), [(signal.SIGINT, 130, "cores --workers 1"), (signal.SIGTERM, 143, "inline")]
)
def test_an_interrupted_grid_goes_on(models: str, number: signal.Signals, code: int, engine: str) -> None:
    command = [sys.executable, "-m", "torchgraft", "lab", "run", "grid.toml", "--engine", *engine.split()]
    # Long enough to be interrupted, whatever the machine.
    process = subprocess.Popen(
        [*command, "--epochs", "400"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell starts background jobs with SIGINT ignored, and whoever runs these tests may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    path, until = Path("lab-runs/grid/rows.jsonl"), time.monotonic() + 300
    while time.monotonic() < until and not (path.exists() and path.read_text().count("\n") >= 2):
        time.sleep(0.05)
    process.send_signal(number)
    printed, told = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in told
    assert printed == "", "nor from the worker, which has imported the networks"
    assert len(Store("lab-runs/grid").rows()) == 2, "the sources, and nothing half-done"
    done("run", "grid.toml", "--engine", "inline", "--quiet")
    assert len(rows("lab-runs/grid")) == 10


def test_a_reader_that_leaves_ends_the_report_quietly(models: str) -> None:
    done("run", "grid.toml", "--engine", "inline", "--quiet", "--seeds", "1")
    script = f"{shlex.quote(sys.executable)} -m torchgraft lab report grid --format txt --full | head -n 1"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.startswith("Tiny networks")
    assert result.stderr == ""
