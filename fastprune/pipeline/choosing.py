"""Choosing among variants of a search: each is tuned in draft, and the one nearest to the dense model is taken."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.data.batches import Batches
from fastprune.measuring.evaluation import agreement
from fastprune.strategies.scores import Scores
from fastprune.units.masks import Mask

log = logging.getLogger(__name__)

FEWEST, MOST = 128, 256  # samples, about, that drafts are tuned on; with less than twice the fewest, half
SPARSE = 0.2  # of a group's units left, in the mean: drafts of fewer misjudge on few samples, cost less, and see the more of them
PARTS = 8  # at most, of those that they are compared on, to see how much chance there is in a comparison
SMALLEST = 8  # samples of a part
LOOKS = 3  # at most, at as many more samples each time, while a draft that seems nearer may be so by chance
MARGIN = 0.02  # of what an earlier draft lacks: as much nearer a later one has to come,
CHANCE = 2.0  # and as many standard errors of the difference
FAR = 0.25  # of what an earlier draft lacks: one that lacks so much more is the last, those after it are more peculiar still


class Build(Protocol):
    """Makes the model that a mask leaves, tuned on these samples."""

    def __call__(self, mask: Mask, calibration: Batches, scores: Scores, /) -> nn.Module: ...


def choose(
    masks: Sequence[Mask],
    build: Build,
    states: DenseStates,
    batches: Batches,
    scores: Scores,
    *,
    share: float,
) -> Mask:
    """The mask whose model is nearest to the dense model; of several about as near the first: so few samples do not tell
    them apart, and variants come with the least peculiar first.

    Drafts are tuned on an even part of the calibration set and compared on as many of the rest; a single batch
    serves for both. Where masks leave less than ``SPARSE`` that part is the larger, up to a half. A later draft has to be nearer by
    ``MARGIN`` of what is lacking, and by ``CHANCE`` standard errors of the difference over parts of the samples; by at least half
    as many, and it is given another look, on as many more of the rest. One that is far behind, by ``FAR``, is the last that is
    tried.

    Args:
        masks: Of the variants.
        build: What makes a draft.
        states: Cached outputs of the dense model.
        batches: The calibration set; its task compares outputs.
        scores: What the scorer said, on all of it.
        share: The part of the calibration set to tune drafts on, at most 0.5; of masks that leave little, more.
    """
    masks = [mask for place, mask in enumerate(masks) if not any(mask.equals(other) for other in masks[:place])]
    if len(masks) == 1:
        return masks[0]
    step, places = _step(batches, share, statistics.fmean(map(_left, masks))), range(len(batches))
    drafted, scores = batches.only(places[::step]), scores.of_batches(slice(None, None, step), batches.sizes)
    looks = [_parts(batches.only(places[first::step])) for first in _looks(step)]
    best: _Draft | None = None
    for mask in masks:
        draft = _Draft(mask, build(mask, drafted, scores), states)
        if best is None or draft.nearer_than(best, looks):
            best = draft
        elif draft.far_behind(best, looks[0]):
            break
    assert best is not None
    return best.mask


@dataclass
class _Draft:
    """A mask, the model that it leaves, and what that lacks, of 1, which is the dense model: by the part of the samples."""

    mask: Mask
    model: nn.Module
    states: DenseStates
    lacking: list[float] = field(default_factory=list)

    def lacks(self, parts: Sequence[Batches]) -> list[float]:
        """On the first parts; these are the same at every call, or more."""
        for part in parts[len(self.lacking) :]:
            assert part.task is not None
            figures = agreement(self.states.teacher, self.model, part, part.task, self.states)
            self.lacking.append(1 - statistics.fmean(figures.values()))
        return self.lacking[: len(parts)]

    def gain(self, other: _Draft, parts: Sequence[Batches]) -> tuple[float, float, float]:
        """How much less it lacks than the other on these parts, how much of that may be chance, and what the other lacks."""
        before, now = other.lacks(parts), self.lacks(parts)
        gained = [most - least for most, least in zip(before, now, strict=True)]
        noise = CHANCE * statistics.stdev(gained) / math.sqrt(len(gained)) if len(gained) > 1 else 0.0
        return statistics.fmean(gained), noise, statistics.fmean(before)

    def nearer_than(self, other: _Draft, looks: Sequence[Sequence[Batches]]) -> bool:
        """Whether it lacks less than the other, and not by chance; one look after another, as long as it may well be nearer."""
        parts: list[Batches] = []
        for more in looks:
            parts += more
            gain, noise, lacked = self.gain(other, parts)
            nearness = 1 - lacked + gain
            log.info(
                "nearness to the dense model: %.4f, %+.4f (give or take %.4f) to the best before", nearness, gain, noise
            )
            if not noise / 2 < gain <= noise:
                break
        return gain > max(MARGIN * lacked, noise)

    def far_behind(self, other: _Draft, parts: Sequence[Batches]) -> bool:
        """Whether it lacks much more than the other, and not by chance."""
        gain, noise, lacked = self.gain(other, parts)
        return -gain > max(FAR * lacked, noise)


def _left(mask: Mask) -> float:
    """The part of a group's units that is kept, in the mean of the groups that have any."""
    return statistics.fmean(float(kept.double().mean()) for kept in mask.values.values() if len(kept))


def _step(batches: Batches, share: float, left: float) -> int:
    """Drafts are tuned on one of so many batches."""
    share = min(0.5, share * max(1.0, SPARSE / max(left, 1e-3)))
    return min(max(batches.step(share, FEWEST, MOST), 2), len(batches))


def _looks(step: int) -> list[int]:
    """With which of the first batches each look begins, of those that drafts are not tuned on: the farthest from them first."""
    others = range(1, step) or range(1)
    return sorted(others, key=lambda place: abs(2 * place - step))[:LOOKS]


def _parts(batches: Batches) -> list[Batches]:
    """As many parts as there can be with batches of all lengths in each, and enough samples."""
    for count in range(min(PARTS, len(batches)), 1, -1):
        parts = [batches.only(range(first, len(batches), count)) for first in range(count)]
        if min(part.n_samples for part in parts) >= SMALLEST:
            return parts
    return [batches]
