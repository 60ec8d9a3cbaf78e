"""Choice among candidate masks: tune each quickly (a draft), and keep the one whose outputs agree best with the dense model's."""

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
from fastprune.progress import track
from fastprune.strategies.contracts import Tuner
from fastprune.strategies.scores import Scores
from fastprune.strategies.work import Job, Work
from fastprune.units.masks import Mask

log = logging.getLogger(__name__)

SHARE = 0.25  # of the calibration set, to tune drafts on
# Approximate number of samples to tune drafts on, for SHARE; with fewer than twice FEWEST samples, half of them.
FEWEST, MOST = 128, 128
# Mean share of kept units below which drafts get more samples: their ranking is noisier, and each sample costs less.
SPARSE = 0.2
PARTS = 8  # maximum number of parts of the comparison samples, for the standard error of a comparison
SMALLEST = 8  # minimum number of samples in a part
LOOKS = 3  # maximum number of comparisons; each adds as many samples again, while the result is undecided
COMPARED = 1.5  # comparisons of a draft, in the mean
MARGIN = 0.02  # minimum improvement of a later draft, relative to the best draft's error,
CHANCE = 2.0  # and in standard errors of the difference
# Early stopping: end the search when a draft's error exceeds the best one's by 25 %; later candidates are more extreme.
FAR = 0.25


class Build(Protocol):
    """Function that builds the pruned model of a mask and tunes it on the given samples."""

    def __call__(self, mask: Mask, calibration: Batches, scores: Scores, /) -> nn.Module: ...


def choose(
    masks: Sequence[Mask],
    build: Build,
    states: DenseStates,
    batches: Batches,
    scores: Scores,
    *,
    share: float = SHARE,
) -> Mask:
    """The mask whose tuned draft agrees best with the dense model. The first mask wins near-ties: small samples cannot separate
    them, and the candidates are ordered from the most conventional to the least.

    Drafts are tuned on an evenly spaced part of the calibration set and compared on a disjoint part of equal size; a single
    batch serves for both. If the masks keep less than ``SPARSE`` of the units, the tuning part grows, up to a half. A later
    draft must reduce the error by ``MARGIN`` of the best draft's error and by ``CHANCE`` standard errors of the difference,
    estimated over parts of the samples. If the improvement is between half of that number of standard errors and all of it,
    the comparison is repeated with as many further samples. Early stopping: a draft that is worse by ``FAR`` ends the search.

    Args:
        masks: The candidate masks.
        build: Builds and tunes a draft.
        states: Cached outputs of the dense model.
        batches: The calibration set; its task defines the agreement of outputs.
        scores: The scores of the whole calibration set.
        share: Share of the calibration set to tune drafts on, at most 0.5; larger for sparse masks.
    """
    masks = [mask for place, mask in enumerate(masks) if not any(mask.equals(other) for other in masks[:place])]
    if len(masks) == 1:
        return masks[0]
    step, places = _step(batches, share, statistics.fmean(map(_left, masks))), range(len(batches))
    drafted, scores = batches.only(places[::step]), scores.of_batches(slice(None, None, step), batches.sizes)
    looks = [_parts(batches.only(places[first::step])) for first in _looks(step)]
    best: _Draft | None = None
    for mask in track(masks, "choosing"):
        draft = _Draft(mask, build(mask, drafted, scores), states)
        if best is None or draft.nearer_than(best, looks):
            best = draft
        elif draft.far_behind(best, looks[0]):
            break
    assert best is not None
    return best.mask


def drafting_work(job: Job, draft: Tuner, tries: int) -> Work:
    """The expected work of choosing among ``tries`` masks, in forward passes over the whole calibration set of the job."""
    step = _step(job.batches, SHARE, job.share)
    part = job.batches.only(range(0, len(job.batches), step))
    tuned = draft.work(job.part(part))
    looks = 1.0 + COMPARED * tries * job.share  # the dense model's outputs are computed once
    return Work(passes=(tuned.passes * tries + looks) / step, solves=tuned.solves * tries)


@dataclass
class _Draft:
    """A candidate mask, its tuned model, and the model's error on each part: 1 - agreement with the dense model."""

    mask: Mask
    model: nn.Module
    states: DenseStates
    lacking: list[float] = field(default_factory=list)

    def lacks(self, parts: Sequence[Batches]) -> list[float]:
        """The errors on these parts. Later calls pass the same parts, with further ones behind."""
        for part in parts[len(self.lacking) :]:
            assert part.task is not None
            with self.states.precision():
                figures = agreement(self.states.teacher, self.model, part, part.task, self.states)
            self.lacking.append(1 - statistics.fmean(figures.values()))
        return self.lacking[: len(parts)]

    def gain(self, other: _Draft, parts: Sequence[Batches]) -> tuple[float, float, float]:
        """The mean improvement over the other draft on these parts, its noise, and the other draft's mean error."""
        before, now = other.lacks(parts), self.lacks(parts)
        gained = [most - least for most, least in zip(before, now, strict=True)]
        noise = CHANCE * statistics.stdev(gained) / math.sqrt(len(gained)) if len(gained) > 1 else 0.0
        return statistics.fmean(gained), noise, statistics.fmean(before)

    def nearer_than(self, other: _Draft, looks: Sequence[Sequence[Batches]]) -> bool:
        """Whether its error is significantly lower than the other's. Adds samples as long as the comparison is undecided."""
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
        """Whether its error is significantly and much higher (by ``FAR``) than the other's."""
        gain, noise, lacked = self.gain(other, parts)
        return -gain > max(FAR * lacked, noise)


def _left(mask: Mask) -> float:
    """The mean share of kept units over all groups with units."""
    return statistics.fmean(float(kept.double().mean()) for kept in mask.values.values() if len(kept))


def _step(batches: Batches, share: float, left: float) -> int:
    """Stride over the batches that selects the batches for tuning drafts."""
    share = min(0.5, share * max(1.0, SPARSE / max(left, 1e-3)))
    return min(max(batches.step(share, FEWEST, round(MOST * share / SHARE)), 2), len(batches))


def _looks(step: int) -> list[int]:
    """The first batch of each look, among those not used for tuning: the most distant from the tuning batches first."""
    others = range(1, step) or range(1)
    return sorted(others, key=lambda place: abs(2 * place - step))[:LOOKS]


def _parts(batches: Batches) -> list[Batches]:
    """Split into as many parts as possible (at most ``PARTS``) with batches of all lengths and enough samples in each."""
    for count in range(min(PARTS, len(batches)), 1, -1):
        parts = [batches.only(range(first, len(batches), count)) for first in range(count)]
        if min(part.n_samples for part in parts) >= SMALLEST:
            return parts
    return [batches]
