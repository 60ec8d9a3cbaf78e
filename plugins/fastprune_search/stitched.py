"""Search on the real loss: stitched models, compared with the dense model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fastprune import option, track
from fastprune.reconstruction import Stitching
from fastprune.strategies import Context, CostTable, Job, Scores, Searcher, SizedSearcher, Work
from fastprune.units import Mask
from fastprune_search.knapsack import RESOLUTION, VARIANTS, KnapsackSearcher, WeightedSearcher, least_damage, spend_rest

log = logging.getLogger(__name__)

STEP = 8  # the first round's levels are units / STEP apart; each further round halves that
LEVELS = 5  # numbers of units of each group that a round solves for
REGRESSION = 5.0  # operations of a regression with several ridge strengths, in cubes of its features
PENALTIES = (0.0, 0.25, 1.0)
"""What a change of a group has to gain beside its own estimate, as a multiple of the mean size of the measured differences: the
steps from the boldest to the most careful."""


@dataclass(frozen=True, kw_only=True)
class StitchedSearcher(SizedSearcher):
    """Start from the damage curves and move units between groups as long as the pruned model comes nearer to the dense one.

    A round solves the consumers of every group for a few numbers of units around the present ones, on inputs that are already
    pruned below. Models stitched together from them are compared with the dense model on held-back samples: what each group
    loses or wins by a level less or more is measured on the whole model. A knapsack over these levels proposes the next model,
    which is taken if it is nearer. The next round solves again, with levels half as far apart (docs/method.md, section 5.6).

    Where a search has no models at hand, the first proposal is the result.
    """

    name: ClassVar[str] = "stitched"
    formula: ClassVar[str] = "minimise KL(dense || stitched(k)) over the counts k, with sum_g cost_g(k_g) <= budget"
    paper: ClassVar[str] = "Li et al. (Tyr-the-Pruner), NeurIPS 2025: https://arxiv.org/abs/2503.09657"
    requires_models: ClassVar[bool] = True
    passes: float = option(
        30.0,
        above=0,
        at_most=1000,
        help="Most work, in forward passes of the dense model over the calibration set; all groups are measured once in any case.",
    )
    rounds: int = option(3, at_least=1, at_most=10, help="Number of times that the weights of the levels are solved.")

    def work(self, job: Job) -> Work:
        cubes = sum((job.share * group.features) ** 3 for group in job.groups.with_consumer)
        return Work(passes=self.passes, solves=(1 + self.rounds) * LEVELS * REGRESSION * cubes)

    def quick(self) -> Searcher:
        return KnapsackSearcher(form=self.form, multiple=self.multiple)

    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        starts = _starts(scores, costs, budget, context)
        if context.models is None or costs.of(starts[0]) >= costs.total:
            return Mask.top(scores.importance, starts[0])
        models = context.models
        stitching = Stitching(
            models.teacher,
            models.student,
            models.groups,
            models.batches,
            models.importance,
            states=context.states,
            shifts=context.new_biases,
            generator=context.generator,
        )
        problem = _Problem(scores, costs, budget * (1 + 1e-12), stitching, context)
        counts = problem.best_start(starts)
        for turn in track(range(self.rounds), "searching on the loss"):
            counts = problem.round(counts, STEP * 2**turn, self.passes)
            if stitching.spent >= self.passes:
                break
        return Mask.top(scores.importance, problem.filled(counts))


def _starts(scores: Scores, costs: CostTable, budget: float, context: Context) -> list[dict[str, int]]:
    """The counts of knapsacks over the damage curves, each once."""
    found: list[dict[str, int]] = []
    for power, tilt in ((1.0, 0.0), *VARIANTS[:2]):
        counts = WeightedSearcher(power=power, tilt=tilt).search(scores, costs, budget, context).counts()
        if counts not in found:
            found.append(counts)
    return found


@dataclass
class _Problem:
    """One search: its curves, costs and budget, and the stitched models.

    Attributes:
        slopes: By group, the measured loss of a level less (if it has none, gain of a level more) as a multiple of what the damage
            curve says.
    """

    scores: Scores
    costs: CostTable
    budget: float
    stitching: Stitching
    context: Context
    slopes: dict[str, float] = field(default_factory=dict)

    def loss(self, counts: Mapping[str, int]) -> float:
        return self.stitching.loss(self._of_groups(counts))

    def best_start(self, starts: Sequence[Mapping[str, int]]) -> dict[str, int]:
        """The counts of the least loss, with weights solved on inputs pruned by the first."""
        if len(starts) > 1:
            self.solve(starts[0], [{**starts[0], name: each[name]} for each in starts for name in each])
        losses = [self.loss(each) for each in starts] if len(starts) > 1 else [0.0]
        log.info("loss of the first proposals: %s", ", ".join(f"{loss:.4g}" for loss in losses))
        return dict(starts[losses.index(min(losses))])

    def solve(self, around: Mapping[str, int], others: Sequence[Mapping[str, int]]) -> None:
        """Solve the weights of all groups' numbers in some counts."""
        base = self._of_groups(around)
        wanted: dict[str, set[int]] = {name: set() for name in base}
        for counts in others:
            for name, count in self._of_groups(counts).items():
                wanted[name].add(count)
        self.stitching.solve(base, {name: sorted(each) for name, each in wanted.items()})

    def round(self, counts: dict[str, int], parts: int, passes: float) -> dict[str, int]:
        """Solve levels around the counts, and move within them as long as the loss falls."""
        levels = {name: self._levels(name, counts[name], parts) for name in counts}
        self.solve(counts, [{**counts, name: level} for name in counts for level in levels[name]])
        while True:
            least = self.stitching.settle(self._of_groups(counts))
            moves = [(name, level) for name in counts for level in self._next(levels[name], counts[name])]
            planned = sum(self.stitching.cost(self._of_groups({**counts, name: level})) for name, level in moves)
            if self.slopes and self.stitching.spent + planned > passes:
                return counts
            gains = self._measured(counts, moves, least)
            better = counts
            for proposal in self._proposals(counts, gains):
                loss = self.loss(proposal)
                if loss < least:
                    better, least = proposal, loss
            log.info("loss %.4g, %.3g passes", least, self.stitching.spent)
            if better is counts:
                return counts
            counts = self._further(counts, better, least, levels)

    def _further(
        self, before: Mapping[str, int], counts: dict[str, int], least: float, levels: Mapping[str, Sequence[int]]
    ) -> dict[str, int]:
        """The counts, moved on by the same steps as from those before as long as the loss falls and levels and budget allow."""
        while True:
            further = {name: self._beyond(levels[name], before[name], counts[name]) for name in counts}
            if further == counts or self.costs.of(further) > self.budget:
                return counts
            loss = self.loss(further)
            if loss >= least:
                return counts
            before, counts, least = counts, further, loss

    @staticmethod
    def _beyond(levels: Sequence[int], before: int, now: int) -> int:
        """The level as far behind ``now`` as that is behind ``before``; ``now`` itself if there is none."""
        place = 2 * levels.index(now) - levels.index(before)
        return levels[place] if 0 <= place < len(levels) else now

    def _levels(self, name: str, count: int, parts: int) -> list[int]:
        """Two numbers of units below and two above, evenly spaced, and the present one."""
        units = self.costs.groups[name].numel() - 1
        step = max(1, round(units / parts))
        return sorted({min(units, max(0, count + step * by)) for by in (-2, -1, 0, 1, 2)})

    @staticmethod
    def _next(levels: Sequence[int], now: int) -> list[int]:
        """The levels next to the present one: above, then below."""
        place = levels.index(now)
        return [*levels[place + 1 : place + 2], *levels[:place][-1:]]

    def _measured(
        self, counts: Mapping[str, int], moves: Sequence[tuple[str, int]], base: float
    ) -> dict[str, dict[int, float]]:
        """By group and number of units, how the loss ``base`` of the counts changes with each move; 0 for the present number."""
        found = {name: {now: 0.0} for name, now in counts.items()}
        for name, level in moves:
            found[name][level] = self.loss({**counts, name: level}) - base
            curve = self.scores.damage_of(name)
            expected = float(curve[level] - curve[counts[name]])
            if expected:
                self.slopes[name] = max(0.0, found[name][level] / expected)
        return found

    def _proposals(
        self, counts: Mapping[str, int], gains: Mapping[str, Mapping[int, float]]
    ) -> Iterator[dict[str, int]]:
        """Knapsacks over the levels, in which a change costs more and more beside its own estimate."""
        sizes = [abs(gain) for each in gains.values() for gain in each.values() if gain]
        mean = sum(sizes) / max(1, len(sizes))
        choices = {name: torch.tensor(sorted(each)) for name, each in gains.items()}
        table = CostTable(
            measure=self.costs.measure,
            groups={name: self.costs.groups[name][places] for name, places in choices.items()},
            fixed=self.costs.fixed,
        )
        seen = [dict(counts)]
        for penalty in PENALTIES:
            damage = {name: self._curve(gains[name], counts[name], penalty * mean) for name in gains}
            if table.floor > self.budget:
                return
            places = least_damage(damage, table, self.budget, RESOLUTION)
            spend_rest(places, damage, table, self.budget)
            proposal = {name: int(choices[name][place]) for name, place in places.items()}
            if proposal not in seen:
                seen.append(proposal)
                yield proposal

    @staticmethod
    def _curve(gains: Mapping[int, float], now: int, penalty: float) -> Tensor:
        """The estimated change of the loss at each level, rising by number of units: [levels], 0 or more."""
        values = torch.tensor([gains[count] + penalty * (count != now) for count in sorted(gains)], dtype=torch.float64)
        return values - values.min()

    def filled(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The counts with what is left of the budget spent, by the curves and the measured slopes."""
        damage = {name: self.slopes.get(name, 1.0) * self.scores.damage_of(name) for name in counts}
        filled = dict(counts)
        spend_rest(filled, damage, self.costs, self.budget)
        return filled

    def _of_groups(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        assert self.context.models is not None
        return self.context.models.counts(counts)
