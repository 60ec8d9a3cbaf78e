"""Checks of a whole plugin: everything it registers."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastprune.errors import FastpruneError
from fastprune.registry import loading
from fastprune.registry.recipe import Recipe
from fastprune.strategies.contracts import CostModel, Rearranger, Scorer, Searcher, Strategy, Tuner
from fastprune.strategies.export_formats import ExportFormat
from fastprune.strategies.options import options_of
from fastprune.strategies.schedules import Schedule
from fastprune.testing.architectures import check_architecture
from fastprune.testing.cost_models import check_cost_model
from fastprune.testing.export_formats import check_export_format
from fastprune.testing.rearrangers import check_rearranger
from fastprune.testing.schedules import check_schedule
from fastprune.testing.scorers import check_scorer
from fastprune.testing.searchers import check_searcher
from fastprune.testing.tasks import check_task
from fastprune.testing.tiny import model_for, tiny_model
from fastprune.testing.tuners import check_tuner


def check_plugin(module: Any, *, models: Iterable[nn.Module] = (), cost_tolerance: float = 1e-9) -> None:
    """Register a plugin by itself, as its installation would, and check everything it registers.

    Strategies are checked with their default options. Presets are checked only if the plugin is installed.

    Args:
        module: The plugin, which is the module or object of its entry point.
        models: Tiny models for architectures and tasks; missing ones are built by ``tiny_model``.
        cost_tolerance: ``tolerance`` of ``check_cost_model``, for measured costs.

    Raises:
        AssertionError: A check fails, or the plugin registers nothing.
    """
    name = getattr(module, "__name__", type(module).__name__)
    registered = _register_alone(name, module)
    checked = 0
    for kind in loading.STRATEGIES:
        for strategy in (registered.strategies(kind)[name] for name in registered.strategies(kind)):
            assert all(info.default is not dataclasses.MISSING for info in options_of(strategy)), (
                f"An option of {kind} '{strategy.name}' has no default; every option needs one."
            )
            check_strategy(strategy(), cost_tolerance=cost_tolerance)
            checked += 1
    available = list(models)
    for architecture in (registered.architecture[name] for name in registered.architecture):
        checked += 1
        for model_type in architecture.model_types:
            fitting = [model for model in available if getattr(model.config, "model_type", None) == model_type]
            for model in fitting or [tiny_model(model_type)]:
                check_architecture(architecture, model)
    for task in (registered.task[name] for name in registered.task):
        checked += 1
        fitting = [model for model in available if task.serves(model.config, type(model).__name__)]  # type: ignore[arg-type]
        for served in fitting or [model_for(task)]:
            check_task(task, model=served)
    for preset in registered.preset:
        checked += 1
        if preset in loading.installed().preset:
            check_preset(preset)
    commands = hasattr(module, "register_commands")
    assert checked or commands, f"The plugin '{name}' registers nothing; are its functions marked with hookimpl?"


def check_preset(preset: str) -> None:
    """Check that a registered preset is a complete recipe and unchanged after writing and reading it as TOML.

    Raises:
        AssertionError: The recipe changes.
    """
    recipe = Recipe.of(preset)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.toml"
        file.write_text(recipe.to_toml(), encoding="utf-8")
        assert Recipe.of(file) == recipe, f"The preset '{preset}' changes when it is written as TOML and read again."


def check_strategy(strategy: Strategy, *, cost_tolerance: float = 1e-9) -> None:
    """Run the check for the kind of a strategy.

    Raises:
        AssertionError: A check fails.
    """
    if isinstance(strategy, CostModel):
        check_cost_model(strategy, tolerance=cost_tolerance)
        return
    checks: dict[type[Strategy], Any] = {
        Scorer: check_scorer,
        Searcher: check_searcher,
        Rearranger: check_rearranger,
        Tuner: check_tuner,
        Schedule: check_schedule,
        ExportFormat: check_export_format,
    }
    fitting = [check for contract, check in checks.items() if isinstance(strategy, contract)]
    assert len(fitting) == 1, (
        f"{type(strategy).__name__} implements {len(fitting)} kinds of strategies; it must implement exactly one."
    )
    fitting[0](strategy)


@dataclass(frozen=True)
class _Alone:
    """Replacement for the entry point of a plugin that is checked by itself."""

    name: str
    module: Any
    dist: None = None

    @property
    def value(self) -> str:
        return self.name

    def load(self) -> Any:
        return self.module


def _register_alone(name: str, module: Any) -> loading.Plugins:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            registered = loading.load([_Alone(name, module)])  # type: ignore[list-item]
        except FastpruneError as error:
            raise AssertionError(str(error)) from error
    problems = [info.problem for info in registered.found if info.problem]
    assert not problems, f"The plugin '{name}' cannot be loaded: {problems[0]} ({len(caught)} warnings)."
    return registered
