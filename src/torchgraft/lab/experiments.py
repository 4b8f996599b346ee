"""Experiments by name, and experiments out of a file."""

from __future__ import annotations

__all__ = ["EXPERIMENTS", "experiment_from_dict", "load_experiment", "own_pair"]

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from torchgraft.errors import LabError
from torchgraft.lab.reading import MAIN, experiment_from_dict, file_name, short_name
from torchgraft.lab.records import Data, Experiment, Recipe, Source
from torchgraft.names import unique

_FACTORY = "python:torchgraft.lab.networks:"

#: Networks of timm that are small enough for CPU runs at 32 pixels, one of each family.
SMALL = {
    "mobilenetv2": "timm:mobilenetv2_035",
    "mnasnet": "timm:mnasnet_050",
    "semnasnet": "timm:semnasnet_050",
    "mixnet": f"{_FACTORY}mixnet,width=0.5",
    "effnet-lite": f"{_FACTORY}efficientnet_lite,width=0.5",
}

#: Wider and deeper networks of the same families, each of which can hold the one it is named after.
GROWN = {
    "mobilenetv2-wider": "timm:mobilenetv2_050",
    "mnasnet-wider": "timm:mnasnet_075",
    "semnasnet-wider": "timm:semnasnet_075",
    "mixnet-wider": f"{_FACTORY}mixnet,width=0.75",
    "effnet-lite-wider": f"{_FACTORY}efficientnet_lite,width=0.75",
    "effnet-lite-deeper": f"{_FACTORY}efficientnet_lite,width=0.5,depth_multiplier=1.6",
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
    recipe = Recipe(epochs=4, batch=32, augment="crop", rate=2e-3, final_rate=2e-4, horizon=10)
    return _grid(
        "digits-pairs",
        "All pairs of timm's three tiny test networks on handwritten digits",
        tiny,
        MAIN,
        # Few images for the targets, so that more seeds fit into three minutes.
        data=Data("digits", size=32, train=600),
        source_data=Data("digits", size=32),
        recipe=recipe,
        source_recipe=replace(recipe, epochs=10, keep="best"),
        seeds=(0, 1, 2, 3, 4),
        thresholds=(50.0, 80.0),
    )


def _cifar100_small() -> Experiment:
    return _grid(
        "cifar100-small",
        "All pairs of five families on 10,000 images of CIFAR-100, sources trained from scratch",
        SMALL,
        MAIN,
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


def _cifar100_growth() -> Experiment:
    return _grid(
        "cifar100-growth",
        "Five networks into wider and deeper ones of their families, CIFAR-100",
        {**SMALL, **GROWN},
        ("random", "name_shape", "dpiat", "graft"),
        sources=_trained(SMALL),
        targets=tuple(GROWN),
        pairs=tuple((name.rpartition("-")[0], name) for name in GROWN),
        data=_CIFAR100,
        recipe=_SMALL_RECIPE,
        source_recipe=_SHORT,
        thresholds=(5.0, 8.0, 10.0),
    )


def _flowers_pretrained() -> Experiment:
    networks = {
        "mobilenetv2": "timm:mobilenetv2_100,pad_type=same",
        "mobilenetv1": "timm:mobilenetv1_100,pad_type=same",
        "mnasnet": SMALL["mnasnet"],
        "effnet-lite": SMALL["effnet-lite"],
    }
    return _grid(
        "flowers-pretrained",
        "From ImageNet checkpoints of other code into other, smaller architectures: 3,447 photos of five flowers",
        networks,
        MAIN,
        data=Data("npz:lab-data/flowers5_128.npz", size=64, normalize="imagenet"),
        recipe=replace(_SMALL_RECIPE, batch=32, rate=0.02, final_rate=0.002, augment="crop_flip"),
        sources=(
            Source("mobilenetv2-in1k", "mobilenetv2", "lab-data/in1k_mobilenetv2_100_224.npz"),
            Source("mobilenetv1-in1k", "mobilenetv1", "lab-data/in1k_mobilenetv1_100_224.npz"),
        ),
        targets=("mnasnet", "effnet-lite"),
        thresholds=(50.0, 60.0, 70.0),
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


def _paper_pretrained() -> Experiment:
    recipe = Recipe(rate=1e-3, final_rate=1e-4, precision="amp-bf16")  # the paper's rate for what ImageNet has trained
    return _grid(
        "paper-pretrained",
        "The paper's nine networks from their ImageNet weights, all 72 pairs, full CIFAR-100",
        PAPER,
        ("random", "pretrained", "dpiat", "graft"),
        data=Data("npz:lab-data/cifar100.npz", size=64, normalize="imagenet"),
        recipe=recipe,
        sources=tuple(Source(name, name, "pretrained") for name in PAPER),
        pretrained=dict.fromkeys(PAPER, "pretrained"),
        thresholds=(20.0, 40.0, 60.0),
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
    "cifar100-growth": _cifar100_growth,
    "flowers-pretrained": _flowers_pretrained,
    "paper-pairs": _paper_pairs,
    "paper-pretrained": _paper_pretrained,
    "paper-ablation": _paper_ablation,
    "paper-long": _paper_long,
}


def load_experiment(name: str | os.PathLike[str]) -> Experiment:
    """Return a built-in experiment, or read one from a ``.toml`` or ``.json`` file.

    A file without a ``name`` is named as the file is.

    Raises:
        LabError: no such experiment, or the file is none.

    >>> load_experiment("digits-pairs").initializations
    ('random', 'name_shape', 'dpiat', 'graft')
    """
    text = os.fspath(name)
    if text in EXPERIMENTS:
        return EXPERIMENTS[text]()
    kind = Path(text).suffix
    if kind not in (".toml", ".json"):
        close = get_close_matches(text, EXPERIMENTS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LabError(
            f"unknown experiment {text!r}: {hint}(valid: {', '.join(EXPERIMENTS)}, or a .toml or .json file)"
        )
    try:
        content = Path(text).read_text("utf-8-sig")  # some editors begin a file with a mark
        values = tomllib.loads(content) if kind == ".toml" else json.loads(content, object_pairs_hook=unique)
    except OSError as error:
        raise LabError(f"{text} cannot be read: {error.strerror or error}") from None
    except (KeyError, ValueError, RecursionError) as error:  # the decoders' own errors are ValueErrors
        told = f"{error} is there twice" if isinstance(error, KeyError) else error
        raise LabError(f"{text} is no valid {kind[1:].upper()}: {told}") from None
    if not isinstance(values, dict):
        raise LabError(f"{text} is no experiment: it must be a table with at least networks")
    return experiment_from_dict({"name": file_name(Path(text).stem), **values}, text)


def own_pair(source: str, target: str, data: Data, weights: str = "", **more: Any) -> Experiment:
    """Return the experiment of a user's own pair: is a warm start of ``target`` from ``source`` worth it?

    Args:
        source: model spec; trained from scratch first where there are no weights.
        target: model spec; the source's own is allowed.
        data: images.
        weights: the source's checkpoint, or ``pretrained``.
        more: further fields of :class:`Experiment`.

    >>> own_pair("timm:resnet18", "python:my.models:build", Data()).name
    'resnet18-to-my.models-build'
    """
    old, new = short_name(source), short_name(target)
    if old == new and source != target:
        old, new = "source", "target"
    more.setdefault("name", file_name(f"{old}-to-{new}"))
    more.setdefault("title", f"{weights or source} → {target}")
    return _grid(
        networks={old: source, new: target},
        initializations=MAIN,
        data=data,
        sources=(Source(old, old, weights),),
        targets=(new,),
        pairs=((old, new),),
        **more,
    )
