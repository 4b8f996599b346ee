"""``torchgraft lab``: run experiments, and report on what a store of runs holds."""

from __future__ import annotations

__all__ = ["lab"]

import contextlib
import io
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from torchgraft.cli.options import quiet_option
from torchgraft.cli.terminal import emit, plain, results, say, stdout_console
from torchgraft.errors import LabError

if TYPE_CHECKING:
    from torchgraft.lab.records import Experiment
    from torchgraft.lab.store import Store

_STORES = Path("lab-runs")
_ENGINES = ("cores", "inline", "ray")
_FORMATS = ("txt", "md", "tex", "png", "html", "json", "csv")


@click.group(short_help="Measure by training what a warm start is worth.")
@click.pass_context
def lab(context: click.Context) -> None:
    """Measure by training what a warm start is worth: experiments, on one machine or many, and their reports.

    Needs the extra of that name: pip install 'torchgraft[lab]'.

    \b
    First steps:
      torchgraft lab list                  experiments and initializations by name
      torchgraft lab run digits-pairs      a small complete experiment with its report, under three minutes
      torchgraft lab run my.toml           your own grid
      torchgraft lab run --source timm:resnet18 --target python:my.models:build --data folder:images
    """
    context.with_resource(_told())


@lab.command(short_help="Do the runs of an experiment that are missing, and report.")
@click.argument("experiment", metavar="[NAME|FILE]", required=False)
@click.option(
    "--source", metavar="SPEC", help="Instead of an experiment: the network that a pair of yours starts from."
)
@click.option("--target", metavar="SPEC", help="The network to start. The source is trained first, unless --weights.")
@click.option("--weights", metavar="FILE", default="", help="The checkpoint of --source, or `pretrained`.")
@click.option(
    "--data", metavar="DATA", help="digits, npz:FILE, cifar10:, cifar100:, food101: or folder:FOLDER, hf:NAME."
)
@click.option("--size", type=click.IntRange(1), help="Side of the images in pixels.")
@click.option("--train", type=click.IntRange(1), help="Use so many training images: a fixed, class-balanced subset.")
@click.option("--test", type=click.IntRange(1), help="Use so many test images.")
@click.option("--epochs", type=click.IntRange(0), help="Length of the targets' runs.")
@click.option("--source-epochs", type=click.IntRange(1), help="Length of the sources' runs, and of their cosine.")
@click.option("--seeds", type=click.IntRange(1), help="How often every run is repeated.")
@click.option(
    "--threshold",
    "thresholds",
    type=click.FloatRange(0, 100, min_open=True),
    multiple=True,
    metavar="PERCENT",
    help="Report the time to this accuracy.",
)
@click.option("-i", "--initialization", "initializations", multiple=True, metavar="NAME", help="Compare these alone.")
@click.option(
    "--store", type=click.Path(path_type=Path), metavar="FOLDER", help="Where runs are kept.  [default: lab-runs/NAME]"
)
@click.option(
    "--engine", type=click.Choice(_ENGINES), default="cores", show_default=True, help="Where the runs are done."
)
@click.option(
    "--workers", type=click.IntRange(1), help="Runs at once.  [default: all cores, GPUs or the whole cluster]"
)
@click.option("--threads", type=click.IntRange(1), help="Threads of one run.  [default: 1 in a worker]")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where networks train."
)
@click.option("--per-gpu", type=click.IntRange(1), help="Independent runs on one GPU at once.  [default: 1]")
@click.option("--address", default="", metavar="ADDRESS", help="Of a running Ray cluster, for --engine ray.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Begin no run after that; run again to go on.",
)
@quiet_option
def run(
    experiment: str | None, store: Path | None, engine: str, budget: float | None, quiet: bool, **given: Any
) -> None:
    """Do the runs of an experiment that its store does not have yet, then print and write the report.

    NAME is a built-in experiment (`torchgraft lab list`), FILE a .toml or .json file with the same fields. Without
    either, --source, --target and --data name a pair of your own. Interrupted in any way, the same command goes on; two
    of them at once share the work.

    \b
    Examples:
      torchgraft lab run digits-pairs
      torchgraft lab run cifar100-small --data npz:lab-data/cifar100.npz --seeds 1
      torchgraft lab run --source timm:resnet18 --weights old.pth --target timm:resnet34 --data folder:images --size 64
      torchgraft lab run my.toml --engine ray --address ray://head:10001
    """
    _check_options(engine, given)
    _need_packages()
    from torchgraft.lab.engines import Options
    from torchgraft.lab.rehearsal import rehearse
    from torchgraft.lab.run import run_experiment

    wanted = _wanted(experiment, given)
    folder = store or _STORES / wanted.name
    names = ("workers", "device", "per_gpu", "threads", "address")
    options = Options(**{name: given[name] for name in names if given[name] is not None})
    console = Console(quiet=True) if quiet else Console(stderr=True)
    seconds = None if budget is None else 60 * budget
    with contextlib.redirect_stdout(sys.stderr):  # what a user's own networks print is no result
        if engine != "ray":  # whose machines may have what this one has not
            for note in rehearse(wanted, folder, given["device"]):
                say("warning", note)
        try:
            summary = run_experiment(wanted, folder, engine=engine, options=options, console=console, budget=seconds)
        except LabError as error:
            raise LabError(_joined(error)) from None
    if summary.left:
        say("warning", f"{summary.left} of {summary.total} runs are left: the same command goes on with them")
    _report(wanted, folder, None, _FORMATS, quiet=quiet, full=False)


@lab.command(short_help="Report on the runs of a store.")
@click.argument("store", type=click.Path(path_type=Path), metavar="STORE")
@click.option("--experiment", "name", metavar="NAME", help="Which of the store's experiments.  [default: the only one]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="[default: STORE/report; report-NAME of several]",
)
@click.option(
    "--format", "formats", type=click.Choice(_FORMATS), multiple=True, help="Write these alone.  [default: all]"
)
@click.option("--full", is_flag=True, help="Print every table.")
@quiet_option
def report(
    store: Path, name: str | None, output: Path | None, formats: tuple[str, ...], full: bool, quiet: bool
) -> None:
    """Print the report of an experiment, complete or not, and write it: text, Markdown, LaTeX, PNG, HTML, JSON, CSV.

    STORE is the folder of `torchgraft lab run`, or the name of an experiment whose store is at its usual place.

    \b
    Example:
      torchgraft lab report digits-pairs --full
    """
    _need_packages()
    from torchgraft.lab.store import Store

    # Your package may well be named like your experiment: a folder is a store if it has what a store has.
    usual = not (store / "experiments").is_dir() and (_STORES / store).is_dir()
    folder = _STORES / store if usual else store
    wanted = _stored(Store(folder, create=False), folder, name)
    _report(wanted, folder, output, formats or _FORMATS, quiet=quiet, full=full)


@lab.command("list", short_help="Name the experiments and the initializations.")
def list_() -> None:
    """Name the built-in experiments and the initializations, a line each."""
    _need_packages()
    from torchgraft.lab.experiments import EXPERIMENTS
    from torchgraft.lab.initializations import describe
    from torchgraft.lab.tasks import tasks_of

    experiments = Table("experiment", "runs", "what it compares", box=None, pad_edge=False, header_style="bold")
    experiments.columns[1].justify = "right"
    for name, make in EXPERIMENTS.items():
        made = make()
        experiments.add_row(name, str(sum(map(len, tasks_of(made)))), Text(made.title))
    initializations = Table("initialization", "what it does", box=None, pad_edge=False, header_style="bold")
    for written, meaning in describe():
        initializations.add_row(Text(written), Text(meaning))
    results(experiments, "", initializations)


def _check_options(engine: str, given: Mapping[str, Any]) -> None:
    """Refuse options that would have no effect."""
    for option, used, where in (
        ("address", engine == "ray", "--engine ray"),
        ("workers", engine != "inline", "--engine cores or ray: inline does one run at a time"),
        ("per_gpu", engine != "inline" and given["device"] == "cuda", "--device cuda, and --engine cores or ray"),
    ):
        if given[option] and not used:
            raise click.UsageError(f"--{option.replace('_', '-')} is for {where}", click.get_current_context())


def _joined(error: LabError) -> str:
    """Return an error of several lines, the first of which sums up the others, as one line."""
    first, *rest = str(error).splitlines()
    return ": ".join(filter(None, (first, "; ".join(line.strip() for line in rest))))


@final
class _Teller(logging.Handler):
    """Tells what the lab logs as the command line tells everything, each text once."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        text = record.getMessage()
        if text not in self._told:
            self._told.add(text)
            say("error" if record.levelno >= logging.ERROR else "warning", text)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell what the lab logs while a command runs."""
    logger, teller = logging.getLogger("torchgraft"), _Teller()
    logger.addHandler(teller)
    try:
        yield
    finally:
        logger.removeHandler(teller)


def _wanted(name: str | None, given: dict[str, Any]) -> Experiment:
    """Return the experiment that the arguments ask for."""
    from torchgraft.lab.experiments import load_experiment, own_pair
    from torchgraft.lab.records import Data

    if name is None:
        if not (given["source"] and given["target"] and given["data"]):
            raise click.UsageError(
                "name an experiment (torchgraft lab list), or give --source, --target and --data for your own pair",
                click.get_current_context(),
            )
        wanted = own_pair(given["source"], given["target"], Data(given["data"]), given["weights"])
    else:
        for option in ("source", "target", "weights"):
            if given[option]:
                raise click.UsageError(f"--{option} is for a pair of your own: leave out {name!r}, or the option")
        wanted = load_experiment(name)
    return _changed(wanted, given)


def _changed(wanted: Experiment, given: dict[str, Any]) -> Experiment:
    """Return the experiment with what the options change; each run's key follows from what it is then."""
    data = {field: given[field] for field in ("size", "train", "test") if given[field] is not None}
    if given["data"]:
        data["name"] = given["data"]
    wanted = replace(wanted, data=replace(wanted.data, **data))
    if wanted.source_data is not None and data:
        wanted = replace(wanted, source_data=replace(wanted.source_data, **data))
    if given["epochs"] is not None:
        wanted = replace(wanted, recipe=replace(wanted.recipe, epochs=given["epochs"]))
    if given["source_epochs"] is not None:
        recipe = replace(wanted.source_recipe, epochs=given["source_epochs"], horizon=given["source_epochs"])
        wanted = replace(wanted, source_recipe=recipe)
    if given["seeds"] is not None:
        wanted = replace(wanted, seeds=tuple(range(given["seeds"])))
    if given["initializations"]:
        wanted = replace(wanted, initializations=given["initializations"])
    if given["thresholds"]:
        wanted = replace(wanted, thresholds=given["thresholds"])
    return wanted


def _stored(store: Store, folder: Path, name: str | None) -> Experiment:
    """Return the experiment whose record a store keeps."""
    from torchgraft.lab.experiments import load_experiment

    found = {path.stem: path for path in store.experiments()}
    if name is None and len(found) == 1:
        return load_experiment(next(iter(found.values())))
    if name in found:
        return load_experiment(found[str(name)])
    what = "has several experiments" if name is None else f"has no experiment {plain(name)!r}"
    if not found:
        raise LabError(f"{folder} has no record of an experiment: give the folder that `torchgraft lab run` has filled")
    raise LabError(f"{folder} {what}: give --experiment {' or '.join(found)}")


def _report(
    experiment: Experiment, folder: Path, output: Path | None, formats: Sequence[str], *, quiet: bool, full: bool
) -> None:
    from torchgraft.lab.analysis import rows_of
    from torchgraft.lab.report import tell_report, write_report
    from torchgraft.lab.store import Store

    store = Store(folder, create=False)
    rows = rows_of(experiment, store.rows())
    alone = len(store.experiments()) == 1  # or the reports of two experiments would be mixed
    output = output or folder / ("report" if alone else f"report-{experiment.name}")
    command = _command(experiment, folder)
    written = write_report(experiment, rows, output, formats=formats, command=command)
    if quiet:
        return
    text = io.StringIO()
    tell_report(stdout_console(text), experiment, rows, full=full, command=command)
    emit("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))
    if written:
        first = next((path for path in written if path.suffix == ".html"), written[0])
        files = f"{len(written)} files to {output}; look at {first}" if len(written) > 1 else str(first)
        results(plain(f"wrote {files}"))


def _command(experiment: Experiment, folder: Path) -> str:
    """Return the command that asks for this very experiment: by name and options, or else by its record."""
    from torchgraft.lab.experiments import EXPERIMENTS, own_pair
    from torchgraft.lab.records import Data

    record = folder / "experiments" / f"{experiment.name}.json"
    if experiment.name in EXPERIMENTS:
        base, words = EXPERIMENTS[experiment.name](), [experiment.name]
    elif len(experiment.sources) == len(experiment.targets) == 1:
        source, data = experiment.sources[0], experiment.data.name
        specs = experiment.networks[source.network], experiment.networks[experiment.targets[0]]
        base = own_pair(*specs, Data(data), source.weights)
        options = {"--source": specs[0], "--weights": source.weights, "--target": specs[1], "--data": data}
        words = [word for option in options.items() if option[1] for word in option]
    else:
        return shlex.join(["torchgraft", "lab", "run", str(record)])
    usual, asked = _facts(base), _facts(experiment)
    changed = {option: value for option, value in asked.items() if value != usual[option]}
    if _changed(base, {**dict.fromkeys(asked), **changed}) != experiment:
        words, changed = [str(record)], {}
    for option, value in changed.items():
        for one in value if isinstance(value, tuple) else (value,):
            words += [f"--{option.removesuffix('s') if value is not one else option}".replace("_", "-"), str(one)]
    return shlex.join(["torchgraft", "lab", "run", *words])


def _facts(experiment: Experiment) -> dict[str, Any]:
    """Return what the options of ``lab run`` would have to be for an experiment."""
    data = experiment.data
    return {
        "data": data.name,
        "size": data.size,
        "train": data.train,
        "test": data.test,
        "epochs": experiment.recipe.epochs,
        "source_epochs": experiment.source_recipe.epochs,
        "seeds": len(experiment.seeds),
        "initializations": experiment.initializations,
        "thresholds": experiment.thresholds,
    }


def _need_packages() -> None:
    """Say before the work, not after hours of it, which package is missing."""
    from importlib.util import find_spec

    packages = {"sklearn": "scikit-learn", "PIL": "pillow"}
    for module in ("sklearn", "pandas", "matplotlib", "PIL", "filelock"):
        if find_spec(module) is None:
            package = packages.get(module, module)
            raise LabError(f"the lab needs {package}, which is not installed: pip install 'torchgraft[lab]'")
