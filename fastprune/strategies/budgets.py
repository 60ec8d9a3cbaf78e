"""Budgets: parsing of budgets given as numbers, text or mappings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from fastprune.errors import BudgetError

if TYPE_CHECKING:
    from fastprune.strategies.costs import CostTable

Budget = float | str | Mapping[str, float | str]
"""A fraction of the dense model's cost; text such as ``0.5``, ``latency=0.6,params=0.7`` or ``latency=3.5ms``; or the
fraction, or the amount as text, by the name of each cost model."""

MOST = 1000
"""Budgets of a sweep."""
BYTES = "bytes"
SIZES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
"""Bytes of each unit of a size, in small letters."""


@dataclass(frozen=True)
class BudgetRequest:
    """A budget for one cost: a share of the dense model's cost, or an amount with a unit such as ``ms``."""

    number: float
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.unit and not 0 < self.number <= 1:
            percent = f"; {self.number:g} % is {self.number / 100:g}" if 1 < self.number < 100 else ""
            raise BudgetError(
                f"The budget must be a fraction of the dense model's cost, above 0 and at most 1; got {self.number:g}{percent}."
            )
        if not 0 < self.number < float("inf"):
            raise BudgetError(f"The budget must be above 0; got {self.number:g} {self.unit}.")

    def share(self, table: CostTable) -> float:
        """The budget as a fraction of the table's total, at most 1: a model already below the budget is left unchanged.

        Raises:
            BudgetError: The table has another unit.
        """
        if not self.unit:
            return self.number
        self.check_unit(table.measure)
        return min(1.0, self.number / table.total)

    def check_unit(self, measure: str) -> None:
        """Raise ``BudgetError`` if the budget is an amount, and its unit is not that of the cost."""
        if self.unit and self.unit.lower() != measure.lower():
            sizes = BYTES in (self.unit, measure)
            advice = "size=25MB, or a fraction" if sizes else f"{self.number:g}{measure}, or a fraction"
            raise BudgetError(
                f"The budget of {amount(self.number, self.unit)} {'' if sizes else f'{self.unit} '}is for a cost in {measure}; say "
                f"{advice}."
            )


def amount(number: float, measure: str) -> str:
    """A cost in words: bytes in megabytes, all else without its unit."""
    return f"{number / SIZES['mb']:.4g} MB" if measure == BYTES else f"{number:.4g}"


def read_budget(budget: Budget) -> dict[str, BudgetRequest]:
    """Parse a budget into requests by cost model name; the name is empty for a budget without a name.

    Raises:
        BudgetError: A value is neither a fraction (above 0 and at most 1) nor an amount, or the list is malformed.
    """
    if isinstance(budget, str) and "=" in budget:
        pairs = [part.partition("=") for part in budget.split(",")]
        names = [name.strip() for name, _, _ in pairs]
        if len(set(names)) < len(names) or not all(names):
            raise BudgetError(
                f"Every cost may be named once in a budget, such as latency=0.6,params=0.7; got '{budget}'."
            )
        return {name.strip(): _asked(text) for name, _, text in pairs}
    if isinstance(budget, Mapping):
        if not budget or not all(isinstance(name, str) for name in budget):
            raise BudgetError(f"The budget must name costs, such as {{'latency': 0.5}}; got {budget!r}.")
        return {name: _asked(each) for name, each in budget.items()}
    return {"": _asked(budget)}


def read_budgets(text: str) -> list[float]:
    """Parse several budgets: ``0.9,0.5`` or ``0.9:0.2:0.1`` (from, to, step, both ends included).

    Raises:
        BudgetError: The text has neither of these forms, or a budget is invalid.
    """
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            count = round(abs(first - last) / abs(step))
            if count >= MOST:
                raise BudgetError(
                    f"The step of the budgets {text} gives {count + 1:,} of them; at most {MOST:,} are allowed."
                )
            sign = 1 if last >= first else -1
            found = [round(first + sign * abs(step) * at, 10) for at in range(count + 1)]
        else:
            found = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BudgetError(f"Budgets are given as 0.9,0.5,0.3 or as 0.9:0.2:0.1 (from:to:step); got {text}.") from error
    for budget in found:
        read_budget(budget)
    return list(dict.fromkeys(found))


def _asked(value: object) -> BudgetRequest:
    if isinstance(value, bool) or not isinstance(value, (str, Real)):
        raise BudgetError(
            f"The budget must be a fraction such as 0.5, an amount such as '3.5ms', or one of these by the name of each cost; "
            f"got {value!r}."
        )
    found = (
        re.fullmatch(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    )
    try:
        if found and found[2].lower() in SIZES:
            return BudgetRequest(float(found[1]) * SIZES[found[2].lower()], BYTES)
        return BudgetRequest(float(found[1]), found[2]) if found else BudgetRequest(float(value))
    except (ValueError, OverflowError) as error:
        raise BudgetError(
            f"The budget '{value}' is no number; give a fraction such as 0.5, costs by name such as "
            "latency=0.6,params=0.7, or an amount such as latency=3.5ms."
        ) from error
