"""Whole experts out of a mixture. Start reading here.

open -> check the number -> the dense inputs of the sparse layers -> choose -> rebuild -> calibrate routers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastprune.data.batches import Batches
from fastprune.data.mixes import DataMix
from fastprune.data.rows import Rows
from fastprune.errors import ModelError, OptionError
from fastprune.experts.calibrating import calibrate
from fastprune.experts.criteria import CRITERIA, Criterion
from fastprune.experts.rebuilding import with_experts
from fastprune.experts.sparse import Sparse, inputs_of
from fastprune.files import json_text, library_versions, written_directory
from fastprune.models.calibration_data import calibration_set
from fastprune.models.checkpoint import complete_config, write_companions
from fastprune.models.forms import AnyModel, pretrained_of
from fastprune.models.pretrained import Pretrained
from fastprune.models.weights import stored_state
from fastprune.progress import Progress, listening, track
from fastprune.ranges import COUNT, SEED, check_integer, is_number
from fastprune.registry.serving import mixture_for
from fastprune.units.mixtures import Mixture, Sizes, of_experts

SPREAD = 4
"""Tokens of the batches that are run for each token that is taken from them."""
RECORD = "experts.json"
"""File beside a saved model with the experts that were kept."""


@dataclass(frozen=True, kw_only=True)
class FewerExperts:
    """A mixture that lost whole experts.

    Attributes:
        pretrained: The smaller model, of the dense model's class, with its tokenizer; for ``prune``, ``evaluate`` or ``bench``.
        kept: Indices of the kept experts among those of the dense layer, by the path of the sparse sublayer.
        experts: Experts of a layer before.
        by: The criterion.
        calibrated: Whether the routers were calibrated.
        parameters_before: Parameters of the dense model.
        calibration: Source, samples, tokens and seed of the calibration set.
        metrics: Metrics by name; filled in by the caller after an evaluation.
    """

    pretrained: Pretrained
    kept: Mapping[str, tuple[int, ...]]
    experts: int
    by: str
    calibrated: bool
    parameters_before: int
    calibration: Mapping[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The smaller model, in eval mode."""
        return self.pretrained.model

    @property
    def left(self) -> int:
        """Experts of a layer after."""
        return len(next(iter(self.kept.values())))

    @property
    def parameters_after(self) -> int:
        """Parameters of the smaller model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "experts": {"before": self.experts, "after": self.left},
            "parameters": {"before": self.parameters_before, "after": self.parameters_after},
            "by": self.by,
            "routers_calibrated": self.calibrated,
            "kept_experts": {path: list(kept) for path, kept in self.kept.items()},
            "calibration": dict(self.calibration),
            "metrics": dict(self.metrics),
        }

    def save(self, path: str | Path) -> Path:
        """Write a directory that transformers opens by itself: weights, configuration, tokenizer, and ``experts.json``.

        Args:
            path: Directory; new or empty.

        Raises:
            CheckpointError: The directory is not empty, or cannot be written.
        """
        with written_directory(path) as scratch:
            state = stored_state(self.model, self.pretrained.dtype)
            self.model.save_pretrained(scratch, state_dict=state)
            write_companions(scratch, self.pretrained.tokenizer, self.pretrained.companions)
            complete_config(self.model, scratch, self.pretrained.dtype or self.model.dtype)
            record = {"versions": library_versions()} | self.summary()
            (scratch / RECORD).write_text(json_text(record, indent=2) + "\n", encoding="utf-8")
        return Path(path)


def drop_experts(
    model: AnyModel,
    data: Batches | Rows | DataMix,
    *,
    keep: float,
    by: str = "damage",
    calibrate_routers: bool = True,
    tokens: int = 4096,
    seed: int = 0,
    progress: Progress | bool = True,
) -> FewerExperts:
    """Remove whole experts from a mixture, the same number in every layer, so that its stock class opens the result.

    The rows of the routers go with their experts, and what is left of the routers is calibrated (docs/language-models.md).

    Args:
        model: A mixture of experts in any form that ``prune`` takes, dense; it is not changed.
        data: The calibration set, as for ``prune``.
        keep: The share of each layer's experts to keep, at most 1, or their number, 2 or more.
        by: The criterion: ``damage``, ``reap``, ``magnitude`` or ``random``.
        calibrate_routers: Fit routers and experts toward the dense model after the removal.
        tokens: Most tokens of the calibration set that layers are compared on.
        seed: Seed of everything random.
        progress: As for ``prune``.

    Returns:
        The smaller model and what was kept.

    Raises:
        ModelError: The model is no mixture of a known family, or lost filters of experts before.
        UnreachableError: The number of experts cannot be kept, because a token takes more, or groups would differ.
        OptionError: There is no such criterion, or a number is out of range.
    """
    tokens, seed = check_integer("tokens", tokens, COUNT), check_integer("seed", seed, SEED)
    criterion = _criterion(by)
    with listening(progress):
        opened = pretrained_of(model)
        left = check_keep(opened.model, keep)
        mixture = mixture_for(opened.model)
        sizes = mixture.sizes(opened.model)
        batches = calibration_set(data, opened.model, opened, opened.task, seed)
        some = batches.only(range(0, len(batches), max(1, batches.n_tokens // (SPREAD * tokens))))
        paths = mixture.paths(opened.model)
        entering = inputs_of(opened.model, paths, some, tokens, description="inputs of the experts")
        kept = _chosen(opened.model, mixture, sizes, entering, left, criterion, seed)
        small = with_experts(opened.model, mixture, kept)
        if calibrate_routers and left < sizes.experts:
            calibrate(opened.model, small, mixture, kept, entering, some, tokens)
    return FewerExperts(
        pretrained=dataclasses.replace(opened, model=small),
        kept={path: tuple(indices.tolist()) for path, indices in kept.items()},
        experts=sizes.experts,
        by=by,
        calibrated=calibrate_routers,
        parameters_before=sum(parameter.numel() for parameter in opened.model.parameters()),
        calibration=batches.summary() | {"seed": seed},
    )


def check_keep(model: Any, keep: float) -> int:
    """The number of experts that a share or a number of experts leaves in each layer of a model.

    Raises:
        OptionError: It is neither a share nor a number.
        ModelError: The model is no mixture of a known family.
        UnreachableError: The number is not possible.
    """
    if not (is_number(keep) and (0 < keep <= 1 or (keep > 1 and keep == int(keep)))):
        raise OptionError(f"keep takes a share above 0 and at most 1, or a whole number of experts; got {keep!r}.")
    mixture = mixture_for(model)
    sizes, module = mixture.sizes(model), model.get_submodule(mixture.paths(model)[0])
    if not of_experts(getattr(module, mixture.experts), sizes.experts):
        raise ModelError(
            "The experts of this model differ in size, since it was pruned before; remove whole experts first, from "
            "the dense model."
        )
    return sizes.kept(keep)


def _criterion(name: str) -> Criterion:
    if name not in CRITERIA:
        raise OptionError(f"There is no criterion '{name}' of experts; there are {', '.join(CRITERIA)}.")
    return CRITERIA[name]


@torch.no_grad()
def _chosen(
    model: Any,
    mixture: Mixture,
    sizes: Sizes,
    entering: Mapping[str, Tensor],
    left: int,
    criterion: Criterion,
    seed: int,
) -> dict[str, Tensor]:
    """The kept experts of each sparse sublayer, rising, by its path."""
    generator = torch.Generator().manual_seed(seed)
    return {
        path: criterion(Sparse(model.get_submodule(path), mixture, sizes.experts), hidden, sizes, left, generator)
        for path, hidden in track(list(entering.items()), "choosing experts")
    }
