"""The command line does what the library does, and says so in a form that people and programs can read."""

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import torchgraft as tg
from torchgraft.cli import app
from torchgraft.cli.commands import COMMANDS
from torchgraft.cli.terminal import plain
from torchgraft.match import MATCHERS
from torchgraft.similarity import MEASURES
from torchgraft.transfer.methods import METHODS
from torchgraft.transfer.narrowing import RULE_NAMES
from torchgraft.transfer.operators import OPERATORS

SMALL = "python:torch.nn:TransformerEncoderLayer,d_model=8,nhead=2,dim_feedforward=12"
LARGE = "python:torch.nn:TransformerEncoderLayer,d_model=12,nhead=2,dim_feedforward=20"
LINEAR = "python:torch.nn:Linear,in_features=4,out_features=3"


def small() -> nn.Module:
    return nn.TransformerEncoderLayer(d_model=8, nhead=2, dim_feedforward=12)


def large() -> nn.Module:
    """Build what ``LARGE`` builds with seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.TransformerEncoderLayer(d_model=12, nhead=2, dim_feedforward=20)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> str:
    """Run a command that must succeed, and return its stdout."""
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the working folder, where paths are short and models can be imported from."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def old(folder: Path) -> str:
    save_file(small().state_dict(), "old.safetensors")
    return "old.safetensors"


@pytest.fixture
def models(folder: Path) -> Iterator[Callable[[str], str]]:
    """Write code of models into the working folder; return the prefix of their specs."""
    names: list[str] = []

    def write(code: str) -> str:
        name = f"models_of_{folder.name}"
        names.append(name)
        (folder / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{code}")
        return f"python:{name}:"

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_transfer_writes_what_the_library_makes(old: str, folder: Path) -> None:
    target = large()
    report = tg.transfer(old, target)
    text = done("transfer", old, "--target", LARGE, "-o", "warm.safetensors", "--report", "report.json")
    written = load_file("warm.safetensors")
    assert list(written) == sorted(target.state_dict())
    assert all(torch.equal(written[key], value) for key, value in target.state_dict().items())
    assert json.loads(Path("report.json").read_text())["tensors"] == json.loads(json.dumps(report.to_dict()))["tensors"]
    assert report.summary() in text.splitlines()
    assert text.splitlines()[0] == f"old.safetensors → {LARGE} by graft"
    assert text.splitlines()[-1] == "wrote warm.safetensors"
    assert sorted(path.name for path in folder.iterdir()) == ["old.safetensors", "report.json", "warm.safetensors"]
    large().load_state_dict(written)


def test_the_output_tells_where_it_comes_from(old: str) -> None:
    done("transfer", old, "--target", LARGE, "-o", "warm.safetensors", "--method", "dpiat")
    planned = json.loads(done("plan", old, "--target", LARGE, "--json", "--method", "dpiat"))
    with safe_open("warm.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "format": "pt",
        "torchgraft.plan": planned["fingerprint"],
        "torchgraft.source": "old.safetensors",
        "torchgraft.target": LARGE,
        "torchgraft.method": "dpiat",
        "torchgraft.version": tg.__version__,
    }


def test_a_stored_plan_does_the_same_as_a_fresh_one(old: str) -> None:
    options = ("--operator", "clip", "--exclude-target", "linear2")
    done("plan", old, "--target", LARGE, "-o", "plan.json", *options)
    done("transfer", old, "--target", LARGE, "-o", "stored.safetensors", "--plan", "plan.json")
    done("transfer", old, "--target", LARGE, "-o", "fresh.safetensors", *options)
    stored, fresh = load_file("stored.safetensors"), load_file("fresh.safetensors")
    assert stored.keys() == fresh.keys()
    assert all(torch.equal(stored[key], value) for key, value in fresh.items())
    with safe_open("stored.safetensors", "pt") as a, safe_open("fresh.safetensors", "pt") as b:
        assert a.metadata() == b.metadata()


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("--method dpiat", {"method": "dpiat"}),
        *((f"--matcher {name}", {"matcher": name}) for name in MATCHERS),
        *((f"--operator {name}", {"operator": name}) for name in OPERATORS),
        ("--exponent 0.25 --method dpiat", {"exponent": 0.25, "method": "dpiat"}),
        ("--pin linear1=linear2 --pin self_attn=self_attn", {"pins": {"linear1": "linear2", "self_attn": "self_attn"}}),
        ("--exclude-target norm1 --exclude-target linear1", {"exclude_target": ("norm1", "linear1")}),
        ("--exclude-source norm1", {"exclude_source": ("norm1",)}),
        ("--matcher random --seed 5", {"matcher": "random", "seed": 5}),
        (f"--source {SMALL}", {"factory": SMALL}),
    ],
)
def test_every_option_reaches_the_plan(old: str, arguments: str, options: Any) -> None:
    told = json.loads(done("plan", old, "--target", LARGE, "--json", *shlex.split(arguments)))
    assert told["fingerprint"] == tg.plan(old, LARGE, **options).fingerprint()


def test_the_rule_of_narrowing_reaches_the_plan(folder: Path) -> None:
    save_file(large().state_dict(), "large.safetensors")
    told = {}
    for name in RULE_NAMES:
        arguments = ("large.safetensors", "--source", LARGE, "--target", SMALL, "--narrowing", name)
        told[name] = json.loads(done("plan", *arguments, "--json"))["fingerprint"]
        assert told[name] == tg.plan("large.safetensors", SMALL, factory=LARGE, narrowing=name).fingerprint()
    assert len(set(told.values())) == len(RULE_NAMES)


def test_the_label_map_reaches_the_weights(folder: Path) -> None:
    weight = torch.arange(32.0).reshape(8, 4)
    save_file({"weight": weight, "bias": torch.arange(8.0)}, "head.safetensors")
    Path("labels.json").write_text('{"0": 7, "2": 1}')
    done("transfer", "head.safetensors", "--target", LINEAR, "-o", "x.safetensors", "--labels", "labels.json")
    written = load_file("x.safetensors")
    assert torch.equal(written["weight"][[0, 2]], weight[[7, 1]])
    assert written["bias"][[0, 2]].tolist() == [7, 1]


@pytest.mark.parametrize("options", ["--operator full --seed 3", "--matcher random --seed 4", f"--source {SMALL}"])
def test_options_and_seed_reach_the_weights(old: str, options: str) -> None:
    files = [f"{name}.safetensors" for name in "abc"]
    for file, extra in zip(files, ("", "", " --seed 9"), strict=True):
        done("transfer", old, "--target", LARGE, "-o", file, *shlex.split(options + extra))
    a, b, other = map(load_file, files)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], other[key]) for key in a)


def test_the_plan_as_json_is_a_plan(old: str) -> None:
    text = done("plan", old, "--target", LARGE, "--json", "-o", "plan.json")
    assert tg.Plan.from_json(text) == tg.Plan.from_json(Path("plan.json").read_text())
    assert json.loads(text)["counts"] == tg.plan(old, LARGE).counts()


def test_the_plan_as_text_lists_every_tensor(old: str) -> None:
    lines = done("plan", old, "--target", LARGE).splitlines()
    made = tg.plan(old, LARGE)
    assert [line.split()[:2] for line in lines[2 : 2 + len(made.tensors)]] == [[t.status, t.key] for t in made.tensors]
    assert lines[2 + len(made.tensors)].startswith(f"{len(made.tensors)} tensors: ")
    assert lines[-1].startswith("note: every tensor is cut for itself: the source is a table without code")


def test_names_are_neither_cut_nor_folded_nor_coloured_in_a_pipe(folder: Path) -> None:
    key = ".".join(f"a_rather_long_name_{number}" for number in range(20)) + ".weight"
    save_file({key: torch.zeros(3, 4)}, "long.safetensors")
    text = done("plan", "long.safetensors", "--target", LINEAR)
    assert any(line.split()[:4] == ["copied", "weight", "3×4", key] for line in text.splitlines())
    assert "\x1b" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_similarity(old: str) -> None:
    assert float(done("similarity", old, LARGE)) == pytest.approx(tg.similarity(old, LARGE), abs=1e-6)
    there, back = (tg.similarity(a, b, measure="F") for a, b in ((LARGE, LINEAR), (LINEAR, LARGE)))
    assert there != back
    there, back = (tg.similarity(a, b, measure="F") for a, b in ((LARGE, LINEAR), (LINEAR, LARGE)))
    assert there != back
    there, back = (tg.similarity(a, b, measure="F") for a, b in ((LARGE, LINEAR), (LINEAR, LARGE)))
    assert there != back
    told = json.loads(done("similarity", LARGE, LINEAR, "--measure", "F", "--json"))
    assert told == {
        "a": LARGE,
        "b": LINEAR,
        "measure": "F",
        "method": "graft",
        "exponent": None,
        "similarity": there,
    }
    assert float(done("similarity", old, LARGE, "--method", "dpiat")) == tg.similarity(old, LARGE, method="dpiat")


def test_rank_puts_the_best_source_first(old: str) -> None:
    sources = (LINEAR, old, LARGE, old)
    ranking = tg.rank(LARGE, sources)
    lines = done("rank", "--target", LARGE, *sources).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        [str(place), sources[entry.index]] for place, entry in enumerate(ranking, 1)
    ]
    assert lines[1].split()[1:] == [LARGE, "1.0000", "1.0000", "1.0000", "1.0000"]
    told = json.loads(done("rank", "--target", LARGE, *sources, "--json"))
    assert [row["index"] for row in told["ranking"]] == [entry.index for entry in ranking] == [2, 1, 3, 0]
    assert told["ranking"][1]["coverage"] == ranking[1].coverage


def test_quiet_means_quiet(old: str) -> None:
    for arguments in (("transfer", "-o", "x.safetensors"), ("plan",), ("plan", "-o", "plan.json")):
        result = run(*arguments, old, "--target", LARGE, "--quiet")
        assert (result.exit_code, result.output) == (0, "")
    assert Path("x.safetensors").exists()
    assert Path("plan.json").exists()


def test_json_is_alone_on_stdout_whatever_a_model_prints(old: str, models: Callable[[str], str]) -> None:
    spec = models("print('importing')\ndef net():\n    print('building')\n    return nn.Linear(8, 8)\n") + "net"
    result = run("transfer", old, "--target", spec, "-o", "warm.safetensors", "--json")
    told = json.loads(result.stdout)
    assert told["output"] == "warm.safetensors"
    assert told["elements"] == 72
    assert result.stderr.splitlines() == ["importing", "building"]


def test_what_is_not_served_is_named(old: str) -> None:
    text = done("transfer", old, "--target", LARGE, "-o", "warm.safetensors", "--exclude-target", "linear1")
    assert "kept (excluded): linear1.weight, linear1.bias" in text.splitlines()


def test_open_places_are_told(folder: Path, models: Callable[[str], str]) -> None:
    prefix = models("def row(n):\n    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(n)])\n")
    arguments = (f"{prefix}row,n=3", "--target", f"{prefix}row,n=4")
    notes = [line for line in done("plan", *arguments).splitlines() if line.startswith("note: ")]
    assert notes
    assert notes == [
        line for line in done("transfer", *arguments, "-o", "x.safetensors").splitlines() if line.startswith("note: ")
    ]


def test_warnings_are_lines_of_their_own(old: str) -> None:
    result = run("plan", old, "--source", f"{SMALL},bias=False", "--target", LARGE)
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("torchgraft: warning: old.safetensors fits ")


def test_tied_tensors_are_stored_once_unless_asked(folder: Path, models: Callable[[str], str]) -> None:
    code = "class Tied(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    code += "        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)\n"
    code += "        self.b.weight = self.a.weight\n"
    spec = models(code) + "Tied"
    done("transfer", spec, "--target", spec, "-o", "once.safetensors")
    done("transfer", spec, "--target", spec, "-o", "twice.safetensors", "--repeat-tied")
    assert list(load_file("once.safetensors")) == ["a.weight"]
    assert list(load_file("twice.safetensors")) == ["a.weight", "b.weight"]


def test_objects_in_a_state_dict_are_left_out_with_a_word(folder: Path, models: Callable[[str], str]) -> None:
    code = "class Extra(nn.Linear):\n    def get_extra_state(self):\n        return {'step': 1}\n"
    code += "    def set_extra_state(self, state):\n        pass\n"
    spec = models(code) + "Extra,in_features=4,out_features=3"
    result = run("transfer", LINEAR, "--target", spec, "-o", "x.safetensors")
    assert result.exit_code == 0
    assert "left out: _extra_state" in result.stderr
    assert list(load_file("x.safetensors")) == ["bias", "weight"]


def test_nonfinite_weights_are_taken_where_asked(folder: Path) -> None:
    save_file({"weight": torch.full((3, 4), float("nan"))}, "nan.safetensors")
    done("transfer", "nan.safetensors", "--target", LINEAR, "-o", "x.safetensors", "--allow-nonfinite")
    assert load_file("x.safetensors")["weight"].isnan().all()


def test_an_existing_output_is_replaced(old: str) -> None:
    Path("warm.safetensors").write_bytes(b"what was here before")
    done("transfer", old, "--target", LARGE, "-o", "warm.safetensors")
    assert load_file("warm.safetensors").keys() == large().state_dict().keys()


@pytest.fixture
def demo_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    module = ModuleType("torchgraft.demo")

    def run_demo(output: Path, **options: Any) -> Any:
        options["console"].print("training")
        calls.append({"output": output, **options})
        return SimpleNamespace(to_dict=lambda: {"graft": 0.9})

    module.run = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchgraft.demo", module)
    return calls


def test_demo_passes_its_options_on(folder: Path, demo_calls: list[dict[str, Any]]) -> None:
    assert done("demo") == "training\n"
    assert done("demo", "--output", "x", "--seeds", "2", "--epochs", "3", "--seed", "4", "--quiet") == ""
    for call in demo_calls:
        assert call.pop("console")
    assert demo_calls == [
        {"output": Path("demo-output"), "seeds": 5, "seed": 0},
        {"output": Path("x"), "seeds": 2, "epochs": 3, "seed": 4},
    ]


def test_demo_as_json(folder: Path, demo_calls: list[dict[str, Any]]) -> None:
    result = run("demo", "--json")
    assert json.loads(result.stdout) == {"graft": 0.9}
    assert result.stderr == "training\n"


def test_help_and_version() -> None:
    assert done("--version") == f"torchgraft {tg.__version__}\n"
    assert done() == done("--help") == done("-h")
    for name in COMMANDS:
        assert f"  {name} " in done("--help")
        assert done(name, "--help").startswith(f"Usage: torchgraft {name} ")


def test_every_option_is_explained() -> None:
    for command in COMMANDS.values():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{command.name} {parameter.opts[0]}"
                assert parameter.help.rstrip().endswith((".", "]"))


def test_choices_are_the_tables_of_the_library() -> None:
    tables = {"method": METHODS, "matcher": MATCHERS, "operator": OPERATORS, "measure": MEASURES}
    tables |= {"narrowing": dict.fromkeys(RULE_NAMES)}
    seen = set()
    for command in COMMANDS.values():
        for parameter in command.params:
            if isinstance(parameter.type, click.Choice):
                table = tables[parameter.name or ""]
                assert list(parameter.type.choices) == list(table)
                assert all(name in str(getattr(parameter, "help", "")) for name in table)
                seen.add(parameter.name)
    assert seen == set(tables)


def test_the_examples_of_the_help_can_be_typed() -> None:
    count = 0
    for page in ([], *([name] for name in COMMANDS)):
        for example in re.findall(r"^ +torchgraft (\S.*)$", done(*page, "--help"), re.MULTILINE):
            name, *arguments = shlex.split(re.split(r" {3,}", example)[0])
            command: click.Command = COMMANDS[name]
            while isinstance(command, click.Group):
                name, *arguments = arguments
                command = command.commands[name]
            assert command.make_context(name, arguments).params or not command.params
            count += 1
    assert count >= 15


def test_plain_keeps_a_line_a_line() -> None:
    assert plain("one\ntwo\r\n three") == "one two three"
    assert plain("\x1b]0;title\x07\u202e\udcff→") == r"\x1b]0;title\x07\u202e\udcff→"
