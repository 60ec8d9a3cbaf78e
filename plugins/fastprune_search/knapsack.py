"""Search for any cost table: a multiple-choice knapsack over damage curves."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastprune import option, track
from fastprune.strategies import Context, CostTable, Scores, Searcher, SizedSearcher
from fastprune.units import Mask

RESOLUTION = 8192  # buckets that the budget is divided into
VARIANTS = ((2 / 3, 0.0), (2 / 3, 1.0), (2 / 3, 2.0))
"""Power and tilt of the masks after the first, from the most conventional to the most extreme."""


@dataclass(frozen=True, kw_only=True)
class KnapsackSearcher(SizedSearcher):
    """Choose how many units of each group to keep so that the total damage is minimal, for a cost table of any shape.

    The damage curve D_g(k) is the scorer's; for a scorer without curves, the total importance of all but the k most important
    units. The budget above the cheapest count of every group is divided into buckets and costs are rounded up to whole
    buckets, so the budget is never exceeded. Dynamic programming finds the best counts, dropped sublayers included; the
    budget left by rounding is then spent greedily (docs/method.md, section 5.2).

    Whether per-layer errors simply add is unknown. With ``tries``, further knapsacks weight the damage (``WeightedSearcher``);
    the pipeline tunes each mask quickly and keeps the best.
    """

    name: ClassVar[str] = "knapsack"
    formula: ClassVar[str] = "minimise sum_g D_g(k_g) over the counts k, with sum_g cost_g(k_g) <= budget"
    paper: ClassVar[str] = "Frantar and Alistarh (SPDY), ICML 2022, https://arxiv.org/abs/2201.13096"
    tries: int = option(
        1,
        at_least=1,
        at_most=1 + len(VARIANTS),
        help="Number of masks to try, with differently weighted damage; each is tuned quickly, the one closest to the dense "
        "model is kept.",
    )

    def variants(self) -> Sequence[Searcher]:
        """The searchers to try, unweighted damage first, so that it wins a tie."""
        further = VARIANTS[: self.tries - 1]
        return [self, *(WeightedSearcher(power=power, tilt=tilt) for power, tilt in further)]

    def quick(self) -> Searcher:
        return dataclasses.replace(self, tries=1)

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        return WeightedSearcher(power=1.0, tilt=0.0).search(scores, costs, budget, context)


@dataclass(frozen=True, kw_only=True)
class WeightedSearcher(Searcher):
    """A knapsack with weighted damage, one of the candidates of ``knapsack``; it is not registered.

    Attributes:
        power: Exponent of each group's damage before the sum over groups. Below 1 it spreads pruning evenly over layers; above
            1 it concentrates it where the curves are flat.
        tilt: The last group's damage counts 2^tilt times as much as the first's. Above 0 it spares late layers, because layers
            above an early one can still compensate its error.
    """

    name: ClassVar[str] = "knapsack"
    power: float
    tilt: float

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        last = max(1, len(scores.importance) - 1)
        damage = {
            name: scores.damage_of(name).double().pow(self.power) * 2 ** (self.tilt * place / last)
            for place, name in enumerate(scores.importance)
        }
        budget = budget * (1 + 1e-12)  # slack for rounding: a budget equal to the total cost keeps every unit
        counts = {name: table.numel() - 1 for name, table in costs.groups.items()}
        if costs.of(counts) > budget:
            counts = least_damage(damage, costs, budget, RESOLUTION)
            spend_rest(counts, damage, costs, budget)
        return Mask.top(scores.importance, counts)


def least_damage(damage: dict[str, Tensor], costs: CostTable, budget: float, resolution: int) -> dict[str, int]:
    """Find the counts of minimal total damage whose rounded-up costs fit the budget.

    Args:
        damage: Damage by group name and number of units kept, each [units + 1].
        costs: Cost by group name and number of units kept.
        budget: In the table's measure; at least its floor.
        resolution: Number of buckets for the part of the budget above the floor.

    Returns:
        Units kept by group name.
    """
    bucket = (budget - costs.floor) / resolution
    best = np.zeros(resolution + 1)  # [buckets + 1], the minimal damage with 0, 1, ... buckets to spend
    total, better = np.empty_like(best), np.empty(resolution + 1, dtype=bool)
    choices: list[tuple[str, Tensor, NDArray[np.int64]]] = []
    for name, table in track(list(costs.groups.items()), "searching"):
        above = table - table.min()
        buckets = torch.where(above > 0, (above / bucket).ceil() if bucket > 0 else torch.inf, 0.0)
        least = np.full_like(best, np.inf)
        chosen = np.zeros(resolution + 1, dtype=np.int64)
        for count in _worth_choosing(buckets, damage[name], resolution):
            spent = int(buckets[count])
            affordable = slice(0, resolution + 1 - spent)
            np.add(best[affordable], float(damage[name][count]), out=total[affordable])
            np.less(total[affordable], least[spent:], out=better[affordable])
            np.copyto(least[spent:], total[affordable], where=better[affordable])
            np.copyto(chosen[spent:], count, where=better[affordable])
        best = least
        choices.append((name, buckets, chosen))
    remaining, counts = resolution, {}
    for name, buckets, chosen in reversed(choices):
        counts[name] = int(chosen[remaining])
        remaining -= int(buckets[counts[name]])
    return {name: counts[name] for name in costs.groups}


def _worth_choosing(buckets: Tensor, damage: Tensor, resolution: int) -> list[int]:
    """The Pareto-optimal counts that fit the budget (no other count costs at most as much with less damage), cheapest first."""
    spent, lost = buckets.numpy(), damage.numpy()
    order = np.lexsort((lost, spent))  # by cost, then by damage
    order = order[spent[order] <= resolution]
    least = np.minimum.accumulate(lost[order])  # of this count and all cheaper ones
    return [int(count) for count in order[np.diff(least, prepend=np.inf) < 0]]


def spend_rest(counts: dict[str, int], damage: dict[str, Tensor], costs: CostTable, budget: float) -> None:
    """Change ``counts`` in place: repeat the one-group change that lowers the damage most within the budget until none does."""
    rest = budget - costs.of(counts)
    while True:
        best, gain = ("", 0), 0.0
        for name, table in costs.groups.items():
            count = counts[name]
            gains = torch.where(table - table[count] <= rest, damage[name][count] - damage[name], -torch.inf)
            top = int(gains.argmax())
            if float(gains[top]) > gain:
                best, gain = (name, top), float(gains[top])
        if not best[0]:
            return
        name, top = best
        counts[name] = top
        rest = budget - costs.of(counts)
