"""Choosing among variants of a search: each is tuned in draft, and the one nearest to the dense model is taken."""

from __future__ import annotations

import dataclasses
import logging
import math
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

FEWEST, MOST = 128, 512  # samples, about, that drafts are tuned on; with less than twice the fewest, all
PARTS = 8  # at most, of those that they are compared on, to see how much chance there is in a comparison
SMALLEST = 8  # samples of a part
MARGIN = 0.02  # of what an earlier draft lacks: as much nearer a later one has to come,
CHANCE = 2.0  # and as many standard errors of the difference


class Build(Protocol):
    """Makes the model that a mask leaves, tuned on these samples."""

    def __call__(self, mask: Mask, *, batches: Batches, scores: Scores) -> nn.Module: ...


def choose(
    masks: Sequence[Mask],
    build: Build,
    teacher: nn.Module,
    task: Task,
    batches: Batches,
    scores: Scores,
    *,
    share: float,
) -> Mask:
    """The mask whose model is nearest to the dense model; of several about as near the first: so few samples do not tell
    them apart, and variants come with the least peculiar first.

    Drafts are tuned on an even part of the calibration set and compared on as many of the rest; where there are few samples,
    on all. A later draft has to be nearer by ``MARGIN`` of what is lacking, and by ``CHANCE`` standard errors of the difference
    over parts of the samples.

    Args:
        masks: Of the variants.
        build: What makes a draft.
        teacher: The dense model.
        task: Says how near two models are.
        batches: The calibration set.
        scores: What the scorer said, on all of it.
        share: The part of the calibration set to tune drafts on, at most 0.5.
    """
    masks = [mask for place, mask in enumerate(masks) if not any(mask.equals(other) for other in masks[:place])]
    if len(masks) == 1:
        return masks[0]
    step = _step(batches, share)
    tuned, judged = slice(None, None, step), slice(step // 2, None, step)
    drafted, scores = _part(batches, tuned), scores.of_batches(tuned, batches.sizes)
    parts = [Likeness(teacher, task, part) for part in _parts(_part(batches, judged))]
    best, least = masks[0], None
    for mask in masks:
        draft = build(mask, batches=drafted, scores=scores)
        lacking = [1 - statistics.fmean(part.of(draft).values()) for part in parts]  # of 1, which is the same
        log.info("nearness to the dense model: %.4f", 1 - statistics.fmean(lacking))
        if least is None or _nearer(lacking, least):
            best, least = mask, lacking
    return best


def _nearer(lacking: Sequence[float], least: Sequence[float]) -> bool:
    """Whether what one draft lacks, by the part of the samples, is less than what another does, and not by chance."""
    gained = [before - now for before, now in zip(least, lacking, strict=True)]
    noise = statistics.stdev(gained) / math.sqrt(len(gained)) if len(gained) > 1 else 0.0
    return statistics.fmean(gained) > max(MARGIN * statistics.fmean(least), CHANCE * noise)


def _step(batches: Batches, share: float) -> int:
    """Drafts are tuned on one of so many batches."""
    samples = batches.n_samples
    step = max(samples // MOST, min(round(1 / share), samples // FEWEST))
    return 1 if samples < 2 * FEWEST else min(step, len(batches))


def _parts(batches: Batches) -> list[Batches]:
    """As many parts as there can be with batches of all lengths in each, and enough samples."""
    for count in range(min(PARTS, len(batches)), 1, -1):
        parts = [_part(batches, slice(first, None, count)) for first in range(count)]
        if min(part.n_samples for part in parts) >= SMALLEST:
            return parts
    return [batches]


def _part(batches: Batches, chosen: slice) -> Batches:
    return dataclasses.replace(batches, batches=batches.batches[chosen])
