"""The conformance suite for a user's model: run every check on a small model of its family and collect the verdicts."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from fastprune import testing
from fastprune.data.batches import Batches
from fastprune.models.checkpoint import plain_config
from fastprune.models.forms import AnyModel, module_of
from fastprune.models.pretrained import read_class
from fastprune.progress import Progress, listening, track
from fastprune.ranges import COUNT, check_integer
from fastprune.registry import loading, serving
from fastprune.strategies.contracts import CostModel
from fastprune.units.architecture import Architecture

SIZES = ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
"""Settings with the number of layers."""


@dataclass(frozen=True)
class Verdict:
    """Result of a check.

    Attributes:
        check: The property that was checked.
        passed: The property holds.
        detail: The reason of a failure; empty if passed.
    """

    check: str
    passed: bool
    detail: str = ""


def check_model(
    source: AnyModel,
    *,
    architecture: Architecture | str | Path | None = None,
    layers: int = 2,
    trust_remote_code: bool = False,
    progress: Progress | bool = True,
) -> list[Verdict]:
    """Run the conformance suite on the family of a model. The model's weights are not read.

    Args:
        source: A model in any form that ``prune`` takes; a directory with only a ``config.json`` is enough.
        architecture: The architecture to check, as for ``prune`` [None: the registered one for ``config.model_type``].
        layers: Maximum number of layers per stack of the model that is built.
        trust_remote_code: As for ``open_pretrained``.
        progress: Whether to show progress on standard error, or a function, as for ``prune``.

    Raises:
        ModelError: The model does not exist, its architecture is unknown, or the architecture does not fit it.
    """
    check_integer("layers", layers, COUNT)
    with listening(progress):
        chosen = serving.named_architecture(architecture) if architecture else None
        model = random_model(source, layers=layers, trust_remote_code=trust_remote_code)
        return verdicts(chosen or serving.architecture_for(model), model)


def verdicts(architecture: Architecture, model: nn.Module, batches: Batches | None = None) -> list[Verdict]:
    """Run the conformance suite of an architecture on a model.

    Args:
        architecture: The architecture to check.
        model: A small model of the family.
        batches: Inputs; None: random.

    Returns:
        One verdict per check.

    Raises:
        ModelError: The architecture does not fit the model.
    """
    batches = batches or testing.tiny_batches(model)
    checks = [*testing.architecture_checks(architecture, model, batches), *_cost_checks(architecture, model, batches)]
    return [_verdict(check) for check in track(checks, "checking")]


def random_model(source: AnyModel, *, layers: int = 2, trust_remote_code: bool = False) -> transformers.PreTrainedModel:
    """Build a model with the class and configuration of ``source``, random weights and fewer layers, in eval mode.

    Args:
        source: A model in any form that ``prune`` takes; weights of a directory or Hub name are not needed.
        layers: Maximum number of layers per stack.
        trust_remote_code: As for ``open_pretrained``.

    Raises:
        ModelError: The configuration does not exist, or transformers does not have the class.
    """
    if isinstance(source, (str, Path)):
        config, model_class = read_class(source, trust_remote_code=trust_remote_code)
    else:
        model: Any = module_of(source)
        config, model_class = plain_config(model), type(model)
    for name in SIZES:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, min(layers, getattr(config, name)))
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = kinds[: config.num_hidden_layers]
    if hasattr(config, "initializer_range"):
        config.initializer_range = (
            getattr(config, "hidden_size", 1024) ** -0.5
        )  # so that every unit affects the outputs
    return testing.random_weights(model_class, config)


def _cost_checks(architecture: Architecture, model: nn.Module, batches: Batches) -> Iterator[testing.Check]:
    for cost in loading.installed().counted_costs().values():

        def counted(cost: CostModel = cost) -> None:
            # what all heads share, such as a norm, goes with the last of them, and is not in the table
            testing.check_cost_model(cost, model=model, batches=batches, tolerance=0.05, architecture=architecture)

        yield testing.Check(f"{cost.name} are what is counted, within 5 %", counted)


def _verdict(check: testing.Check) -> Verdict:
    try:
        with torch.random.fork_rng(devices=[]):
            check.run()
    except AssertionError as error:
        return Verdict(check.name, passed=False, detail=str(error) or "an assertion without a message failed")
    except Exception as error:  # a wrong architecture can make any line of the model fail
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return Verdict(check.name, passed=False, detail=f"{type(error).__name__} in {where}: {error}")
    return Verdict(check.name, passed=True)
