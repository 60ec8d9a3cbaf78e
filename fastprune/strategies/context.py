"""The context of a stage: what a strategy may use beside its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from fastprune.journal.journal import Journal
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask

if TYPE_CHECKING:
    from fastprune.calibration.dense_states import DenseStates
    from fastprune.data.batches import Batches

Loss = Callable[[Mask], float]
"""From a mask to the disagreement of the masked model with the dense model: 0 is full agreement."""


Counts = Mapping[str, int]
"""Number of units by group."""


def _themselves(counts: Counts) -> Counts:
    return counts


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models behind a search, for ``fastprune.reconstruction.Stitching``.

    Attributes:
        teacher: The dense model.
        student: The model that is pruned next; a searcher does not change it.
        groups: The student's groups that are searched.
        importance: The scores of their units.
        batches: The calibration set.
        counts: From the numbers of units of the searched problem to those of the groups: they differ where several groups get the
            same number or not every number is allowed.
    """

    teacher: nn.Module
    student: nn.Module
    groups: Groups
    importance: Mapping[str, torch.Tensor]
    batches: Batches
    counts: Callable[[Counts], Counts] = _themselves


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
        models: The models and the calibration set; None unless ``Searcher.requires_models``.
        journal: Keeps what long steps compute, for a run that goes on after a kill: pass it on to ``reconstruct``, or wrap a step
            in ``context.journal.once``.
    """

    groups: Groups = Groups(())
    generator: torch.Generator = field(default_factory=_seeded)
    states: DenseStates | None = None
    new_biases: bool = True
    loss: Loss | None = None
    models: Models | None = None
    journal: Journal = Journal()
