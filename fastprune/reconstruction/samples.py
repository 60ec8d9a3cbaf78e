"""The samples of a reconstruction: batches, token weights, held-out samples, and subsampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fastprune.calibration.tokens import real_rows
from fastprune.data.batches import Batches
from fastprune.units.groups import Group

TokenWeights = Mapping[str, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Samples:
    """The samples of a reconstruction.

    Attributes:
        batches: The calibration set, possibly augmented.
        token_weights: Token weights by group name, one [samples, tokens] per batch. None: equal weights.
        held: Masks of the held-out samples, one [samples] bool per batch, for ``Statistics.held`` and for the held-out error of a
            refinement. None: no sample is held out.
        tokens_per_feature: Subsample to about this many tokens per input feature of a layer's widest regression, evenly over
            the batches. None: all tokens. Always all tokens for weight-shared layers, layers with routed tokens, and
            refinements.
    """

    batches: Batches
    token_weights: TokenWeights | None = None
    held: tuple[Tensor, ...] | None = None
    tokens_per_feature: float | None = None

    def weights(self, group: Group) -> tuple[Tensor, ...] | None:
        """Token weights of a group by batch, each [samples, tokens]; None: equal weights."""
        return self.token_weights[group.name] if self.token_weights else None

    def held_back(self, index: int) -> Tensor | None:
        """Mask of the held-out samples of a batch, [samples] bool; None: no sample is held out."""
        return None if self.held is None else self.held[index]

    def only(self, places: Sequence[int]) -> Samples:
        """The samples of the batches with the indices in ``places``."""
        by_group = self.token_weights or {}
        return Samples(
            self.batches.only(places),
            {name: tuple(values[place] for place in places) for name, values in by_group.items()} or None,
            None if self.held is None else tuple(self.held[place] for place in places),
            self.tokens_per_feature,
        )

    def enough(self, members: Sequence[Group], hidden: Sequence[Tensor]) -> list[int]:
        """Subsample batches for the least squares of a layer, evenly among batches with and without held-out samples.

        Args:
            members: The layer's groups.
            hidden: The layer's input hidden states by batch, each [samples, tokens, hidden].

        Returns:
            Indices of the batches, rising.
        """
        every = range(len(self.batches))
        if self.tokens_per_feature is None or any(
            group.block.routed for group in members
        ):  # experts may get few tokens
            return list(every)
        rows = (
            real_rows(states[..., :1], members[0], batch) for states, batch in zip(hidden, self.batches, strict=True)
        )
        widest = max(max(group.features, group.hidden) for group in members)
        share = min(1.0, self.tokens_per_feature * widest / max(sum(map(len, rows)), 1))
        held = [mask is not None and bool(mask.any()) for mask in map(self.held_back, every)]
        chosen: list[int] = []
        for with_held in (False, True):
            candidates = [place for place in every if held[place] == with_held]
            count = math.ceil(share * len(candidates))
            chosen += [candidates[(2 * each + 1) * len(candidates) // (2 * count)] for each in range(count)]
        return sorted(chosen)
