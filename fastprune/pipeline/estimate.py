"""An estimate of the time of a pruning: counted work, times the time of a forward pass and of a factorisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fastprune.calibration.gram import damped_cholesky
from fastprune.calibration.hooks import frozen
from fastprune.data.batches import outputs_of
from fastprune.data.tasks import Batch
from fastprune.measuring.timing import device_clock
from fastprune.pipeline.choosing import drafting_work
from fastprune.pipeline.subject import Subject
from fastprune.registry.recipe import Recipe
from fastprune.strategies.work import Job, Work
from fastprune.units.groups import Groups

SLOW = 3.0  # seconds that a timed batch may take, by the time of one of its samples; of slower ones a part is timed
LONG = 0.3  # seconds of a measurement, at least
SOLVED = 512  # size of the factorised matrix
BENCH = 12.0  # forward passes over a batch by which each model is timed at the end


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The expected work and time of a pruning.

    Attributes:
        forward: Seconds of a forward pass of the dense model over the calibration set.
        passes: Work by stage, in forward passes of the dense model over the calibration set; without ``solves``.
        seconds: Expected seconds by stage.
    """

    forward: float
    passes: Mapping[str, float]
    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """Expected seconds of all stages."""
        return sum(self.seconds.values())


def estimate(subject: Subject, recipe: Recipe, share: float, *, bench: bool = False) -> Estimate:
    """Estimate the time of the stages after the measurement of costs; takes one to four seconds.

    Args:
        subject: The dense model and its calibration set.
        recipe: The strategies.
        share: The share of the recipe's main cost that is kept.
        bench: Whether both models are timed at the end.
    """
    work = expected_work(subject, recipe, share)
    if bench:
        work["bench"] = Work(passes=BENCH * (1 + share) / len(subject.calibration))
    forward, solve = forward_seconds(subject), solve_seconds(next(subject.teacher.parameters()).device)
    return Estimate(
        forward=forward,
        passes={stage: each.passes for stage, each in work.items()},
        seconds={stage: forward * each.passes + solve * each.solves for stage, each in work.items()},
    )


def expected_work(subject: Subject, recipe: Recipe, share: float) -> dict[str, Work]:
    """The expected work of each stage, over all passes of the recipe's schedule."""
    groups, work = subject.groups, dict.fromkeys(("score", "search", "rearrange", "choose", "tune"), Work())
    weights = max(layer_weights(subject.teacher, groups), 1)
    before, tries = 1.0, len(recipe.searcher.variants())
    for step in recipe.schedule.passes(share, [group.name for group in groups]):
        left = step.budget / before if step.fixes is None else step.budget
        parts = groups if step.fixes is None else Groups(tuple(group for group in groups if group.name in step.fixes))
        job = Job(groups=groups, batches=subject.calibration, share=min(left, 1.0), weights=weights)
        tuned = Job(groups=parts, batches=subject.calibration, share=min(left, 1.0), weights=weights)
        work["score"] += recipe.scorer.work(job) * before
        work["search"] += recipe.searcher.work(job)
        work["rearrange"] += recipe.rearranger.work(job)
        if tries > 1:
            work["choose"] += drafting_work(tuned, recipe.tuner.draft(), tries) * before
        work["tune"] += recipe.tuner.work(tuned) * before
        before = step.budget
    return work


def layer_weights(model: nn.Module, groups: Groups) -> int:
    """Number of weights in the linears of the groups."""
    paths = {path for group in groups.with_consumer for path in (*group.producers, group.consumer)}
    return sum(each.numel() for path in paths for each in model.get_submodule(path).parameters())


@torch.no_grad()
def forward_seconds(subject: Subject) -> float:
    """Seconds of a forward pass of the dense model over the calibration set, from a batch of middle length, or a part of it."""
    model, batches = subject.teacher, subject.calibration
    batch = batches.batches[len(batches) // 2]
    device = next(model.parameters()).device

    def seconds(part: Batch) -> float:
        return mean_seconds(lambda: outputs_of(model, part, batches.task), device)

    with frozen(model), subject.states.precision():
        outputs_of(model, _first(batch, 1), batches.task)  # one-time initialisation
        # a sample alone takes longer than its share of a batch, so as many as possible are timed together
        part = _first(batch, max(1, int(SLOW / seconds(_first(batch, 1)))))
        return seconds(part) * sum(map(_size, batches)) / max(_size(part), 1)


def _first(batch: Batch, samples: int) -> Batch:
    return {name: value[:samples] for name, value in batch.items()}


def solve_seconds(device: torch.device) -> float:
    """Seconds of a floating-point operation in float64, from factorisations."""
    gram = torch.eye(SOLVED, dtype=torch.float64, device=device) + 1e-3
    damped_cholesky(gram)
    return mean_seconds(lambda: damped_cholesky(gram), device) / (SOLVED**3 / 3)


def mean_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Mean seconds of a call that is repeated for ``LONG`` seconds: what else runs on the machine takes its share of them, too."""
    start, calls = device_clock(device), 0
    while calls == 0 or device_clock(device) - start < LONG:
        call()
        calls += 1
    return (device_clock(device) - start) / calls


def _size(batch: Batch) -> int:
    """Number of inputs of a batch with padding: its largest tensor."""
    return max(value.numel() for value in batch.values())
