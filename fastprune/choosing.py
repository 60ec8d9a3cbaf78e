"""Choosing among variants of a search: each is tuned in draft, and the one nearest to the dense model is taken."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Sequence
from typing import Protocol

from torch import nn

from fastprune.calibration import Batches
from fastprune.evaluation import Likeness
from fastprune.masks import Mask
from fastprune.scores import Scores
from fastprune.tasks import Task

log = logging.getLogger(__name__)

FEW = 256  # samples: with fewer, none are kept apart
DRAFTED = 512  # samples, about, that drafts are tuned on at most
JUDGED = 128  # samples, about, on which they are compared
MARGIN = 0.02  # of what an earlier draft lacks: as much nearer a later one has to come


class Build(Protocol):
    """Makes the model that a mask leaves, tuned on these samples."""

    def __call__(self, mask: Mask, *, batches: Batches, scores: Scores) -> nn.Module: ...


def choose(
    masks: Sequence[Mask], build: Build, teacher: nn.Module, task: Task, batches: Batches, scores: Scores
) -> Mask:
    """The mask whose model is nearest to the dense model; of several about as near the first: so few samples do not tell
    them apart, and variants come with the least peculiar first.

    An even part of the calibration set is enough: drafts are tuned on every other batch, or fewer, and compared on some of the
    others. Where there are few samples they are tuned on all.

    Args:
        masks: Of the variants.
        build: What makes a draft.
        teacher: The dense model.
        task: Says how near two models are.
        batches: The calibration set.
        scores: What the scorer said, on all of it.
    """
    masks = [mask for place, mask in enumerate(masks) if not any(mask.equals(other) for other in masks[:place])]
    if len(masks) == 1:
        return masks[0]
    step = _step(batches)
    every = step * max(1, batches.n_samples // (step * JUDGED))
    tuned, judged = slice(None, None, step), slice(step // 2, None, every)
    drafted, scores = _part(batches, tuned), scores.of_batches(tuned, batches.sizes)
    likeness = Likeness(teacher, task, _part(batches, judged))
    best, least = masks[0], float("inf")
    for mask in masks:
        found = likeness.of(build(mask, batches=drafted, scores=scores))
        log.info("nearness to the dense model: %s", ", ".join(f"{name} {each:.4f}" for name, each in found.items()))
        lacking = 1 - statistics.fmean(found.values())  # of 1, which is the same
        if lacking < (1 - MARGIN) * least:
            best, least = mask, lacking
    return best


def _step(batches: Batches) -> int:
    """Drafts are tuned on one of so many batches."""
    samples = batches.n_samples
    return 1 if samples < FEW else min(max(2, samples // DRAFTED), len(batches))


def _part(batches: Batches, chosen: slice) -> Batches:
    return dataclasses.replace(batches, batches=batches.batches[chosen])
