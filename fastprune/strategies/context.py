"""The context of a stage: what a strategy may use beside its input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from fastprune.units.groups import Groups
from fastprune.units.masks import Mask

if TYPE_CHECKING:
    from fastprune.calibration.dense_states import DenseStates

Loss = Callable[[Mask], float]
"""From a mask to the disagreement of the masked model with the dense model: 0 is full agreement."""


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a strategy may use beside its input. New fields may come; a strategy takes what it needs.

    Attributes:
        groups: The groups that are scored, searched, rearranged or tuned, in the order in which they run.
        generator: The source of all randomness of this call, on the CPU, seeded by the run.
        states: Hidden states of the dense model on the calibration set, filled by scorers and used by tuners; None if
            nothing is cached.
        new_biases: Whether a tuner may return a bias for a linear without one.
        loss: The loss of a mask on the calibration set; None unless ``Searcher.requires_loss``.
    """

    groups: Groups = Groups(())
    generator: torch.Generator = field(default_factory=_seeded)
    states: DenseStates | None = None
    new_biases: bool = True
    loss: Loss | None = None
