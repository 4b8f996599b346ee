"""The public functions: plan, apply, transfer, similarity, rank."""

from __future__ import annotations

__all__ = ["Ranking", "apply", "plan", "rank", "similarity", "transfer"]

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from torchgraft.axes import AxisGroups, known_groups
from torchgraft.axes.inputs import arguments_of
from torchgraft.errors import ApplyError, GraftError, InputsError, SpecError, choose
from torchgraft.fingerprint import Look, uniform
from torchgraft.match import Matcher
from torchgraft.match.pins import Pins
from torchgraft.network import read_module, unwrap
from torchgraft.origin import Factory, ModelLike, Origin, Weights, module_weights, open_origin, open_target
from torchgraft.plan import Plan, Report
from torchgraft.records import Network
from torchgraft.score import Scorer
from torchgraft.similarity import MEASURES, both_directions
from torchgraft.standardize import Standardizer
from torchgraft.transfer.apply import apply_plan
from torchgraft.transfer.methods import Method, customized
from torchgraft.transfer.narrowing import Narrowing
from torchgraft.transfer.operators import Operator
from torchgraft.transfer.planning import make_plan


class Options(TypedDict, total=False):
    """Keyword arguments that :func:`plan` and :func:`transfer` share.

    method: ``"graft"`` (default), ``"dpiat"`` (arXiv:2212.13970 to the letter), or ``"fna"`` (parameter remapping,
        arXiv:2006.12986: first units, centred kernels, zeros elsewhere).
    standardizer, scorer, matcher, operator: a stage to replace, by name or by a function of yours.
    narrowing: which units are kept where there are fewer: ``"readers"`` (default: those of the largest weights in the
        layers that read them), ``"magnitude"``, ``"norm_scale"``, ``"even"``, ``"centre"``, or a function of yours that
        gives one score for each unit of a group.
    least_similarity: of networks less alike than this (``F`` of arXiv:2212.13970 eq. 4), where the source serves less
        than two thirds of the target's layers, only what reads the input is taken (``graft``: 0.15; 0: all).
    exponent: ``x`` of the run weight ``f(d) = d**-x``, between 0 and 1 (the paper: 0.5).
    pins: ``{target path: source path}``, whole subtrees too, that must be matched with each other.
    exclude_target, exclude_source: paths to leave out.
    labels: ``{target class: source class}``, where the classes of the two heads correspond otherwise than by position.
    factory: the model (spec or function) that a state dict or a checkpoint belongs to.
    inputs: what both networks can be run on (a tensor, a tuple of arguments, a dict of keyword arguments): the shapes
        count, and only where none can be guessed.
    trainable: give up the same function where that has trained better: new gates keep their own initialization.
    seed: seed of every random draw.
    allow_nonfinite: accept NaN and infinite weights in a file.
    """

    method: str
    standardizer: str | Standardizer
    scorer: str | Scorer
    matcher: str | Matcher
    operator: str | Operator
    narrowing: str | Narrowing
    least_similarity: float
    exponent: float
    pins: Mapping[str, str]
    exclude_target: Sequence[str]
    exclude_source: Sequence[str]
    labels: Mapping[int, int]
    factory: Factory
    inputs: Any
    trainable: bool
    seed: int
    allow_nonfinite: bool


def plan(source: ModelLike, target: ModelLike, **options: Unpack[Options]) -> Plan:
    """Plan the transfer from ``source`` to ``target`` from names, kinds and shapes alone.

    Either side may be a module (also on the meta device), a state dict, a model spec (``"timm:resnet50"``) or the path
    of a checkpoint, of which only the header is read. See :class:`Options` for the keyword arguments.

    Raises:
        SpecError: an unknown method, strategy or model.
        PinError: a pin or an exclusion that cannot hold.
        CheckpointError: a file that cannot be read.

    >>> from torch import nn
    >>> plan(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))).pairs()
    (('0', '0'), ('1', '1'))
    """
    module, network = open_target(target, meta=True, seed=options.get("seed", 0))
    origin = _origin(source, network, True, options)
    return _plan(origin, network, module, options)


def _origin(source: ModelLike, like: Network, meta: bool, options: Options) -> Origin:
    return open_origin(
        source,
        factory=options.get("factory"),
        like=like,
        meta=meta,
        seed=options.get("seed", 0),
        allow_nonfinite=options.get("allow_nonfinite", False),
    )


def _method(options: Options) -> Method:
    return customized(
        options.get("method", "graft"),
        options.get("standardizer"),
        options.get("scorer"),
        options.get("matcher"),
        options.get("operator"),
        options.get("exponent"),
        options.get("narrowing"),
        options.get("least_similarity"),
    )


def _plan(origin: Origin, network: Network, module: nn.Module | None, options: Options) -> Plan:
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise SpecError(f"unknown option {sorted(unknown)[0]!r} (valid: {', '.join(Options.__annotations__)})")
    for name in ("pins", "labels"):
        if not isinstance(options.get(name) or {}, Mapping):
            raise SpecError(f"{name} are a dict, target first: {{target: source}}")
    pins = Pins(
        tuple((options.get("pins") or {}).items()),
        _paths(options.get("exclude_target", ())),
        _paths(options.get("exclude_source", ())),
    )
    held = _kept(module), _kept(origin.module)
    looks = network.look, origin.network.look
    made = make_plan(
        network,
        origin.network,
        _method(options),
        options.get("method", "graft"),
        pins=pins,
        labels=options.get("labels"),
        groups=partial(_groups, held, looks, options.get("inputs")),
        alike=partial(_alike, *held),
        trainable=options.get("trainable", False),
        seed=options.get("seed", 0),
    )
    return replace(made, notes=(*origin.notes, *made.notes)) if origin.notes else made


def _paths(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return paths as a tuple; a single one may be given as it is."""
    return (given,) if isinstance(given, str) else tuple(given)


Held = Callable[[], nn.Module | None]


def _alike(target: Held, source: Held, name: str, other: str) -> bool:
    """Tell whether two buffers hold the same values, as far as that can be seen.

    What is the same for all units may be so for another number of them.
    """
    modules = target(), source()
    if modules[0] is None or modules[1] is None:
        return True
    a, b = map(_once, (modules[0].get_buffer(name), modules[1].get_buffer(other)))
    fit = a.ndim == b.ndim and all(t == s or 1 in (t, s) for t, s in zip(a.shape, b.shape, strict=True))
    known = fit and not a.is_meta and not b.is_meta
    return not known or torch.allclose(a.to(b), b, rtol=1e-6, equal_nan=True)


def _once(buffer: Tensor) -> Tensor:
    """Return a buffer without the units that repeat the first."""
    for axis, same in enumerate(uniform(buffer)[0]):
        buffer = buffer.narrow(axis, 0, 1) if same else buffer
    return buffer


def _kept(module: nn.Module | None) -> Held:
    """Return what gives a module as long as somebody else needs it: a plan must not keep its weights in memory."""
    if module is None or all(tensor.is_meta for tensor in module.parameters()):
        return lambda: module
    return weakref.ref(module)


def _groups(
    both: tuple[Held, Held], looks: tuple[Look | None, Look | None], inputs: Any
) -> tuple[AxisGroups, AxisGroups] | str:
    """Return the axis groups of target and source, or the reason why those of one are not known."""
    target, source = (held() for held in both)
    if target is None or source is None:  # the other one would be run for nothing
        return f"the {'target' if target is None else 'source'} is a table without code, so its couplings are not known"
    arguments, options = (None, None) if inputs is None else arguments_of(inputs)
    found = []
    for side, module, look in zip(("target", "source"), (target, source), looks, strict=True):
        try:
            found.append(known_groups(unwrap(module), look, arguments, options))
        except InputsError:
            return f"the {side} runs on no input that was guessed: pass inputs="
        except GraftError as error:  # a plan can be made without a run
            return f"the {side} could not be run: {error}"
        except Exception as error:
            error.add_note(f"torchgraft could not find the axis groups of the {side}: please report this")
            raise
    return found[0], found[1]


def apply(
    plan: Plan,
    source: ModelLike,
    target: nn.Module,
    *,
    operator: Operator | None = None,
    narrowing: Narrowing | None = None,
    factory: Factory | None = None,
    seed: int = 0,
    allow_nonfinite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Write the planned weights into ``target``, in place, and report what became of every tensor.

    Args:
        plan: from :func:`plan` or :meth:`Plan.from_json`.
        source: the weights that the plan was made for.
        target: the module that the plan was made for; one on the meta device is materialized.
        operator: the function behind a plan that was made with an operator of yours.
        narrowing: the function behind a plan that was made with a narrowing of yours.
        factory: the model that a state dict or a checkpoint belongs to.
        seed: seed of every random draw.
        allow_nonfinite: accept NaN and infinite weights in a file.
        progress: called with the path of every finished target layer.

    Raises:
        ApplyError: the plan does not fit; the target is untouched.
    """
    if isinstance(source, nn.Module) and factory is None:
        weights = module_weights(unwrap(source))
    else:
        weights = open_origin(source, factory=factory, seed=seed, allow_nonfinite=allow_nonfinite).weights()
    return _apply(plan, weights, target, operator, narrowing, seed, progress)


def _apply(
    plan: Plan,
    weights: Weights,
    target: nn.Module | None,
    operator: Operator | None,
    narrowing: Narrowing | None,
    seed: int,
    progress: Callable[[str], None] | None,
) -> Report:
    if not isinstance(target, nn.Module):
        raise ApplyError("the target has no code to hold weights: build the model and pass the module")
    if weights.checks:  # every value a file gives is read once before the first is written
        for key in {move.source.key: None for transfer in plan.transfers for move in transfer.moves}:
            weights.values(key)
    module = unwrap(target)
    return apply_plan(
        plan,
        weights.values,
        weights.shape_of,
        module,
        operator=operator,
        narrowing=narrowing,
        seed=seed,
        progress=progress,
    )


def transfer(
    source: ModelLike,
    target: nn.Module,
    *,
    progress: Callable[[str], None] | None = None,
    **options: Unpack[Options],
) -> Report:
    """Warm-start ``target`` from ``source``: :func:`plan`, then :func:`apply`.

    >>> from torch import nn
    >>> report = transfer(nn.Linear(4, 2), nn.Linear(4, 3))
    >>> report.counts(), report.coverage
    ({'resized': 2}, 0.6666666666666666)
    """
    if not isinstance(target, nn.Module):
        raise SpecError(
            f"the target is a {type(target).__name__}: transfer writes into a module, so build the model first"
        )
    module = unwrap(target)
    network = read_module(module)
    origin = _origin(source, network, False, options)
    made = _plan(origin, network, module, options)
    operator, narrowing = options.get("operator"), options.get("narrowing")
    own = None if isinstance(operator, str) else operator
    rule = None if isinstance(narrowing, str) else narrowing
    return _apply(made, origin.weights(), target, own, rule, options.get("seed", 0), progress)


def similarity(
    a: ModelLike,
    b: ModelLike,
    *,
    method: str = "graft",
    measure: str = "sim",
    exponent: float | None = None,
) -> float:
    """Say how alike two networks are, in [0, 1] (arXiv:2212.13970 eq. 4).

    Args:
        a: source of the directed measure.
        b: target of the directed measure.
        method: whose layers, scores and matching count.
        measure: ``"sim"``, the symmetric geometric mean, or ``"F"``, the share of ``b`` that ``a`` serves.
        exponent: ``x`` of ``f(d) = d**-x``.

    >>> from torch import nn
    >>> similarity(nn.Linear(4, 8), nn.Linear(4, 16)), similarity(nn.Linear(4, 8), nn.Linear(4, 8))
    (0.5, 1.0)
    """
    combine = choose(MEASURES, measure, "measure")
    target = open_target(b, meta=True)[1]
    source = open_origin(a, like=target, meta=True).network
    return combine(source, target, customized(method, exponent=exponent))


@dataclass(frozen=True, slots=True)
class Ranking:
    """One source in a ranking: its place in the given order, name, similarity, both directed scores, coverage.

    No model is run for a ranking, so the coverage is that of the match alone; coupling may change it a little.
    """

    index: int
    name: str
    similarity: float
    serves_target: float
    served_by_target: float
    coverage: float


def rank(
    target: ModelLike, sources: Sequence[ModelLike] | Mapping[str, ModelLike], *, method: str = "graft"
) -> list[Ranking]:
    """Rank sources for a target, best first: by similarity, then by coverage, then in the given order.

    >>> from torch import nn
    >>> [entry.index for entry in rank(nn.Linear(4, 8), [nn.Linear(4, 64), nn.Linear(4, 10)])]
    [1, 0]
    """
    if isinstance(sources, str | os.PathLike):
        raise SpecError(f"the sources are a list or a dict, not one name: give [{os.fspath(sources)!r}]")
    network = open_target(target, meta=True)[1]
    chosen = customized(method)
    named = list(sources.items()) if isinstance(sources, Mapping) else [("", source) for source in sources]
    rows = []
    for index, (name, source) in enumerate(named):
        other = open_origin(source, like=network, meta=True).network
        forward, back = both_directions(other, network, chosen)
        coverage = make_plan(network, other, chosen, method).coverage
        rows.append(Ranking(index, name or other.name, (forward * back) ** 0.5, forward, back, coverage))
    return sorted(rows, key=lambda row: (-row.similarity, -row.coverage, row.index))
