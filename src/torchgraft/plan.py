"""The plan and the report: what will be, and what was, done to every tensor of the target."""

from __future__ import annotations

__all__ = ["Plan", "Report", "as_plan"]

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from torchgraft.errors import PlanError
from torchgraft.forecast import Forecast, told
from torchgraft.records import (
    Fill,
    Followed,
    Move,
    Obstacle,
    Part,
    Passage,
    Setting,
    Stretch,
    TensorPlan,
    TensorSpec,
    Transfer,
    UnitMap,
)
from torchgraft.units import RULES
from torchgraft.view.text import STATUSES, render, summary_line, tensor_table
from torchgraft.windows import windows_of

_FORMAT = 3
_LISTS = ("maps", "settings", "fills", "passages", "followed")


@dataclass(frozen=True, slots=True)
class _Ledger:
    """Totals over the tensors of a target; they add up to its state dict."""

    tensors: tuple[TensorPlan, ...]

    @property
    def coverage(self) -> float:
        """Share of the target's elements that the source determines, in [0, 1]."""
        return sum(tensor.elements for tensor in self.tensors) / max(1, self.total)

    @property
    def total(self) -> int:
        """Elements of the target's state dict, tied tensors counted once."""
        return sum(tensor.size for tensor in self.tensors if tensor.tied is None)

    def counts(self) -> dict[str, int]:
        """Number of tensors by status."""
        found = Counter(tensor.status for tensor in self.tensors)
        return {status: found[status] for status in STATUSES if found[status]}


@dataclass(frozen=True, slots=True)
class Plan(_Ledger):
    """What :func:`torchgraft.apply` will do: pure data, made from names, kinds and shapes alone.

    ``score`` is the dynamic program's value, ``transfers`` the matched layers with the moves of their tensors,
    ``tensors`` one entry for every tensor of the target's state dict, ``notes`` what the plan had to leave open.
    ``maps`` pair the units of the groups of both networks; ``settings`` are attributes of modules that change too,
    ``fills`` the values of tensors that are silenced, ``passages`` new layers that give on what they read, ``followed``
    running statistics that follow what was cut. The plan of a report also holds which units were chosen by the weights.
    ``forecast`` tells whether the target will compute the source's function; it follows from both networks, so it is no
    part of what makes two plans equal.
    """

    method: str
    operator: str
    source: str
    target: str
    score: float
    transfers: tuple[Transfer, ...]
    notes: tuple[str, ...] = ()
    labels: tuple[tuple[int, int], ...] = ()
    maps: tuple[UnitMap, ...] = ()
    settings: tuple[Setting, ...] = ()
    fills: tuple[Fill, ...] = ()
    passages: tuple[Passage, ...] = ()
    followed: tuple[Followed, ...] = ()
    forecast: Forecast = field(default_factory=Forecast, compare=False, repr=False)

    fields: ClassVar[tuple[str, ...]] = ("method", "operator", "source", "target", "score", "notes", "labels")

    def __str__(self) -> str:
        head = f"{self.source} → {self.target} by {self.method}"
        notes = [f"note: {note}" for note in self.notes]
        told = self.forecast.lines()
        return render(head, tensor_table(self.tensors), summary_line(self.tensors), *told, *notes)

    def __repr__(self) -> str:
        return f"<Plan {self.source} → {self.target} by {self.method}: {summary_line(self.tensors)}>"

    @property
    def exact(self) -> bool | None:
        """Whether the target will compute the source's function; ``None`` where that is not known.

        Found out from shapes and one run without values of each model, when it is first asked.
        """
        return self.forecast.exact

    @property
    def obstacles(self) -> tuple[str, ...]:
        """What keeps it from that, in the order of the target's run, one sentence for each kind."""
        return told(self.forecast.obstacles or ())

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Matched layers as ``(source path, target path)``, in the order of the target."""
        return tuple((transfer.source, transfer.target) for transfer in self.transfers)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, ``obstacles`` and ``exact`` among it."""
        known = self.forecast.obstacles
        obstacles = None if known is None else [asdict(one) for one in known]
        return {**self._content(), "exact": self.exact, "obstacles": obstacles}

    def _content(self) -> dict[str, Any]:
        head = {name: getattr(self, name) for name in self.fields}
        transfers, tensors = [_transfer_data(one) for one in self.transfers], [asdict(one) for one in self.tensors]
        units = {name: [asdict(one) for one in getattr(self, name)] for name in _LISTS}
        return {"format": _FORMAT, **head, **units, "transfers": transfers, "tensors": tensors}

    def to_json(self) -> str:
        """Return the plan as JSON; :meth:`from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=1)

    def fingerprint(self) -> str:
        """Hash of the plan's content (sha256, hexadecimal): equal plans have equal fingerprints.

        Which units the source's weights have chosen is no part of it.
        """
        bare = replace(self, maps=tuple(one if one.how in RULES else replace(one, chosen=()) for one in self.maps))
        return hashlib.sha256(json.dumps(bare._content(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back from :meth:`to_json`.

        Raises:
            PlanError: the text is no plan, or one of another format.
        """
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise PlanError(f"the plan has format {data['format']}, this version reads {_FORMAT}: make it anew")
            return cls(
                tensors=tuple(_tensor_plan(entry) for entry in data["tensors"]),
                method=str(data["method"]),
                operator=str(data["operator"]),
                source=str(data["source"]),
                target=str(data["target"]),
                score=float(data["score"]),
                transfers=tuple(_transfer(entry) for entry in data["transfers"]),
                notes=tuple(map(str, data["notes"])),
                labels=tuple((int(t), int(s)) for t, s in data["labels"]),
                maps=tuple(map(_unit_map, data["maps"])),
                settings=tuple(Setting(one["path"], one["attribute"], float(one["value"])) for one in data["settings"]),
                fills=tuple(Fill(one["key"], float(one["value"])) for one in data["fills"]),
                passages=tuple(map(_passage, data.get("passages", ()))),
                followed=tuple(Followed(**{**one, "groups": int(one["groups"])}) for one in data["followed"]),
                forecast=Forecast(found=_obstacles(data["obstacles"])),
            )
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"this is not a plan written by Plan.to_json ({error!r}): make it anew") from None


@dataclass(frozen=True, slots=True)
class Report(_Ledger):
    """What was done: one entry for every tensor of the target's state dict; the totals add up."""

    plan: Plan

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.plan.method

    @property
    def source(self) -> str:
        """Name of the source."""
        return self.plan.source

    @property
    def target(self) -> str:
        """Name of the target."""
        return self.plan.target

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the plan that was applied."""
        return self.plan.fingerprint()

    def __str__(self) -> str:
        return render(f"{self.source} → {self.target} by {self.method}", tensor_table(self.tensors), self.summary())

    def __repr__(self) -> str:
        return f"<Report {self.source} → {self.target} by {self.method}: {self.summary()}>"

    def summary(self) -> str:
        """Return the totals in one line."""
        return summary_line(self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        head = {"method": self.method, "source": self.source, "target": self.target, "plan": self.fingerprint}
        totals = {"coverage": self.coverage, "elements": self.total, "counts": self.counts()}
        return {**head, **totals, "tensors": [asdict(tensor) for tensor in self.tensors]}


def as_plan(given: Plan | Report) -> Plan:
    """Return a plan, or that of a report, whose units are chosen."""
    return given.plan if isinstance(given, Report) else given


def _obstacles(data: list[dict[str, Any]] | None) -> tuple[Obstacle, ...] | None:
    return None if data is None else tuple(Obstacle(str(one["what"]), str(one["where"])) for one in data)


def _unit_map(data: dict[str, Any]) -> UnitMap:
    made = UnitMap(int(data["target"]), int(data["source"]), str(data["how"]), tuple(map(int, data["chosen"])))
    count = made.target if made.how not in RULES else min(made.target, len(made.chosen))
    if made.chosen and (len(made.chosen) != count or not 0 <= min(made.chosen) <= max(made.chosen) < made.source):
        raise ValueError(f"{len(made.chosen)} units were chosen for {made.target} of {made.source}")
    return made


def _spec(data: dict[str, Any]) -> TensorSpec:
    part = Part(**data["part"]) if data["part"] else None
    units = tuple(tuple(factors) for factors in data["units"])
    return TensorSpec(**{**data, "shape": tuple(data["shape"]), "part": part, "units": units})


def _transfer_data(transfer: Transfer) -> dict[str, Any]:
    """The transfer as plain data, without what follows from it."""
    data = asdict(replace(transfer, moves=tuple(replace(move, windows=None) for move in transfer.moves)))
    for move in data["moves"]:
        del move["windows"]
        if not move["fold"]:  # plans without any keep their fingerprints
            del move["fold"]
    return data


def _transfer(data: dict[str, Any]) -> Transfer:
    if not isinstance(data["kind"], str):
        raise TypeError(f"the kind of {data['target']} is {data['kind']!r}")
    moves = tuple(_move(move, data["kind"]) for move in data["moves"])
    return Transfer(**{**data, "moves": moves})


def _move(data: dict[str, Any], kind: str) -> Move:
    into, out_of, operator = _spec(data["target"]), _spec(data["source"]), str(data["operator"])
    prepare, lead = tuple(data["prepare"]), tuple(data["lead"])
    layout = tuple(tuple(_stretch(one) for one in axis) for axis in data["layout"])
    windows = None if prepare or layout else windows_of(kind, into, out_of, operator, lead)
    pads, factor = tuple(map(str, data["pads"])), float(data["factor"])
    scale, offset, fold = str(data.get("scale", "")), float(data.get("offset", 0.0)), str(data.get("fold", ""))
    elements = int(data["elements"])
    return Move(into, out_of, operator, elements, prepare, lead, layout, pads, factor, scale, offset, fold, windows)


def _passage(data: dict[str, Any]) -> Passage:
    history = tuple(tuple(map(str, step)) for step in data["history"])
    rows = {name: tuple(map(int, data[name])) for name in ("rows", "columns", "origin")}
    before, after = map(str, data["lifts"])
    return Passage(**{**data, **rows, "norm": tuple(data["norm"]), "history": history, "lifts": (before, after)})


def _stretch(data: dict[str, Any]) -> Stretch:
    return Stretch(int(data["into"]), int(data["out_of"]), tuple(map(int, data["maps"])))


def _tensor_plan(data: dict[str, Any]) -> TensorPlan:
    shape = data["source_shape"]
    return TensorPlan(**{
        **data,
        "shape": tuple(data["shape"]),
        "source": tuple(data["source"]),
        "source_shape": None if shape is None else tuple(shape),
    })  # fmt: skip
