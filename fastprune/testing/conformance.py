"""Conformance of somebody's own model: every check of the suite, on its family with random weights, a verdict for each."""

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
from fastprune.models.pretrained import read_class
from fastprune.progress import track
from fastprune.registry import loading, serving
from fastprune.units.architecture import Architecture

SIZES = ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
"""The names under which configurations say how many layers there are."""


@dataclass(frozen=True)
class Verdict:
    """What a check said.

    Attributes:
        check: What must hold.
        passed: Whether it does.
        detail: What was found instead; empty where it passed.
    """

    check: str
    passed: bool
    detail: str = ""


def check_model(source: str | Path, *, architecture: Architecture | None = None, layers: int = 2) -> list[Verdict]:
    """The conformance suite on the family of a model directory or Hub name. Its weights are not read.

    Args:
        source: As for ``open_pretrained``; a directory with nothing but a ``config.json`` will do.
        architecture: Where the units are; None: by ``config.model_type``.
        layers: Of each stack of the model that is built, where the configuration has more.

    Raises:
        ModelError: There is no such model, no architecture serves it, or the architecture does not fit it.
    """
    model = random_model(source, layers=layers)
    return verdicts(architecture or serving.architecture_for(model), model)


def verdicts(architecture: Architecture, model: nn.Module, batches: Batches | None = None) -> list[Verdict]:
    """What the conformance suite says of an architecture on a model, check by check.

    Args:
        architecture: To be checked.
        model: A small one of the family.
        batches: To run it on; None: random.

    Raises:
        ModelError: The architecture does not fit the model.
    """
    batches = batches or testing.tiny_batches(model)
    checks = [*testing.architecture_checks(architecture, model, batches), *_cost_checks(architecture, model, batches)]
    return [_verdict(check) for check in track(checks, "checking")]


def random_model(source: str | Path, *, layers: int = 2) -> transformers.PreTrainedModel:
    """A model of the same class and configuration, but with random weights and fewer layers, in eval mode.

    Args:
        source: As for ``open_pretrained``; weights are not needed.
        layers: Of each stack, at most.

    Raises:
        ModelError: There is no such configuration, or transformers does not have the class.
    """
    config, model_class = read_class(source)
    for name in SIZES:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, min(layers, getattr(config, name)))
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = kinds[: config.num_hidden_layers]
    if hasattr(config, "initializer_range"):
        config.initializer_range = getattr(config, "hidden_size", 1024) ** -0.5  # large enough for a lost unit to show
    return testing.random_weights(model_class, config)


def _cost_checks(architecture: Architecture, model: nn.Module, batches: Batches) -> Iterator[testing.Check]:
    for name in ("macs", "params"):
        cost: Any = loading.installed().cost[name]()

        def counted(cost: Any = cost) -> None:
            # what all heads share, such as a norm, goes with the last of them, and is not in the table
            testing.check_cost_model(cost, model=model, batches=batches, tolerance=0.05, architecture=architecture)

        yield testing.Check(f"{name} are what is counted, within 5 %", counted)


def _verdict(check: testing.Check) -> Verdict:
    try:
        with torch.random.fork_rng(devices=[]):
            check.run()
    except AssertionError as error:
        return Verdict(check.name, passed=False, detail=str(error) or "an assertion without a sentence failed")
    except Exception as error:  # a wrong architecture makes any line of the model fail
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return Verdict(check.name, passed=False, detail=f"{type(error).__name__} in {where}: {error}")
    return Verdict(check.name, passed=True)
