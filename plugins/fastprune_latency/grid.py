"""The grid of widths to measure, its refinement at bends, and the monotone curve through the measurements."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

FEW = 16  # up to this many units, every width is measured
CERTAIN = 1.5  # a deviation below this many times the combined measurement errors is noise
COARSE = 12  # intervals of the first grid for more than FEW units


def coarse_grid(units: int, step: int) -> list[int]:
    """The first widths to measure: all widths of a small group, else 0, two small ones, and an even grid up to ``units``.

    Args:
        units: Number of units of the group.
        step: Granularity of the hardware in units; only its multiples and ``units`` itself are measured.

    Returns:
        Numbers of units, rising.
    """
    if units <= FEW:
        return list(range(units + 1))
    even = [units * part / COARSE for part in range(COARSE + 1)]
    small = [even[1] / 4, even[1] / 2]
    return sorted({0, units, *(min(units, max(1, round(kept / step)) * step) for kept in (*even[1:], *small))})


def bends(costs: Mapping[int, float], errors: Mapping[int, float], step: int, *, tolerance: float) -> list[int]:
    """The next widths to measure: the midpoints of the intervals on both sides of each bend.

    A point is a bend if its distance from the line between its neighbours exceeds both ``tolerance`` times the rise of the
    whole curve and the measurement errors.

    Args:
        costs: Measured cost by number of units.
        errors: Measurement error of each cost.
        step: Granularity of the hardware in units.
        tolerance: Largest deviation that is not a bend, relative to the rise of the curve.

    Returns:
        Numbers of units without a measurement, rising; empty if there is no bend.
    """
    kept = sorted(costs)
    rise = max(costs.values()) - min(costs.values())
    widths: set[int] = set()
    for left, point, right in zip(kept, kept[1:], kept[2:], strict=False):
        line = float(np.interp(point, (left, right), (costs[left], costs[right])))
        noise = CERTAIN * (errors[point] + (errors[left] + errors[right]) / 2)
        if abs(costs[point] - line) > max(tolerance * rise, noise):
            widths |= {middle(left, point, step), middle(point, right, step)}
    return sorted(widths - set(kept))


def middle(left: int, right: int, step: int) -> int:
    """A multiple of ``step`` strictly between ``left`` and ``right``, near their midpoint; ``left`` if there is none."""
    multiple = (left + right) // 2 // step * step
    multiple = multiple + step if multiple <= left else multiple
    return multiple if left < multiple < right else left


def rising(kept: Sequence[int], costs: Sequence[float]) -> list[float]:
    """Fit the closest non-decreasing curve that starts at 0, by isotonic regression.

    Args:
        kept: Numbers of units, strictly rising.
        costs: Measured costs above the cost of no units, with noise.

    Returns:
        The costs of the curve at ``kept``, the first of them 0.
    """
    from scipy.optimize import isotonic_regression  # imported here because it takes seconds

    assert all(one < other for one, other in pairwise(kept))
    smooth = isotonic_regression(np.asarray(costs, dtype=float)).x
    return [0.0, *(max(0.0, float(cost)) for cost in smooth[1:])]
