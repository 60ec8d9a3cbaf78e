"""The contracts: what a scorer, searcher, rearranger, tuner, cost model and schedule must do.

A strategy is a frozen, keyword-only dataclass. Its fields are its options, reachable from Python, from a recipe and
from the command line; its one method is the contract's. Only Scorer, Tuner and CostModel see the model; search and
rearrangement are pure functions of small tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from fastprune.data.workload import Workload
from fastprune.strategies.costs import CostTable
from fastprune.strategies.options import check_options
from fastprune.strategies.scores import Scores
from fastprune.strategies.tables import MeasuredTable
from fastprune.surgery.reconstruction import Reconstruction
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask

if TYPE_CHECKING:
    from fastprune.data.batches import Batches


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What all strategies share: a name to be chosen by, where it comes from, and what they need of the scores."""

    name: ClassVar[str]
    formula: ClassVar[str] = ""
    """What is computed, in one line."""
    paper: ClassVar[str] = ""
    """Who published it, and where to read it."""

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def requires(self) -> frozenset[str]:
        """The optional fields of Scores (``grads``, ``token_weights``, ``damage``) without which this cannot run."""
        return frozenset()


@dataclass(frozen=True, kw_only=True)
class Scorer(Strategy, ABC):
    """Stage 0: how much the loss suffers when a unit goes."""

    @property
    def provides(self) -> frozenset[str]:
        """The optional fields of Scores that this fills."""
        return frozenset()

    def configured_for(self, requires: frozenset[str]) -> Scorer:
        """The scorer for a recipe whose other strategies need these fields: where one takes time that the scores could do
        without, this scorer set to fill it. This one itself, unless it says otherwise."""
        return self

    @abstractmethod
    def score(self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator) -> Scores:
        """Score every unit of every group.

        Args:
            model: In eval mode; left as it was found.
            groups: The model's groups.
            batches: The calibration set.
            generator: Where all randomness comes from, on the CPU.
        """


@dataclass(frozen=True, kw_only=True)
class Searcher(Strategy, ABC):
    """Stage 1: which units to keep within the budget."""

    def variants(self) -> Sequence[Searcher]:
        """The searchers to try one after another, each farther than the one before from what is right where nothing else is
        known: where one's model is far behind, those after it are not tried. Of several the one is taken whose model, tuned in
        draft (``Tuner.draft``), is nearest to the dense model on the calibration set. This one alone, unless it says
        otherwise."""
        return (self,)

    @property
    def draft_share(self) -> float:
        """The part of the calibration set that these drafts are tuned on, above 0 and at most 0.5; up to 0.5 is taken where
        masks leave little."""
        return 0.25

    @abstractmethod
    def search(self, scores: Scores, costs: CostTable, budget: float) -> Mask:
        """Keep the most importance that the budget allows.

        Args:
            budget: In the table's measure; at least its floor.

        Returns:
            A mask whose cost never exceeds the budget.
        """


@dataclass(frozen=True, kw_only=True)
class Rearranger(Strategy, ABC):
    """Stage 2: which units to swap within a group."""

    @abstractmethod
    def rearrange(self, mask: Mask, scores: Scores) -> Mask:
        """Swap kept and pruned units; each group keeps as many as before."""


@dataclass(frozen=True, kw_only=True)
class Tuner(Strategy, ABC):
    """Stage 3: how what is left makes up for what is gone."""

    def draft(self) -> Tuner:
        """The tuner with which variants of a search are compared before the one that is taken is tuned: one that takes less
        time and tells them apart as well. This one itself, unless it says otherwise."""
        return self

    @abstractmethod
    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores
    ) -> Reconstruction:
        """Find new weights and biases for the student's consumers, and for producers where that helps.

        Args:
            teacher: The dense model; left as it was found.
            student: The pruned model, already smaller. It may be changed on the way: it is thrown away where the
                Reconstruction is not, and gets exactly the Reconstruction where it is.
            groups: The student's groups.
            batches: The calibration set.
            scores: What the scorer said, about the units before pruning.
        """


@dataclass(frozen=True, kw_only=True)
class CostModel(Strategy, ABC):
    """What keeping 0..units of a group costs."""

    searcher: ClassVar[str] = ""
    """The searcher for its tables where nobody names one, for a cost whose tables are no straight lines."""

    @abstractmethod
    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        """Make the table of this model for this workload; the model is left as it was found."""


@dataclass(frozen=True, kw_only=True)
class MeasuredCost(CostModel, ABC):
    """A cost model that measures, and whose tables are kept in files."""

    @abstractmethod
    def table(self, model: nn.Module, groups: Groups, workload: Workload) -> MeasuredTable:
        """Measure this model for this workload; it is left as it was found."""

    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        return self.table(model, groups, workload).costs(groups)
