"""A whole plugin: the fitting check for everything that it registers."""

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
    """Register a plugin alone, as installing it would, and run the fitting check on everything that it registers.

    Strategies are checked with their default options. Presets are checked only where the plugin is installed.

    Args:
        module: The plugin: the module, or the object, that its entry point names.
        models: Tiny models for architectures and tasks; ``tiny_model`` makes those that are not given.
        cost_tolerance: As ``tolerance`` of ``check_cost_model``, for cost models that measure rather than count.
    """
    name = getattr(module, "__name__", type(module).__name__)
    registered = _register_alone(name, module)
    found = 0
    for kind in loading.STRATEGIES:
        for strategy in (registered.strategies(kind)[name] for name in registered.strategies(kind)):
            assert all(info.default is not dataclasses.MISSING for info in options_of(strategy)), (
                f"An option of {kind} '{strategy.name}' has no default, so that its name alone does not choose it."
            )
            check_strategy(strategy(), cost_tolerance=cost_tolerance)
            found += 1
    given = list(models)
    for architecture in (registered.architecture[name] for name in registered.architecture):
        found += 1
        for model_type in architecture.model_types:
            fitting = [model for model in given if getattr(model.config, "model_type", None) == model_type]
            for model in fitting or [tiny_model(model_type)]:
                check_architecture(architecture, model)
    for task in (registered.task[name] for name in registered.task):
        found += 1
        fitting = [model for model in given if task.serves(model.config, type(model).__name__)]  # type: ignore[arg-type]
        for served in fitting or [model_for(task)]:
            check_task(task, model=served)
    for preset in registered.preset:
        found += 1
        if preset in loading.installed().preset:
            check_preset(preset)
    commands = hasattr(module, "register_commands")
    assert found or commands, f"The plugin '{name}' registers nothing; are its functions marked with hookimpl?"


def check_preset(preset: str) -> None:
    """A registered preset makes a whole recipe, which survives its own TOML."""
    recipe = Recipe.of(preset)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.toml"
        file.write_text(recipe.to_toml(), encoding="utf-8")
        assert Recipe.of(file) == recipe, f"The preset '{preset}' is another recipe once written as TOML and read."


def check_strategy(strategy: Strategy, *, cost_tolerance: float = 1e-9) -> None:
    """Run the check of the strategy's own kind."""
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
    assert len(fitting) == 1, f"{type(strategy).__name__} fulfils {len(fitting)} contracts; it must fulfil exactly one."
    fitting[0](strategy)


@dataclass(frozen=True)
class _Alone:
    """What stands for the entry point of a plugin that is checked by itself."""

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
    assert not problems, f"The plugin '{name}' does not load: {problems[0]} ({len(caught)} warnings)."
    return registered
