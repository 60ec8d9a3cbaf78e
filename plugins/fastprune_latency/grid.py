"""Which widths to measure, and the curve through what was measured."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

FEW = 16  # so many units are measured one by one
CERTAIN = 1.5  # times the errors together: what is no bend but noise
COARSE = 12  # points of the first grid otherwise


def coarse_grid(units: int, step: int) -> list[int]:
    """The numbers of units to begin with: all of few, else 0, some small ones, and even distances up to all.

    Args:
        units: Of the group.
        step: What the hardware rounds up to; other numbers than its multiples are left out, but for ``units`` itself.
    """
    if units <= FEW:
        return list(range(units + 1))
    even = [units * part / COARSE for part in range(COARSE + 1)]
    small = [even[1] / 4, even[1] / 2]
    return sorted({0, units, *(min(units, max(1, round(kept / step)) * step) for kept in (*even[1:], *small))})


def bends(costs: Mapping[int, float], errors: Mapping[int, float], step: int, *, tolerance: float) -> list[int]:
    """Widths to measure further: the middle of the distances on both sides of each bend.

    A point bends the curve where it lies further than ``tolerance``, relative to the whole curve's rise, from the line
    between its neighbours, and further than measurements are off.

    Args:
        costs: By the number of units, what was measured.
        errors: How far each may be off.
        step: What the hardware rounds up to.
        tolerance: What is no bend yet.
    """
    kept = sorted(costs)
    rise = max(costs.values()) - min(costs.values())
    wanted: set[int] = set()
    for left, here, right in zip(kept, kept[1:], kept[2:], strict=False):
        line = float(np.interp(here, (left, right), (costs[left], costs[right])))
        unsure = CERTAIN * (errors[here] + (errors[left] + errors[right]) / 2)
        if abs(costs[here] - line) > max(tolerance * rise, unsure):
            wanted |= {middle(left, here, step), middle(here, right, step)}
    return sorted(wanted - set(kept))


def middle(left: int, right: int, step: int) -> int:
    """The multiple of ``step`` nearest to the middle that lies strictly between; ``left`` where there is none."""
    found = (left + right) // 2 // step * step
    found = found + step if found <= left else found
    return found if left < found < right else left


def rising(kept: Sequence[int], costs: Sequence[float]) -> list[float]:
    """The nearest curve that never falls and starts at 0, by isotonic regression.

    Args:
        kept: The numbers of units, rising.
        costs: What was measured above no units, with noise.
    """
    from scipy.optimize import isotonic_regression  # takes seconds

    assert all(one < other for one, other in pairwise(kept))
    smooth = isotonic_regression(np.asarray(costs, dtype=float)).x
    return [0.0, *(max(0.0, float(cost)) for cost in smooth[1:])]
