"""The work of a strategy, counted before it runs, from which the time of a pruning is estimated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastprune.units.groups import Groups

if TYPE_CHECKING:
    from fastprune.data.batches import Batches

SYMMETRIC = 0.6  # share of a symmetric matrix of sums that is computed


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the work of a strategy depends on.

    Attributes:
        groups: The dense model's groups.
        batches: The calibration set.
        share: The share of the main cost that is kept, above 0 and at most 1.
        weights: Number of weights that a token is multiplied with in the layers of the dense model.
    """

    groups: Groups
    batches: Batches
    share: float
    weights: float

    def part(self, batches: Batches) -> Job:
        """The same job on a part of the calibration set."""
        return replace(self, batches=batches)

    def products(self, features: float, outputs: float, tokens: float) -> float:
        """Sums of outer products over tokens, [features, outputs], in forward passes over the calibration set."""
        return features * outputs * tokens / (self.weights * max(self.batches.n_tokens, 1))

    def moments(self, features: float, tokens: float) -> float:
        """Sums of the second moments of features over tokens, in forward passes over the calibration set."""
        return SYMMETRIC * self.products(features, features, tokens)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Counted work; it can be added up, and multiplied by the number of times that it is done.

    Attributes:
        passes: In forward passes of the dense model over the calibration set of the job. A backward pass without gradients of
            weights is one more pass, one with them two.
        solves: Floating-point operations in float64 that do not depend on the number of tokens: factorisations and solves.
    """

    passes: float = 0.0
    solves: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(passes=self.passes + other.passes, solves=self.solves + other.solves)

    def __mul__(self, times: float) -> Work:
        return Work(passes=self.passes * times, solves=self.solves * times)
