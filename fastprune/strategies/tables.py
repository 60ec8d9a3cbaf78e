"""Measured cost tables: curves over the number of kept units, the conditions of the measurement, and the table's file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastprune.errors import TableError
from fastprune.files import check_file, json_text, library_versions, write_text
from fastprune.strategies.costs import Conditions, CostTable
from fastprune.units.groups import Group, Groups
from fastprune.untrusted import read_json

FORMAT = "fastprune cost table"
FORMAT_VERSION = 1
MOST_UNITS = 10_000_000
"""More units than any sublayer has."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Measured cost of keeping 0..units in sublayers of one shape.

    Attributes:
        kind: Kind of the group's block: ``attention`` or ``ffn``.
        units: Number of units of each group.
        width: Number of features of a unit.
        hidden: Number of output features of the consumer.
        groups: Names of the groups with this shape.
        kept: Measured numbers of units, rising, from 0 to ``units``.
        cost: Cost of one group at each of them; never falling, 0 at 0.
        spread: Interquartile range of each measurement, relative to its median.
        step: Only multiples of this number were measured, because the hardware rounds up to them; a number in between costs as
            much as the next multiple.
    """

    kind: str
    units: int
    width: int
    hidden: int
    groups: tuple[str, ...]
    kept: tuple[int, ...]
    cost: tuple[float, ...]
    spread: tuple[float, ...] = ()
    step: int = 1

    def costs(self) -> torch.Tensor:
        """The cost of keeping 0..units, interpolated linearly between the measurements: [units + 1] float64."""
        wanted = np.arange(self.units + 1)
        rounded = np.minimum(-(-wanted // self.step) * self.step, self.units)
        return torch.from_numpy(np.interp(rounded, self.kept, self.cost))


@dataclass(frozen=True, kw_only=True)
class MeasuredTable:
    """The measured costs of one model under given conditions.

    Attributes:
        measure: Unit of the costs, such as ``ms``.
        fixed: Cost of everything that cannot be pruned: embeddings, LayerNorms, head.
        curves: One curve for each distinct shape of a sublayer.
        conditions: Conditions of the measurement.
        model: Type and class of the measured model.
        check: Predicted and measured cost of a model with about half of the units.
        versions: Versions of the libraries that it was measured with.
    """

    measure: str
    fixed: float
    curves: tuple[Curve, ...]
    conditions: Conditions
    model: Mapping[str, str] = field(default_factory=dict)
    check: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=library_versions)

    @property
    def total(self) -> float:
        """The cost of the whole model."""
        return self.fixed + sum(curve.cost[-1] * len(curve.groups) for curve in self.curves)

    def differences(self, conditions: Conditions) -> list[str]:
        """Differences of the table's conditions from the requested ones, as phrases for messages."""
        return [
            f"{name} is {_say(self.conditions.get(name))} in the table and {_say(wanted)} here"
            for name, wanted in conditions.items()
            if self.conditions.get(name) != wanted
        ]

    def misfits(self, groups: Groups) -> list[str]:
        """Differences of the model from the measured one, as phrases for messages. A model with fewer units fits."""
        curves = {name: curve for curve in self.curves for name in curve.groups}
        missing = [group.name for group in groups if group.name not in curves]
        extra = sorted(set(curves) - {group.name for group in groups})
        found = []
        if missing:
            found.append(f"it lacks {_some(missing)} of the model")
        if extra:
            found.append(f"it has {_some(extra)}, which the model has not")
        for group in (group for group in groups if group.name in curves):
            found += _misfits(curves[group.name], group)
        return found

    def costs(self, groups: Groups) -> CostTable:
        """The cost table of a model's groups, interpolated for every number of units.

        Raises:
            TableError: The table belongs to another model; the message lists the differences.
        """
        misfits = self.misfits(groups)
        if misfits:
            raise TableError(
                f"The cost table was measured on another model ({' '.join(self.model.values())}): {_list(misfits)}. "
                "Measure this one: fastprune measure MODEL --output FILE."
            )
        units = {group.name: group.units for group in groups}
        filled = {name: curve.costs() for curve in self.curves for name in curve.groups}
        return CostTable(
            measure=self.measure,
            groups={group.name: filled[group.name][: units[group.name] + 1].clone() for group in groups},
            fixed=self.fixed,
            conditions=dict(self.conditions),
        )

    def require(self, conditions: Conditions) -> None:
        """Check that the table was measured under the given conditions.

        Raises:
            TableError: Conditions differ; the message lists all of them.
        """
        differences = self.differences(conditions)
        if differences:
            raise TableError(
                f"The cost table was measured for something else: {_list(differences)}. Measure again, or leave out "
                "what the table is to decide."
            )

    def to_json(self) -> str:
        """The contents of the file that ``save`` writes."""
        return json_text({"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}, indent=1)

    def save(self, path: str | Path) -> Path:
        """Write the table as JSON; an interrupted call leaves no partial file.

        Raises:
            UsageError: The file cannot be written, or exists and is not a cost table.
        """
        return write_text(check_file(path, mark=FORMAT.encode()), self.to_json() + "\n")

    @staticmethod
    def read(path: str | Path) -> MeasuredTable:
        """Read a file that ``save`` wrote.

        Raises:
            TableError: The file does not exist, is broken or has a newer format, or a curve has gaps.
        """
        try:
            data = read_json(path)
        except OSError as error:
            raise TableError(f"The cost table {path} cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise TableError(f"The cost table {path} is broken: {error}. Measure it again.") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise TableError(f"{path} is no cost table; fastprune measure MODEL --output FILE makes one.")
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise TableError(
                f"The cost table {path} has format {version}; this fastprune reads {FORMAT_VERSION}. Measure it again."
            )
        try:
            curves = tuple(_curve(curve) for curve in data["curves"])
            table = MeasuredTable(
                measure=str(data["measure"]),
                fixed=float(data["fixed"]),
                curves=curves,
                conditions=dict(data["conditions"]),
                model={str(name): str(value) for name, value in dict(data["model"]).items()},
                check={str(name): float(value) for name, value in dict(data["check"]).items()},
                versions={str(name): str(value) for name, value in dict(data.get("versions", {})).items()},
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise TableError(f"The cost table {path} is broken: {type(error).__name__}: {error}.") from error
        problems = [problem for curve in curves for problem in _gaps(curve)]
        if not (math.isfinite(table.fixed) and table.fixed >= 0):
            problems.append(f"the fixed cost is {table.fixed}")
        repeated = [name for name, count in _counted(curves).items() if count > 1]
        if repeated:
            problems.append(f"{_some(repeated)} stands in two curves")
        if problems:
            raise TableError(f"The cost table {path} is broken: {_list(problems)}. Measure it again.")
        return table


def _curve(data: Mapping[str, Any]) -> Curve:
    return Curve(
        kind=str(data["kind"]),
        units=int(data["units"]),
        width=int(data["width"]),
        hidden=int(data["hidden"]),
        groups=tuple(str(name) for name in data["groups"]),
        kept=tuple(int(kept) for kept in data["kept"]),
        cost=tuple(float(cost) for cost in data["cost"]),
        spread=tuple(float(spread) for spread in data["spread"]),
        step=int(data["step"]),
    )


def _gaps(curve: Curve) -> list[str]:
    """Errors in a curve that leave the cost of some number of units undefined, as phrases for messages."""
    who = f"the curve of {_some(curve.groups)}"
    if curve.units > MOST_UNITS:
        return [f"{who} has {curve.units} units"]
    if len(curve.kept) != len(curve.cost):
        return [f"{who} has {len(curve.cost)} costs for {len(curve.kept)} widths"]
    if not curve.kept or curve.kept[0] != 0 or curve.kept[-1] != curve.units:
        ends = f"{curve.kept[0]} to {curve.kept[-1]}" if curve.kept else "nothing"
        return [f"{who} goes from {ends} units, and must go from 0 to {curve.units}"]
    if any(one >= other for one, other in itertools.pairwise(curve.kept)):
        return [f"the widths in {who} do not rise"]
    if curve.step < 1:
        return [f"{who} has the step {curve.step}"]
    if not all(math.isfinite(cost) and cost >= 0 for cost in curve.cost):
        return [f"{who} has costs that are negative or not finite"]
    if any(one > other for one, other in itertools.pairwise(curve.cost)):
        return [f"{who} says that more units cost less"]
    return []


def _misfits(curve: Curve, group: Group) -> list[str]:
    pairs = [("features a unit", curve.width, group.width), ("hidden features", curve.hidden, group.hidden)]
    found = [
        f"'{group.name}' has {here} {what}, and {there} in the table" for what, there, here in pairs if there != here
    ]
    if curve.kind != group.kind:
        found.append(f"'{group.name}' is {group.kind}, and {curve.kind} in the table")
    if curve.units < group.units:
        found.append(f"'{group.name}' has {group.units} units, and the table goes up to {curve.units}")
    return found


def _counted(curves: tuple[Curve, ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in (name for curve in curves for name in curve.groups):
        counts[name] = counts.get(name, 0) + 1
    return counts


def _say(value: Any) -> str:
    return "not known" if value is None else str(value)


def _some(names: list[str] | tuple[str, ...]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else "no group"


def _list(parts: list[str], most: int = 5) -> str:
    return "; ".join(parts[:most]) + (f"; and {len(parts) - most} more" if len(parts) > most else "")
