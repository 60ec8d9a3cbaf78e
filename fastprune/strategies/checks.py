"""Contract checks: validation of every stage's output, for built-in strategies and plugins alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fastprune.data.batches import Batches
from fastprune.errors import ContractError
from fastprune.strategies.contracts import CostModel, Rearranger, Scorer, Searcher, Tuner
from fastprune.strategies.costs import CostTable
from fastprune.strategies.schedules import Pass, Schedule
from fastprune.strategies.scores import Scores
from fastprune.surgery.reconstruction import Reconstruction
from fastprune.units.groups import Groups
from fastprune.units.linears import as_linear
from fastprune.units.masks import Mask


def check_costs(costs: CostTable, groups: Groups, model: CostModel) -> None:
    """Check for every group that the costs of 0..units are finite, non-negative float64."""
    who = f"cost model '{model.name}'"
    _same_names(who, costs.groups, groups)
    for group in groups:
        _shape(who, group.name, "costs", costs.groups[group.name], (group.units + 1,))
        if costs.groups[group.name].dtype != torch.float64:
            raise ContractError(f"The {who} returned costs of {costs.groups[group.name].dtype}; they must be float64.")
        _finite(who, group.name, "costs", costs.groups[group.name], negative=False)


def checked_passes(schedule: Schedule, budget: float, groups: Groups) -> list[Pass]:
    """The schedule's passes. Checks that there is at least one, that budgets never rise and end with ``budget``, and that every
    group is fixed exactly once."""
    names = [group.name for group in groups]
    passes = list(schedule.passes(budget, names))
    who = f"schedule '{schedule.name}'"
    said = f"the budgets {[each.budget for each in passes]} for {budget}"
    if not passes or passes[-1].budget != budget:
        raise ContractError(f"The {who} returned {said}; the last must be {budget} itself.")
    if any(not after.budget <= before.budget <= 1 for before, after in itertools.pairwise(passes)):
        raise ContractError(f"The {who} returned {said}; none may rise, or be above 1.")
    settled: set[str] = set()
    for each in passes:
        unknown, again = set(each.fixes or ()) - set(names), settled & set(each.fixes or ())
        if unknown or again:
            raise ContractError(f"The {who} settles the unknown {sorted(unknown)} and {sorted(again)} twice.")
        settled |= set(names if each.fixes is None else each.fixes)
    if settled != set(names):
        raise ContractError(f"The {who} leaves out the groups {sorted(set(names) - settled)}.")
    return passes


def check_scores(scores: Scores, groups: Groups, scorer: Scorer, batches: Batches) -> None:
    """Check that importance is finite and non-negative for every unit, that the declared optional fields are there, and that all
    fields have one entry for each group, sample or token of the batches."""
    who = f"scorer '{scorer.name}'"
    _same_names(who, scores.importance, groups)
    for group in groups:
        importance = scores.importance[group.name]
        _on_cpu(who, group.name, "importance", importance)
        _shape(who, group.name, "importance", importance, (group.units,))
        if importance.dtype not in (torch.float32, torch.float64):
            raise ContractError(
                f"The {who} returned importance of {importance.dtype} for '{group.name}'; it must be float32 or float64."
            )
        _finite(who, group.name, "importance", importance, negative=False)
    for name in sorted(scorer.provides):
        if getattr(scores, name) is None:
            raise ContractError(f"The {who} says that it gives '{name}' and returned none.")
    for name in Scores.optional():
        if getattr(scores, name) is not None:
            _same_names(who, getattr(scores, name), groups)
    for group in groups if scores.grads is not None else ():
        assert scores.grads is not None
        _on_cpu(who, group.name, "grads", scores.grads[group.name])
        _shape(who, group.name, "grads", scores.grads[group.name], (batches.n_samples, group.units))
        _finite(who, group.name, "grads", scores.grads[group.name])
    for group in groups if scores.token_weights is not None else ():
        assert scores.token_weights is not None
        _check_token_weights(who, group.name, scores.token_weights[group.name], batches)
    for group in groups if scores.damage is not None else ():
        assert scores.damage is not None
        _check_damage(who, group.name, scores.damage[group.name], group.units)


def check_search(mask: Mask, groups: Groups, costs: CostTable, budget: float, searcher: Searcher) -> None:
    """Check that the mask has a bool for every unit and is within the budget."""
    who = f"searcher '{searcher.name}'"
    _check_mask(who, mask, groups)
    cost = costs.of(mask.counts())
    if cost > budget * (1 + 1e-9):
        raise ContractError(
            f"The {who} returned a mask of {cost:.6g} {costs.measure}, over the budget of {budget:.6g}."
        )


def check_rearrangement(after: Mask, before: Mask, groups: Groups, rearranger: Rearranger) -> None:
    """Check that each group keeps as many units as before."""
    who = f"rearranger '{rearranger.name}'"
    _check_mask(who, after, groups)
    for name, count in before.counts().items():
        if after.counts()[name] != count:
            raise ContractError(
                f"The {who} keeps {after.counts()[name]} units of '{name}', where the search kept {count}."
            )


def check_reconstruction(
    reconstruction: Reconstruction, student: nn.Module, groups: Groups, tuner: Tuner, *, new_biases: bool = True
) -> None:
    """Check that the weights are finite, match the kept units in shape, and belong to linears of the groups."""
    who = f"tuner '{tuner.name}'"
    known = {path for group in groups.with_consumer for path in (group.consumer, *group.producers)}
    for path, (weight, bias) in reconstruction.items():
        if path not in known:
            raise ContractError(
                f"The {who} returned a weight for '{path}', which is the path of no consumer or producer of the groups."
            )
        linear = as_linear(student.get_submodule(path))
        _shape(who, path, "weight", weight, tuple(linear.weight.shape))
        _finite(who, path, "weight", weight)
        if bias is not None:
            _shape(who, path, "bias", bias, (linear.out_features,))
            _finite(who, path, "bias", bias)
            if linear.bias is None and not new_biases:
                raise ContractError(
                    f"The {who} returned a bias for '{path}', which has none. The plain form has no place for it: return None "
                    "where context.new_biases is False."
                )
            if linear.bias is None and not tuner.adds_biases:
                raise ContractError(
                    f"The {who} returned a bias for '{path}', which has none; set adds_biases = True, so that the search leaves "
                    "room for it."
                )


def _check_token_weights(who: str, name: str, weights: Sequence[Tensor], batches: Batches) -> None:
    """Check that there is a finite, non-negative weight for each token of each sample, by batch."""
    if len(weights) != len(batches):
        raise ContractError(
            f"The {who} returned token weights of {len(weights)} batches for '{name}'; there are {len(batches)}."
        )
    for size, values in zip(batches.sizes, weights, strict=True):
        _shape(who, name, "token weights", values, (size, None))
        _finite(who, name, "token weights", values, negative=False)


def _check_damage(who: str, name: str, damage: Tensor, units: int) -> None:
    """Check that the damage is finite, never rises with more units, and is 0 with all units kept."""
    _shape(who, name, "damage", damage, (units + 1,))
    _finite(who, name, "damage", damage, negative=False)
    if bool((damage.diff() > 1e-9 * damage[0]).any()):
        raise ContractError(f"The {who} returned damage for '{name}' that rises where more units are kept.")
    if float(damage[-1]) > 1e-9 * float(damage[0]):
        raise ContractError(
            f"The {who} returned damage of {float(damage[-1]):.3g} for '{name}' with every unit kept; it must be 0."
        )


def _check_mask(who: str, mask: Mask, groups: Groups) -> None:
    _same_names(who, mask.values, groups)
    for group in groups:
        _shape(who, group.name, "mask", mask[group.name], (group.units,))
        if mask[group.name].dtype != torch.bool:
            raise ContractError(
                f"The {who} returned a mask of {mask[group.name].dtype} for '{group.name}'; it must be bool."
            )


def _same_names(who: str, returned: Iterable[str], groups: Groups) -> None:
    expected, given = {group.name for group in groups}, set(returned)
    if expected != given:
        missing, extra = sorted(expected - given), sorted(given - expected)
        raise ContractError(f"The {who} left out the groups {missing} and returned the unknown {extra}.")


def _shape(who: str, group: str, what: str, value: Tensor, expected: tuple[int | None, ...]) -> None:
    shape = tuple(value.shape)
    if len(shape) != len(expected) or any(want not in (None, size) for size, want in zip(shape, expected, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ContractError(f"The {who} returned {what} of shape {list(shape)} for '{group}'; it must be [{wanted}].")


def _on_cpu(who: str, group: str, what: str, value: Tensor) -> None:
    if value.device.type != "cpu":
        raise ContractError(
            f"The {who} returned {what} for '{group}' on the device {value.device}; it must be on the CPU."
        )


def _finite(who: str, group: str, what: str, value: Tensor, *, negative: bool = True) -> None:
    if not bool(torch.isfinite(value).all()):
        raise ContractError(
            f"The {who} returned {what} for '{group}' that are not finite. Compute in float32 (--dtype float32), and check "
            "the model's weights and the data; if these are right, it is the strategy's fault."
        )
    if not negative and bool((value < 0).any()):
        raise ContractError(f"The {who} returned negative {what} for '{group}'.")
