"""The contracts of strategies: scorer, searcher, rearranger, tuner, cost model.

A strategy is a frozen, keyword-only dataclass. Its fields are its options, set from Python, from a recipe or from the
command line; its one method is the contract's. Only Scorer, Tuner and CostModel see the model; search and rearrangement
are functions of small tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn

from fastprune.data.workload import Workload
from fastprune.ranges import MULTIPLE
from fastprune.strategies.context import Context
from fastprune.strategies.costs import Conditions, CostTable
from fastprune.strategies.options import check_options, option
from fastprune.strategies.scores import Scores
from fastprune.strategies.tables import MeasuredTable
from fastprune.strategies.work import Job, Work
from fastprune.surgery.reconstruction import Reconstruction as Reconstruction
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask

if TYPE_CHECKING:
    from fastprune.data.batches import Batches


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """The common part of all strategies: name, formula, paper, and the scores that it requires."""

    name: ClassVar[str]
    """The registered name, such as ``fisher``."""
    formula: ClassVar[str] = ""
    """The computation in one line."""
    paper: ClassVar[str] = ""
    """Authors, venue, year and address of the paper."""

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def requires(self) -> frozenset[str]:
        """The optional fields of ``Scores`` that this strategy cannot run without [none]."""
        return frozenset()

    def work(self, job: Job) -> Work:
        """The expected work of one pass, for the estimate of the time [a scorer: 2.5 forward passes; a tuner: 2; others: none]."""
        return Work()


@dataclass(frozen=True, kw_only=True)
class Scorer(Strategy, ABC):
    """Stage 0: the importance of each unit."""

    layerwise: ClassVar[bool] = False
    """Whether ``score`` may be called with the groups of one layer at a time. If not, the whole model must be on its device."""

    @property
    def provides(self) -> frozenset[str]:
        """The optional fields of ``Scores`` that this scorer fills [none]."""
        return frozenset()

    def configured_for(self, requires: frozenset[str]) -> Scorer:
        """The scorer for a recipe whose other strategies require these fields of ``Scores`` [unchanged].

        For scorers with a field that takes extra time and is filled on demand only.
        """
        return self

    def work(self, job: Job) -> Work:
        return Work(passes=2.5)  # forward and backward

    @abstractmethod
    def score(self, model: nn.Module, groups: Groups, batches: Batches, context: Context) -> Scores:
        """Score every unit of every group.

        Args:
            model: In eval mode; unchanged afterwards.
            groups: The model's groups.
            batches: The calibration set.
            context: The generator, and the dense states to fill: pass ``context.states`` on to ``collect_gradients`` or
                ``run_backward``.
        """


@dataclass(frozen=True, kw_only=True)
class Searcher(Strategy, ABC):
    """Stage 1: the units to keep within the budget."""

    requires_loss: ClassVar[bool] = False
    """Whether ``search`` evaluates masks by ``context.loss``."""
    requires_models: ClassVar[bool] = False
    """Whether ``search`` runs models: it gets ``context.models``, in a pipeline, and None where only tensors are at hand."""

    def variants(self) -> Sequence[Searcher]:
        """Candidate searchers, most conventional first [this one alone].

        A model is pruned by each and tuned in draft (``Tuner.draft``); the one whose outputs agree best with the dense
        model's wins. Candidates after one that is clearly worse than the best so far are skipped.
        """
        return (self,)

    def quick(self) -> Searcher:
        """A faster searcher with one candidate, which finds how several budgets are weighed against each other, and how a size is
        divided [this one]."""
        return self

    @abstractmethod
    def search(self, scores: Scores, costs: CostTable, budget: float, context: Context) -> Mask:
        """Keep the most importance within the budget.

        Args:
            scores: Of the groups of ``context.groups``.
            costs: Of the same groups.
            budget: In the table's measure; at least its floor.
            context: The groups and the generator; the loss of a mask if ``requires_loss``, and the models if
                ``requires_models``.

        Returns:
            A mask whose cost is at most the budget.
        """


@dataclass(frozen=True, kw_only=True)
class SizedSearcher(Searcher, ABC):
    """A searcher with the options ``form`` and ``multiple``.

    The pipeline applies them: it asks ``search`` for a smaller problem, with one group for all groups that must get the same number
    of units, whose units are the steps from one allowed number to the next. ``context.groups`` is empty then.
    """

    form: Literal["free", "plain"] = option(
        "free",
        help="free: any number of units in each sublayer; plain: the same numbers in all layers, of which some may be removed, so "
        "that stock classes open the model by its configuration.",
    )
    multiple: int = option(
        1,
        at_least=MULTIPLE.at_least,
        at_most=MULTIPLE.at_most,
        help="Widths, FFN filters and features of all heads, are multiples of this number, such as 8, 32 or 64; attentions "
        "without such a number of heads are free.",
    )


@dataclass(frozen=True, kw_only=True)
class Rearranger(Strategy, ABC):
    """Stage 2: swaps of kept and pruned units within each group."""

    @abstractmethod
    def rearrange(self, mask: Mask, scores: Scores, context: Context) -> Mask:
        """Swap kept and pruned units; the number of kept units in each group stays.

        Args:
            mask: The searcher's.
            scores: Of the groups of ``context.groups``.
            context: The groups and the generator.
        """


@dataclass(frozen=True, kw_only=True)
class Tuner(Strategy, ABC):
    """Stage 3: new weights for the kept units."""

    adds_biases: ClassVar[bool] = True
    """Whether ``tune`` may return a bias for a consumer without one. The search then leaves room for it in the budget."""

    def draft(self) -> Tuner:
        """A faster tuner for comparing candidate masks [this one]."""
        return self

    def work(self, job: Job) -> Work:
        return Work(passes=2.0)

    @abstractmethod
    def tune(
        self,
        teacher: nn.Module,
        student: nn.Module,
        groups: Groups,
        batches: Batches,
        scores: Scores,
        context: Context,
    ) -> Reconstruction:
        """Compute new weights and biases of the student's consumers, and of producers if that helps.

        Args:
            teacher: The dense model; unchanged afterwards.
            student: The pruned model. Weights and biases of its consumers and producers may change during tuning; in the
                end it gets exactly the returned reconstruction. Other parameters may be shared with the teacher.
            groups: The student's groups.
            batches: The calibration set.
            scores: Of the units before pruning.
            context: The generator, and the dense states: pass ``context.states`` on to ``reconstruct``.
        """


@dataclass(frozen=True, kw_only=True)
class CostModel(Strategy, ABC):
    """The cost of keeping 0..units units of each group."""

    searcher: ClassVar[str] = ""
    """The default searcher for its tables, by name, if they are not linear in the units [the preset's]."""
    counted: ClassVar[bool] = False
    """Whether it counts, with the same result on every machine: ``fastprune inspect`` shows such costs, and ``check_model``
    compares them with those of the smaller model [it measures]."""
    unit: ClassVar[str] = ""
    """Unit of its tables, such as ms, by which a budget of another unit is refused before any work [known from a table only]."""
    of_files: ClassVar[bool] = False
    """Whether it counts bytes of the weights in a saved directory; the pipeline adds the other files [no]."""

    def stored_as(self, dtype: torch.dtype) -> CostModel:
        """The cost model for a model whose weights are saved in another dtype than its own [this one]."""
        return self

    def of_dense(self) -> CostModel:
        """The cost model by which the dense model is measured, of which budgets below 1 are shares [this one]."""
        return self

    def variants(self) -> Sequence[CostModel]:
        """Forms in which the file can hold the same weights, the most exact first [this one alone]."""
        return (self,)

    def rounded(self, model: nn.Module) -> nn.Module:
        """A copy of the model with its tables as the file holds them [the model itself: they are not rounded]."""
        return model

    @property
    def told(self) -> str:
        """What sets it apart from its other variants, in words behind a comma [nothing]."""
        return ""

    @abstractmethod
    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        """Make the table of this model for this workload; the model is unchanged afterwards."""


@dataclass(frozen=True, kw_only=True)
class MeasuredCost(CostModel, ABC):
    """A cost model that measures; its tables are stored in files."""

    @abstractmethod
    def table(self, model: nn.Module, groups: Groups, workload: Workload) -> MeasuredTable:
        """Measure this model for this workload; the model is unchanged afterwards."""

    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        return self.table(model, groups, workload).costs(groups)

    def compare(
        self, dense: nn.Module, pruned: nn.Module, groups: Groups, workload: Workload, conditions: Conditions
    ) -> Mapping[str, Sequence[float]]:
        """Measure a dense and a pruned model in turns, under the conditions of a table.

        Args:
            dense: The dense model.
            pruned: The pruned model, on the same device.
            groups: The dense model's groups.
            workload: Example inputs.
            conditions: The table's conditions.

        Returns:
            The measurements of ``dense`` and ``pruned``, each [rounds]; empty if this machine has other conditions [always].
        """
        return {}
