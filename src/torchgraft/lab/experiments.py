"""Experiments by name, and experiments out of a file."""

from __future__ import annotations

__all__ = ["EXPERIMENTS", "experiment_from_dict", "load_experiment", "own_pair"]

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from torchgraft.errors import LabError
from torchgraft.lab.records import Data, Experiment, Recipe, Source

_FACTORY = "python:torchgraft.lab.networks:"

#: Networks of timm that are small enough for CPU runs at 32 pixels, one of each family.
SMALL = {
    "mobilenetv2": "timm:mobilenetv2_035",
    "mnasnet": "timm:mnasnet_050",
    "semnasnet": "timm:semnasnet_050",
    "mixnet": f"{_FACTORY}mixnet,width=0.5",
    "effnet-lite": f"{_FACTORY}efficientnet_lite,width=0.5",
}

#: The nine networks of the paper.
PAPER = {
    "b0": "timm:efficientnet_b0",
    "b1": "timm:efficientnet_b1",
    "b2": "timm:efficientnet_b2",
    "mixnet-l": "timm:mixnet_l",
    "mixnet-m": "timm:mixnet_m",
    "rexnet-150": "timm:rexnet_150",
    "rexnet-100": "timm:rexnet_100",
    "mnasnet": "timm:mnasnet_100",
    "semnasnet": "timm:semnasnet_100",
}

#: The 20 pairs of the paper's ablation, by target (dpiat.md section 6).
_PAPER_ABLATION = {
    "b0": ("b1", "mnasnet"),
    "b1": ("semnasnet", "mixnet-l", "b2", "rexnet-100", "mixnet-m"),
    "b2": ("b1",),
    "mixnet-l": ("b2", "mnasnet"),
    "mixnet-m": ("b0", "mnasnet", "mixnet-l"),
    "rexnet-150": ("b1", "mixnet-m"),
    "rexnet-100": ("mixnet-m",),
    "mnasnet": ("mixnet-l", "rexnet-150"),
    "semnasnet": ("mixnet-l", "rexnet-150"),
}

_BASELINES = ("name_shape", "fna", "weight_selection", "net2net", "depth_stack", "tile_middle", "dct")
_CONTROLS = ("permuted", "shuffled", "variance", "statistics")
_MAIN = ("random", "name_shape", "dpiat", "graft")
# All matchers × operators; the method itself is the dynamic program with clip.
_ABLATION = tuple(
    "dpiat" if (matcher, operator) == ("dp", "clip") else f"dpiat:{matcher}:{operator}"
    for matcher, operator in product(
        ("dp", "bipartite", "nbipartite", "random"), ("clip", "clip_normalized", "full", "magnitude")
    )
)
# The name of the file is part of every run's key, so it is the same relative path for everybody.
_CIFAR100 = Data("npz:lab-data/cifar100.npz", size=32, train=10_000, test=5_000)
# The paper's recipe hardly leaves chance at this scale (2 % after 4 epochs of 79 steps, last features 1 × 1 pixel);
# plain SGD on whole images does, with the paper's long cosine (docs/lab.md has the figures).
_SMALL_RECIPE = Recipe(batch=64, optimizer="sgd", rate=0.05, final_rate=0.005, augment="flip")
_SHORT = replace(_SMALL_RECIPE, epochs=20, horizon=20, keep="best")


def _trained(networks: Mapping[str, str]) -> tuple[Source, ...]:
    return tuple(Source(name, name) for name in networks)


def _grid(
    name: str, title: str, networks: Mapping[str, str], initializations: tuple[str, ...], **more: Any
) -> Experiment:
    more.setdefault("sources", _trained(networks))
    more.setdefault("targets", tuple(networks))
    return Experiment(name, title, dict(networks), initializations=initializations, **more)


def _digits_pairs() -> Experiment:
    tiny = {name: f"timm:test_{name}" for name in ("efficientnet", "efficientnet_gn", "resnet")}
    recipe = Recipe(epochs=3, batch=32, augment="crop", rate=2e-3, final_rate=2e-4, horizon=10)
    return _grid(
        "digits-pairs",
        "All pairs of timm's three tiny test networks on handwritten digits",
        tiny,
        _MAIN,
        data=Data("digits", size=32),
        recipe=recipe,
        source_recipe=replace(recipe, epochs=10, keep="best"),
        thresholds=(80.0, 90.0),
    )


def _cifar100_small() -> Experiment:
    return _grid(
        "cifar100-small",
        "All pairs of five families on 10,000 images of CIFAR-100, sources trained from scratch",
        SMALL,
        _MAIN,
        data=_CIFAR100,
        recipe=_SMALL_RECIPE,
        source_recipe=_SHORT,
        thresholds=(5.0, 8.0, 10.0),
    )


def _cifar100_ablation() -> Experiment:
    return _grid(
        "cifar100-ablation",
        "Operators × matchers on eight pairs of five families, CIFAR-100",
        SMALL,
        ("random", *_ABLATION, "graft"),
        data=_CIFAR100,
        recipe=_SMALL_RECIPE,
        source_recipe=_SHORT,
        seeds=(0,),
        pairs=(
            ("mnasnet", "mobilenetv2"),
            ("mixnet", "mobilenetv2"),
            ("effnet-lite", "mnasnet"),
            ("mixnet", "mnasnet"),
            ("mobilenetv2", "semnasnet"),
            ("mnasnet", "semnasnet"),
            ("mobilenetv2", "effnet-lite"),
            ("semnasnet", "mixnet"),
        ),
    )


def _cifar100_controls() -> Experiment:
    return _grid(
        "cifar100-controls",
        "Baselines of the field and controls beside dpiat and graft, CIFAR-100",
        SMALL,
        ("random", "dpiat", "graft", *_BASELINES, *_CONTROLS),
        data=_CIFAR100,
        recipe=_SMALL_RECIPE,
        source_recipe=_SHORT,
        seeds=(0, 1),
        pairs=(("mnasnet", "mobilenetv2"), ("mobilenetv2", "semnasnet"), ("semnasnet", "mixnet")),
    )


def _cifar100_pretrained() -> Experiment:
    networks = {
        "mobilenetv2": "timm:mobilenetv2_100,pad_type=same",
        "mobilenetv1": "timm:mobilenetv1_100,pad_type=same",
        "mnasnet": SMALL["mnasnet"],
        "effnet-lite": SMALL["effnet-lite"],
    }
    return _grid(
        "cifar100-pretrained",
        "From ImageNet checkpoints of other code into other architectures, CIFAR-100",
        networks,
        _MAIN,
        data=replace(_CIFAR100, normalize="imagenet"),
        recipe=_SMALL_RECIPE,
        sources=(
            Source("mobilenetv2-in1k", "mobilenetv2", "lab-data/in1k_mobilenetv2_100_224.npz"),
            Source("mobilenetv1-in1k", "mobilenetv1", "lab-data/in1k_mobilenetv1_100_224.npz"),
        ),
        targets=("mnasnet", "effnet-lite"),
        thresholds=(10.0, 20.0),
    )


def _paper_pairs() -> Experiment:
    return _grid(
        "paper-pairs",
        "The paper's nine networks, all 72 pairs, full CIFAR-100",
        PAPER,
        ("random", "dpiat", "graft"),
        data=Data("npz:lab-data/cifar100.npz", size=64),
        recipe=Recipe(precision="amp-bf16"),
        source_recipe=Recipe(epochs=100, keep="best", precision="amp-bf16"),
        thresholds=(10.0, 20.0, 30.0),
    )


def _paper_ablation() -> Experiment:
    pairs = tuple((source, target) for target, sources in _PAPER_ABLATION.items() for source in sources)
    wanted = replace(_paper_pairs(), name="paper-ablation", title="Operators × matchers on the paper's 20 pairs")
    return replace(wanted, initializations=("random", *_ABLATION, "graft"), pairs=pairs)


def _paper_long() -> Experiment:
    wanted = replace(_paper_pairs(), name="paper-long", title="Best accuracy in 100 epochs by initialization")
    return replace(wanted, recipe=replace(wanted.recipe, epochs=100), seeds=(0,), thresholds=(40.0, 50.0, 60.0))


#: Built-in experiments by name.
EXPERIMENTS: Mapping[str, Callable[[], Experiment]] = {
    "digits-pairs": _digits_pairs,
    "cifar100-small": _cifar100_small,
    "cifar100-ablation": _cifar100_ablation,
    "cifar100-controls": _cifar100_controls,
    "cifar100-pretrained": _cifar100_pretrained,
    "paper-pairs": _paper_pairs,
    "paper-ablation": _paper_ablation,
    "paper-long": _paper_long,
}


def load_experiment(name: str | os.PathLike[str]) -> Experiment:
    """Return a built-in experiment, or read one from a ``.toml`` or ``.json`` file.

    Raises:
        LabError: no such experiment, or the file is none.

    >>> load_experiment("digits-pairs").initializations
    ('random', 'name_shape', 'dpiat', 'graft')
    """
    text = os.fspath(name)
    if text in EXPERIMENTS:
        return EXPERIMENTS[text]()
    if Path(text).suffix not in (".toml", ".json"):
        close = get_close_matches(text, EXPERIMENTS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LabError(
            f"unknown experiment {text!r}: {hint}(valid: {', '.join(EXPERIMENTS)}, or a .toml or .json file)"
        )
    try:
        content = Path(text).read_text("utf-8")
        values = tomllib.loads(content) if text.endswith(".toml") else json.loads(content)
    except OSError as error:
        raise LabError(f"{text} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # the decoders' own errors are ValueErrors
        raise LabError(f"{text} is no valid {Path(text).suffix[1:].upper()}: {error}") from None
    if not isinstance(values, dict):
        raise LabError(f"{text} is no experiment: it must be a table with at least name, networks and initializations")
    values.setdefault("name", Path(text).stem)
    return experiment_from_dict(values, text)


def experiment_from_dict(values: Mapping[str, Any], where: str = "the experiment") -> Experiment:
    """Make an experiment of plain data: the fields of :class:`Experiment`; only ``networks`` must be there.

    ``sources`` and ``targets`` default to all networks, ``initializations`` to random, name_shape, dpiat and graft. A
    source may be a name, or a table with ``network`` and ``weights``; networks may be a table or a list of specs.

    Raises:
        LabError: a field that does not exist, or one of the wrong type.

    >>> experiment_from_dict({"networks": ["timm:resnet18", "timm:resnet34"]}).targets
    ('resnet18', 'resnet34')
    """
    unknown = set(values) - {field.name for field in fields(Experiment)}
    if unknown:
        valid = ", ".join(field.name for field in fields(Experiment))
        raise LabError(f"{where}: unknown field {sorted(unknown)[0]!r} (valid: {valid})")
    networks = _networks(values.get("networks"), where)
    given = {name: values[name] for name in ("name", "title") if name in values}
    for name, record in {"data": Data, "source_data": Data, "recipe": Recipe, "source_recipe": Recipe}.items():
        if values.get(name) is not None:
            base = Recipe(epochs=100, keep="best") if name == "source_recipe" else record()
            given[name] = _record(base, values[name], f"{where}: {name}")
    for name in ("targets", "initializations", "seeds", "thresholds"):
        if name in values:
            given[name] = _tuple(values[name], f"{where}: {name}")
    if "pairs" in values:
        given["pairs"] = tuple(_pair(pair, where) for pair in _tuple(values["pairs"], f"{where}: pairs"))
    if "pretrained" in values:
        given["pretrained"] = {str(k): str(v) for k, v in dict(values["pretrained"]).items()}
    sources = _tuple(values.get("sources", list(networks)), f"{where}: sources")
    base_experiment = Experiment(
        "experiment", "", networks, tuple(_source(one, where) for one in sources), tuple(networks), _MAIN
    )
    return replace(base_experiment, **given)


def own_pair(source: str, target: str, data: Data, weights: str = "", **more: Any) -> Experiment:
    """Return the experiment of a user's own pair: is a warm start of ``target`` from ``source`` worth it?

    Args:
        source: model spec; trained from scratch first where there are no weights.
        target: model spec.
        data: images.
        weights: the source's checkpoint.
        more: further fields of :class:`Experiment`.
    """
    networks = {"source": source, "target": target}
    title = f"{weights or source} → {target}"
    return _grid(
        "own-pair",
        title,
        networks,
        _MAIN,
        data=data,
        sources=(Source("source", "source", weights),),
        targets=("target",),
        **more,
    )


def _networks(given: Any, where: str) -> dict[str, str]:
    if isinstance(given, Mapping) and given and all(isinstance(spec, str) for spec in given.values()):
        return {str(name): spec for name, spec in given.items()}
    if isinstance(given, list | tuple) and given and all(isinstance(spec, str) for spec in given):
        return {spec.partition(":")[2].partition(",")[0] or spec: spec for spec in given}
    raise LabError(f"{where}: networks must be a table of model specs by name, or a list of specs, and not be empty")


def _source(given: Any, where: str) -> Source:
    if isinstance(given, str):
        return Source(given, given)
    if isinstance(given, Mapping) and isinstance(given.get("network", given.get("name")), str):
        name, network = given.get("name", given.get("network")), given.get("network", given.get("name"))
        made: Source = _record(Source(name, network), given, where)
        return made
    raise LabError(f"{where}: a source is a network's name, or a table with network and weights, not {given!r}")


def _pair(given: Any, where: str) -> tuple[str, str]:
    if isinstance(given, list | tuple) and len(given) == 2 and all(isinstance(name, str) for name in given):
        return given[0], given[1]
    raise LabError(f"{where}: a pair is [source, target], not {given!r}")


def _tuple(given: Any, where: str) -> tuple[Any, ...]:
    if isinstance(given, list | tuple):
        return tuple(given)
    raise LabError(f"{where} must be a list, not {given!r}")


def _record(base: Any, given: Any, where: str) -> Any:
    """Return ``base`` with the given fields, each of the type that it has there."""
    if isinstance(given, str) and isinstance(base, Data):
        given = {"name": given}
    if not isinstance(given, Mapping):
        raise LabError(f"{where} must be a table, not {given!r}")
    valid = {field.name: getattr(base, field.name) for field in fields(base)}
    for name, value in given.items():
        if name not in valid:
            raise LabError(f"{where}: unknown field {name!r} (valid: {', '.join(valid)})")
        _check_type(name, value, valid[name], where)
    return replace(base, **{name: float(v) if isinstance(valid[name], float) else v for name, v in given.items()})


def _check_type(name: str, value: Any, like: Any, where: str) -> None:
    wanted: tuple[type, ...] = (int, float) if isinstance(like, float) else (int,) if like is None else (type(like),)
    if like is None and value is None:
        return
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        told = (
            "a number"
            if wanted == (int, float)
            else {int: "a whole number", str: "text", bool: "true or false"}[wanted[0]]
        )
        raise LabError(f"{where}: {name} must be {told}, not {value!r}")
