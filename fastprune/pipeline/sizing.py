"""A requested size: divided between tokens, heads and filters, and the bits of tables, before anything is pruned."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastprune.data.batches import Batches, token_limit
from fastprune.data.encoding import make_batches
from fastprune.data.mixes import DataMix, is_source
from fastprune.data.rows import Rows
from fastprune.data.workload import Workload
from fastprune.models.forms import AnyModel, open_any
from fastprune.models.pretrained import Pretrained
from fastprune.pipeline.cache import PruningCache
from fastprune.pipeline.directory import dense_directory
from fastprune.pipeline.dividing import TEXTS, Division, measure_division
from fastprune.pipeline.result import PruningResult
from fastprune.progress import step
from fastprune.registry.loading import installed
from fastprune.registry.recipe import Recipe, strategy
from fastprune.registry.serving import architecture_for, named_architecture
from fastprune.strategies.budgets import BudgetRequest
from fastprune.strategies.contracts import CostModel
from fastprune.strategies.vocabulary import ALL
from fastprune.units.architecture import Architecture
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups
from fastprune.vocabulary.counting import count_tokens

log = logging.getLogger(__name__)

Prune = Callable[..., PruningResult]


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """A model whose size is divided.

    Attributes:
        opened: The dense model.
        recipe: The recipe.
        requested: The budget, by the name of the cost model.
        name: The name of the size among them.
        prune: Prunes; the function ``prune``.
        architecture: The paths of the model's units [the registered ones].
    """

    opened: Pretrained
    recipe: Recipe
    requested: Mapping[str, BudgetRequest]
    name: str
    prune: Prune
    architecture: Architecture | None = None

    @staticmethod
    def of(
        opened: Pretrained,
        recipe: Recipe,
        requested: Mapping[str, BudgetRequest],
        prune: Prune,
        architecture: Architecture | None = None,
    ) -> Sizing | None:
        """What is to be divided; None if no size is requested, or the vocabulary is decided."""
        name = size_of(requested, recipe)
        if name is None or recipe.vocabulary is not None or opened.trimming or opened.tokenizer is None:
            return None
        request = requested[name]
        if not request.unit and request.number >= 1:
            return None
        return Sizing(
            opened=opened, recipe=recipe, requested=requested, name=name, prune=prune, architecture=architecture
        )

    @property
    def cost(self) -> CostModel:
        """The cost model of the size, for weights as they are saved."""
        found: CostModel = self.recipe.cost if self.name in ("", self.recipe.cost.name) else strategy("cost", self.name)
        return found if self.opened.dtype is None else found.stored_as(self.opened.dtype)

    @property
    def bytes(self) -> float:
        """The requested size."""
        request = self.requested[self.name]
        return request.number if request.unit else request.number * self.dense_bytes

    @property
    def dense_bytes(self) -> float:
        """Size of the dense model's directory."""
        model = unfuse_experts(self.opened.model)
        whole, workload = self.cost.of_dense(), Workload.dummy(model)
        whole = whole if self.opened.dtype is None else whole.stored_as(self.opened.dtype)
        groups = resolve_groups(self.architecture or architecture_for(model), model)
        weights = whole.measure(model, groups, workload).total
        return weights + dense_directory(self.opened, model, self.opened.tokenizer)

    def measured(
        self,
        read: Callable[[Pretrained], Batches],
        texts: Rows | DataMix,
        smallest: float | None = None,
        **counting: Any,
    ) -> Division:
        """What is divided, measured.

        Args:
            read: Reads about ``TEXTS`` texts in the tokens of a model.
            texts: Texts to count tokens in.
            smallest: The smallest size that will be divided [the requested one].
            counting: ``columns`` and ``split`` of ``count_tokens``.
        """
        others = {name: each for name, each in self.requested.items() if name != self.name}
        quick = dataclasses.replace(
            self.recipe, tuner=self.recipe.tuner.draft(), searcher=self.recipe.searcher.quick(), vocabulary=None
        )
        cache = PruningCache()

        def draft(opened: Pretrained, batches: Batches, size: float) -> PruningResult:
            budget = {name: f"{each.number}{each.unit}" for name, each in others.items()}
            budget[self.cost.name] = f"{size:.0f}B"
            given: dict[str, Any] = {
                "vocabulary": ALL,
                "bench": False,
                "cache": cache,
                "architecture": self.architecture,
            }
            return self.prune(opened, batches, budget=budget, recipe=quick, **given)

        counts = partial(count_tokens, data=texts, **counting)
        with step("dividing the size"):
            return measure_division(
                self.opened,
                read,
                counts,
                self.cost,
                draft,
                smallest=self.bytes if smallest is None else smallest,
                architecture=self.architecture,
            )

    def divided(self, division: Division, size: float | None = None) -> tuple[Pretrained, Recipe]:
        """The model with its vocabulary for a size [the requested one], and the recipe with the form of the weights."""
        size = self.bytes if size is None else size
        best = division.of(size)
        log.info("%s", division.told(size))
        same = self.recipe.cost.name == self.cost.name
        return best.opened, dataclasses.replace(self.recipe, cost=best.cost) if same else self.recipe


def size_of(requested: Mapping[str, BudgetRequest], recipe: Recipe) -> str | None:
    """The name of the requested cost that counts bytes of a directory; None: there is none."""
    registered = installed().cost
    for name in requested:
        kind: type[CostModel] = type(recipe.cost) if name in ("", recipe.cost.name) else registered[name]
        if kind.of_files:
            return name
    return None


def sized(
    model: AnyModel,
    data: Any,
    texts: Rows | DataMix | None,
    recipe: Recipe,
    requested: Mapping[str, BudgetRequest],
    prune: Prune,
    seed: int,
    architecture: Architecture | str | Path | None,
) -> tuple[AnyModel, Recipe, Rows | DataMix | None]:
    """The model with the vocabulary that a requested size leaves, the recipe, and the texts that are still to be counted; all
    unchanged if nothing is to be divided.

    Args:
        model: As for ``prune``.
        data: The calibration data; batches are encoded already, and leave the vocabulary as it is.
        texts: Texts to count tokens in; None: those of the data.
        recipe: The recipe.
        requested: The budget.
        prune: The function ``prune``.
        seed: Seed of the draw of texts.
        architecture: As for ``prune``.
    """
    if not is_source(data) or size_of(requested, recipe) is None:
        return model, recipe, texts
    opened = open_any(model)[1]
    paths = named_architecture(architecture) if architecture else None
    sizing = Sizing.of(opened, recipe, requested, prune, paths) if opened else None
    if opened is None or sizing is None:
        return model, recipe, texts

    def read(one: Pretrained) -> Batches:
        assert one.tokenizer is not None
        return make_batches(data, one.task, one.tokenizer, samples=TEXTS, limit=token_limit(one.model), seed=seed)

    return *sizing.divided(sizing.measured(read, data if texts is None else texts)), None
