"""The search for any cost table: a multiple-choice knapsack over damage curves."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastprune import Context, CostTable, Mask, Scores, Searcher, UsageError, option, track

VARIANTS = ((1.0, 0.0), (2 / 3, 0.0), (2 / 3, 1.0), (2 / 3, 2.0))
"""Of several tries: what the power is multiplied by, and what is added to the tilt; each goes farther than the one before."""


@dataclass(frozen=True, kw_only=True)
class KnapsackSearcher(Searcher):
    """How many units of each group to keep so that the damage is least, for a table of any shape (METHOD 2).

    A group's damage curve D_g(k) is the scorer's, or, where it has none, the importance of all but the k most important
    units. The budget above the cheapest choice of every group is cut into buckets and costs are rounded up to whole
    ones, so that the budget is never exceeded; dynamic programming then finds the best choice of counts, whole
    sublayers dropped included, and what rounding left of the budget buys what it can.

    How the damage of different groups adds up is open (METHOD 2). Raised to a power below 1 it is shared evenly; above 1, it
    goes where curves are flattest. With a tilt above 0 late groups are spared: what early ones lose, the layers above them
    can still make up for. With ``tries`` there are as many knapsacks, at powers and tilts around these.
    """

    name: ClassVar[str] = "knapsack"
    formula: ClassVar[str] = "minimise sum_g D_g(k_g) over the counts k, with sum_g cost_g(k_g) <= budget"
    paper: ClassVar[str] = "Frantar and Alistarh (SPDY), ICML 2022, https://arxiv.org/abs/2201.13096"
    resolution: int = option(8192, help="Into how many buckets the budget is cut.")
    power: float = option(1.0, help="The damage of each group is raised to it before it is added up.")
    tilt: float = option(0.0, help="The last group's damage counts 2^tilt times as much as the first's.")
    tries: int = option(
        1, help="How many powers and tilts to try; each is tuned in draft and compared with the dense model."
    )
    draft_share: float = option(
        0.25,
        help="The part of the calibration set that drafts are tuned on, at most 0.5; where masks leave little, up to 0.5 is taken.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.tries <= len(VARIANTS) or self.power <= 0:
            raise UsageError(
                f"The searcher 'knapsack' needs 1 to {len(VARIANTS)} tries and a power above 0; got "
                f"tries={self.tries}, power={self.power:g}."
            )
        if not 0 < self.draft_share <= 0.5:
            raise UsageError(
                f"The searcher 'knapsack' needs a draft_share above 0 and at most 0.5; got {self.draft_share:g}."
            )
        if self.resolution < 1:
            raise UsageError(f"The searcher 'knapsack' needs a resolution of at least 1 bucket; got {self.resolution}.")

    def variants(self) -> Sequence[Searcher]:
        """This one's own power and tilt first, so that they win a tie."""
        return [
            dataclasses.replace(self, power=self.power * ratio, tilt=self.tilt + added, tries=1)
            for ratio, added in VARIANTS[: self.tries]
        ]

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        last = max(1, len(scores.importance) - 1)
        damage = {
            name: scores.damage_of(name).double().pow(self.power) * 2 ** (self.tilt * place / last)
            for place, name in enumerate(scores.importance)
        }
        budget = budget * (1 + 1e-12)  # for sums of costs that are no whole numbers
        counts = {name: table.numel() - 1 for name, table in costs.groups.items()}
        if costs.of(counts) > budget:
            counts = least_damage(damage, costs, budget, self.resolution)
            spend_rest(counts, damage, costs, budget)
        return Mask.top(scores.importance, counts)


def least_damage(damage: dict[str, Tensor], costs: CostTable, budget: float, resolution: int) -> dict[str, int]:
    """The counts of least total damage whose rounded-up costs fit the budget.

    Args:
        damage: By the name of the group, [units + 1].
        costs: What each count costs.
        budget: In the table's measure; at least its floor.
        resolution: Into how many buckets what the budget leaves above the floor is cut.
    """
    bucket = (budget - costs.floor) / resolution
    best = np.zeros(resolution + 1)  # [buckets + 1], the least damage with so many to spend
    total, better = np.empty_like(best), np.empty(resolution + 1, dtype=bool)
    choices: list[tuple[str, Tensor, NDArray[np.int64]]] = []
    for name, table in track(list(costs.groups.items()), "searching"):
        above = table - table.min()
        buckets = torch.where(above > 0, (above / bucket).ceil() if bucket > 0 else torch.inf, 0.0)
        least = np.full_like(best, np.inf)
        chosen = np.zeros(resolution + 1, dtype=np.int64)
        for count in _worth_choosing(buckets, damage[name], resolution):
            spent = int(buckets[count])
            here = slice(0, resolution + 1 - spent)
            np.add(best[here], float(damage[name][count]), out=total[here])
            np.less(total[here], least[spent:], out=better[here])
            np.copyto(least[spent:], total[here], where=better[here])
            np.copyto(chosen[spent:], count, where=better[here])
        best = least
        choices.append((name, buckets, chosen))
    left, found = resolution, {}
    for name, buckets, chosen in reversed(choices):
        found[name] = int(chosen[left])
        left -= int(buckets[found[name]])
    return {name: found[name] for name in costs.groups}


def _worth_choosing(buckets: Tensor, damage: Tensor, resolution: int) -> list[int]:
    """The counts that fit and that no other count of at most their cost beats, the cheapest first."""
    order = sorted(range(len(buckets)), key=lambda count: (float(buckets[count]), float(damage[count])))
    kept: list[int] = []
    for count in order:
        if float(buckets[count]) > resolution:
            break
        if not kept or float(damage[count]) < float(damage[kept[-1]]):
            kept.append(count)
    return kept


def spend_rest(counts: dict[str, int], damage: dict[str, Tensor], costs: CostTable, budget: float) -> None:
    """Change counts, one group at a time, to whatever lowers the damage most within the budget, until nothing does."""
    rest = budget - costs.of(counts)
    while True:
        best, gain = ("", 0), 0.0
        for name, table in costs.groups.items():
            now = counts[name]
            gains = torch.where(table - table[now] <= rest, damage[name][now] - damage[name], -torch.inf)
            top = int(gains.argmax())
            if float(gains[top]) > gain:
                best, gain = (name, top), float(gains[top])
        if not best[0]:
            return
        name, top = best
        counts[name] = top
        rest = budget - costs.of(counts)
