"""Checks of tuners."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fastprune.calibration.gradients import collect_gradients
from fastprune.data.batches import Batches
from fastprune.registry import serving
from fastprune.strategies import checks
from fastprune.strategies.context import Context
from fastprune.strategies.contracts import Tuner
from fastprune.strategies.scores import Scores
from fastprune.surgery.materialize import materialize
from fastprune.surgery.reconstruction import apply_reconstruction
from fastprune.testing.comparing import hidden_error
from fastprune.testing.guards import contract_kept, untouched
from fastprune.testing.options import check_options
from fastprune.testing.problems import some_mask
from fastprune.testing.tiny import model_and_batches
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask
from fastprune.units.resolve import resolve_groups


def check_tuner(tuner: Tuner, *, model: nn.Module | None = None, batches: Batches | None = None) -> None:
    """Check a tuner on students with half of the units, with empty groups, and with one or all units of a group.

    It fulfils its contract, leaves the teacher unchanged, and does not raise the error of the last hidden states over the
    calibration set. A student without pruning stays (nearly) unchanged.

    Args:
        tuner: The tuner, with the options to check.
        model: A tiny model; None: a BERT.
        batches: A calibration set; None: random.

    Raises:
        AssertionError: A check fails.
    """
    check_options(tuner)
    model, batches = model_and_batches(model, batches, samples=64)
    who = f"tuner '{tuner.name}'"
    groups = resolve_groups(serving.architecture_for(model), model)
    scores = _fisher_scores(model, groups, batches)
    names = [group.name for group in groups]
    masks = {
        "half of the units": some_mask(groups),
        "an empty group": some_mask(groups, empty=names[0]),
        "an empty last group": some_mask(groups, empty=names[-1]),
        "one unit in a group, all in another": some_mask(groups, single=names[0], full=names[-1]),
        "nothing at all": Mask.first(groups, dict.fromkeys(names, 0)),
    }
    for left, mask in masks.items():
        untuned, tuned, changed = _tune(tuner, model, groups, mask, batches, scores)
        assert not changed or tuned <= untuned * (1 + 1e-6), (
            f"The {who} raises the error with {left} left: the mean squared error of the last hidden states over the "
            f"calibration set is {tuned:.4g} after tuning, {untuned:.4g} before."
        )
    _, tuned, _ = _tune(tuner, model, groups, Mask.full(groups), batches, scores)
    assert tuned < 1e-6, f"The {who} changes a model without pruned units: mean squared error {tuned:.3g}."


def _tune(
    tuner: Tuner, teacher: nn.Module, groups: Groups, mask: Mask, batches: Batches, scores: Scores
) -> tuple[float, float, bool]:
    """The error before and after tuning, and whether the tuner changed anything."""
    architecture = serving.architecture_for(teacher)
    student, untuned = materialize(teacher, groups, mask).eval(), materialize(teacher, groups, mask).eval()
    left = resolve_groups(architecture, student)
    with untouched(teacher, f"tuner '{tuner.name}'"), contract_kept():
        reconstruction = tuner.tune(teacher, student, left, batches, scores, Context(groups=left))
        checks.check_reconstruction(reconstruction, student, left, tuner)
    tuned = copy.deepcopy(untuned)
    apply_reconstruction(tuned, reconstruction)
    errors = [hidden_error(teacher, each, groups, batches) for each in (untuned, tuned)]
    return errors[0], errors[1], bool(reconstruction)


def _fisher_scores(model: nn.Module, groups: Groups, batches: Batches) -> Scores:
    grads, weights = collect_gradients(model, groups, batches, "model", torch.Generator().manual_seed(0))
    importance = {name: gradient.square().mean(0) for name, gradient in grads.items()}
    return Scores(importance=importance, grads=grads, token_weights=weights)
