"""Spending: what the dense model, what is left between two passes, and the finished model cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from fastprune.calibration.hooks import frozen
from fastprune.data.workload import Workload
from fastprune.journal.journal import Journal
from fastprune.pipeline.cache import PruningCache, fields_of
from fastprune.pipeline.clock import timed
from fastprune.pipeline.directory import dense_files, with_files
from fastprune.pipeline.state import State
from fastprune.pipeline.subject import Subject
from fastprune.pipeline.trimming import dense_table
from fastprune.registry.recipe import Recipe, strategy
from fastprune.strategies import checks
from fastprune.strategies.budgets import BudgetRequest
from fastprune.strategies.contracts import CostModel
from fastprune.strategies.costs import CostTable
from fastprune.strategies.limits import Limit, Limits
from fastprune.surgery.materialize import materialize
from fastprune.surgery.reconstruction import add_bias
from fastprune.surgery.routing import drop_routes
from fastprune.units.groups import Groups
from fastprune.units.linears import as_linear
from fastprune.units.masks import Mask
from fastprune.units.resolve import resolve_groups
from fastprune.units.sharing import sharing_copy

log = logging.getLogger(__name__)


def measure(
    subject: Subject,
    workload: Workload,
    requested: Mapping[str, BudgetRequest],
    cost: CostModel,
    cache: PruningCache,
    journal: Journal,
) -> Limits:
    """The dense model's table and the budget of each requested cost, the recipe's cost first.

    With a smaller vocabulary, the table is that of the smaller model, and budgets below 1 are shares of the dense model's cost with
    the whole vocabulary, on the same texts.
    """
    own = requested.get("", requested.get(cost.name))
    others = {name: each for name, each in requested.items() if name not in ("", cost.name)}
    limits = []
    with timed("measure"), frozen(subject.teacher):
        for name, request in (({cost.name: own} if own else {}) | others).items():
            chosen = _cost_model(name, cost, subject)

            def compute(_: Journal, chosen: CostModel = chosen) -> dict[str, Any]:
                table = partial(chosen.measure, subject.teacher, subject.groups, workload)
                return fields_of(cache.costs(chosen, subject.fingerprint, table))

            table = CostTable(**journal.once(f"cost-{name}", compute))
            checks.check_costs(table, subject.groups, chosen)
            dense = _dense(subject, chosen, table, workload)
            table = with_files(table, chosen, subject)
            share = request.share(dense)
            limits.append(Limit(name=name, table=table, share=share, dense=(dense if share < 1 else table).total))
    return Limits(tuple(limits))


def _dense(subject: Subject, cost: CostModel, table: CostTable, workload: Workload) -> CostTable:
    """The costs of the dense model, of which budgets are shares."""
    if not cost.of_files:
        return dense_table(subject, cost, table, workload)
    whole = _stored(cost.of_dense(), subject)
    if whole != cost:
        table = whole.measure(subject.teacher, subject.groups, workload)
    dense = dense_table(subject, whole, table, workload)
    return replace(dense, fixed=dense.fixed + dense_files(subject))


def remaining(limits: Limits, state: State, recipe: Recipe, workload: Workload) -> Limits:
    """The limits of what is left to prune.

    Costs that are counted are counted again on the student, with a bias wherever the tuner may add one: once tokens are rerouted,
    the units of other experts cost more. What stays of sublayers without units, such as the head that computes the position bias
    of T5, becomes part of the fixed cost. Measured costs keep their table.

    Raises:
        UnreachableError: Before the first pass: a budget is below what is left with every unit pruned.
    """
    if state.whole and all(limit.share >= 1 for limit in limits.items):
        return limits.remaining(state.mask, state.fixed)  # nothing will be pruned or tuned
    open_groups = state.groups.only([group.name for group in state.groups if group.name not in state.fixed])
    adds = recipe.tuner.adds_biases and not state.form.plain
    roomy = with_biases(state.student, open_groups) if adds else state.student
    fixed = [group.name for group in state.groups if group.name in state.fixed]  # without those of removed layers
    units = {group.name: 0 if group.consumer else group.units for group in open_groups}
    empty = materialize(roomy, open_groups, Mask.first(open_groups, units), share=True)
    empty_groups = resolve_groups(state.subject.architecture, empty)
    items = []
    with timed("measure"), frozen(roomy), frozen(empty):
        for rest in limits.remaining(state.mask, state.fixed).items:
            cost = _cost_model(rest.name, recipe.cost, state.subject)
            if cost.counted:
                table = _counts(cost, roomy, state.groups, workload, state.subject).fixing(fixed)
                stays = _counts(cost, empty, empty_groups, workload, state.subject).total - table.of(units)
                rest = replace(rest, table=replace(table, fixed=table.fixed + max(stays, 0.0)))
            items.append(rest)
    left = Limits(tuple(items))
    if not state.turn:
        left.check()
    return left


def overspending(limits: Limits, state: State, mask: Mask, recipe: Recipe, workload: Workload) -> list[float]:
    """How far above each budget the student with this mask is, once its tokens are rerouted; at most 0 if within the budget.

    Tables do not foresee which experts the tokens of dropped ones go to, so it is counted on the rerouted model.
    """
    small = materialize(state.student, state.groups, mask, share=True)
    groups = resolve_groups(state.subject.architecture, small)
    drop_routes(small, groups)
    roomy = with_biases(small, groups) if recipe.tuner.adds_biases else small
    found = []
    with frozen(roomy):
        for limit in limits.items:
            cost = _cost_model(limit.name, recipe.cost, state.subject)
            counted = _counts(cost, roomy, groups, workload, state.subject).total if cost.counted else 0.0
            found.append(counted - limit.allowed if cost.counted else 0.0)
    return found


def with_biases(model: nn.Module, groups: Groups) -> nn.Module:
    """A copy in which every consumer has a bias, and which shares all other parameters; the model itself if nothing is added."""
    consumers = [group.consumer for group in groups.with_consumer]
    missing = [path for path in consumers if as_linear(model.get_submodule(path)).bias is None]
    if not missing:
        return model
    roomy = sharing_copy(model)
    for path in missing:
        add_bias(as_linear(roomy.get_submodule(path)))
    return roomy


def spent(limits: Limits, state: State, model: nn.Module, groups: Groups, cost: CostModel, workload: Workload) -> Any:
    """Each cost before and after; costs that are counted are counted on the finished model itself.

    Args:
        limits: The budgets on the dense model.
        state: After the last pass.
        model: The finished model.
        groups: Its groups.
        cost: The recipe's.
        workload: What costs are counted for.
    """
    found = []
    with frozen(model):
        for each in limits.spent(state.mask):
            chosen = _cost_model(each["name"], cost, state.subject)
            after = _counts(chosen, model, groups, workload, state.subject).total if chosen.counted else each["after"]
            found.append(each | {"after": after})
            if after > each["budget"] * each["before"] * (1 + 1e-9):
                log.warning(
                    "%.3g of the %s are left, the budget was %.3g%s.",
                    after / each["before"],
                    each["measure"],
                    each["budget"],
                    ": tokens of dropped experts now cost other experts" if state.reroute else "",
                )
    return found


def _cost_model(name: str, cost: CostModel, subject: Subject) -> CostModel:
    """The cost model of a name: the recipe's with its options, or one with defaults; for weights as they are saved."""
    chosen: CostModel = cost if name == cost.name else strategy("cost", name)
    return _stored(chosen, subject)


def _stored(cost: CostModel, subject: Subject) -> CostModel:
    dtype = subject.opened.dtype if subject.opened else None
    return cost if dtype is None else cost.stored_as(dtype)


def _counts(cost: CostModel, model: nn.Module, groups: Groups, workload: Workload, subject: Subject) -> CostTable:
    table = cost.measure(model, groups, workload)
    checks.check_costs(table, groups, cost)
    return with_files(table, cost, subject)
