"""The subject of a run: the dense model with its units, and its calibration set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from fastprune.calibration.dense_states import DenseStates
from fastprune.calibration.sums import has_float64
from fastprune.data.batches import Batches
from fastprune.data.mixes import DataMix
from fastprune.data.rows import Rows
from fastprune.data.tasks import Batch, Task
from fastprune.errors import ModelError
from fastprune.models import portable
from fastprune.models.calibration_data import calibration_set
from fastprune.models.checkpoint import files_of
from fastprune.models.forms import AnyModel, open_any
from fastprune.models.pretrained import Pretrained
from fastprune.models.weights import check_finite
from fastprune.pipeline.cache import PruningCache
from fastprune.pipeline.clock import STAGES
from fastprune.pipeline.fingerprint import fingerprint
from fastprune.registry.serving import architecture_for, named_architecture
from fastprune.strategies.contracts import Scorer
from fastprune.surgery.routing import check_routes
from fastprune.units.architecture import Architecture
from fastprune.units.experts import unfuse_experts
from fastprune.units.groups import Groups
from fastprune.units.resolve import resolve_groups


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A dense model, its units, and its calibration set.

    Attributes:
        given: The user's module.
        opened: The model with its tokenizer, task and files; None if only a module was given.
        teacher: The dense model: the user's module, with unfused experts.
        architecture: The paths of its units.
        groups: Its groups.
        calibration: The calibration set.
        states: Cached outputs of the teacher on the calibration set.
        seed: Seed of everything random.
        fingerprint: Digest of all the above that results depend on; empty where no other pruning shares results.
    """

    given: nn.Module
    opened: Pretrained | None
    teacher: nn.Module
    architecture: Architecture
    groups: Groups
    calibration: Batches
    states: DenseStates
    seed: int
    fingerprint: str = ""

    @property
    def task(self) -> Task:
        """What the model is for."""
        assert self.calibration.task is not None
        return self.calibration.task

    @cached_property
    def companions_size(self) -> int:
        """Bytes of the files that are saved beside the model: the tokenizer's, and those of other modules."""
        if self.opened is None:
            return 0
        return sum(map(len, {**files_of(self.opened.tokenizer), **self.opened.companions}.values()))

    def generator(self, stage: str, turn: int) -> torch.Generator:
        """The generator of a stage in a pass, on the CPU. Stages do not depend on each other's draws.

        Args:
            stage: One of ``clock.STAGES``.
            turn: The number of passes before.
        """
        entropy = [self.seed, list(STAGES).index(stage), turn]
        return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))


def open_subject(
    model: AnyModel,
    data: Batches | Iterable[Batch] | Rows | DataMix,
    *,
    architecture: Architecture | str | Path | None,
    task: Task | None,
    seed: int,
    cache: PruningCache,
    shared: bool = False,
) -> Subject:
    """Open the model, find its units, and read its calibration set. ``shared``: Other prunings use the cache, too.

    Raises:
        ModelError: The model cannot be opened, is wrapped in another module, fits no architecture, or serves no task.
        DataError: The data cannot be read, or hold a token that the model does not have.
    """
    chosen = named_architecture(architecture) if architecture else None
    given, opened = open_any(model)
    _check_bare(given)
    if opened is None:  # what is opened was checked
        _check_weights(given)
    chosen = chosen or architecture_for(given)
    teacher = unfuse_experts(given)
    groups = resolve_groups(chosen, teacher)
    portable.check_rebuilt(given, groups)
    calibration = calibration_set(data, teacher, opened, task, seed)
    return Subject(
        given=given,
        opened=opened,
        teacher=teacher,
        architecture=chosen,
        groups=groups,
        calibration=calibration,
        states=cache.dense_states(teacher, calibration),
        seed=seed,
        fingerprint=fingerprint(teacher, calibration, seed) if shared else "",
    )


def check_fits(subject: Subject, scorer: Scorer, *, reroute: bool) -> None:
    """Raise ``ModelError`` for an offloaded model and a scorer that runs the whole model at once, a model on a device without
    float64, or a model without routers that experts could be removed from."""
    device = next(subject.teacher.parameters()).device
    if not has_float64(device):
        raise ModelError(
            f"The device {device} has no float64, which the sums of calibration need; open the model on the CPU (--device cpu)."
        )
    if reroute:
        check_routes(subject.teacher, subject.groups)
    offloaded = [name for name, parameter in subject.teacher.named_parameters() if parameter.device.type == "meta"]
    if offloaded and not scorer.layerwise:
        raise ModelError(
            f"The scorer '{scorer.name}' runs the whole model at once, but {len(offloaded)} parameters are offloaded, such as "
            f"'{offloaded[0]}'. Load the whole model on one device, or use a scorer that runs layer by layer."
        )


def _check_weights(model: nn.Module) -> None:
    """Raise ``ModelError`` for weights that are not finite or cannot get gradients."""
    kind = type(model).__name__
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ModelError(f"The {kind} was built in torch.inference_mode and gets no gradients; build it outside of it.")
    check_finite(model, f"the given {kind}")


def _check_bare(model: nn.Module) -> None:
    """Raise ``ModelError`` for a wrapped model, whose layers are hidden or compute with other weights."""
    kind = type(model).__name__
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise ModelError(
            f"The weights of the {kind} are quantised. Prune the model in float16, bfloat16 or float32, and quantise the result."
        )
    if hasattr(model, "merge_and_unload"):
        raise ModelError(f"The model is a {kind} with adapters: merge them, and give model.merge_and_unload().")
    for inside in ("_orig_mod", "module"):
        if isinstance(getattr(model, inside, None), PreTrainedModel):
            raise ModelError(f"{kind} is wrapped around the model: give model.{inside}, and wrap what comes back.")
