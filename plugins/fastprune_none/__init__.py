"""Strategies that do nothing; a recipe uses them to skip a stage."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastprune import Batches, hookimpl
from fastprune.strategies import Context, Rearranger, Reconstruction, Scores, Tuner
from fastprune.units import Groups, Mask


@dataclass(frozen=True, kw_only=True)
class NoRearranger(Rearranger):
    """Return the searched mask unchanged."""

    name: ClassVar[str] = "none"
    formula: ClassVar[str] = "m <- m"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, the ablation: https://arxiv.org/abs/2204.09656"

    def rearrange(self, mask: Mask, scores: Scores, context: Context) -> Mask:
        return mask


@dataclass(frozen=True, kw_only=True)
class NoTuner(Tuner):
    """Leave all weights unchanged."""

    name: ClassVar[str] = "none"
    adds_biases: ClassVar[bool] = False
    formula: ClassVar[str] = "W <- W, b <- b"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, the ablation: https://arxiv.org/abs/2204.09656"

    def tune(
        self, teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches, scores: Scores, context: Context
    ) -> Reconstruction:
        return {}


@hookimpl
def register_rearrangers(register: Callable[[type[Rearranger]], None]) -> None:
    register(NoRearranger)


@hookimpl
def register_tuners(register: Callable[[type[Tuner]], None]) -> None:
    register(NoTuner)
