"""Plugins: discovered by entry points and registered once, with unique names."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import pluggy

from fastprune.data.tasks import Task
from fastprune.errors import PluginError
from fastprune.registry import hookspecs
from fastprune.registry.names import Registry
from fastprune.strategies.contracts import CostModel, Rearranger, Scorer, Searcher, Strategy, Tuner
from fastprune.strategies.export_formats import ExportFormat
from fastprune.strategies.schedules import Schedule
from fastprune.units.architecture import Architecture
from fastprune.units.mixtures import Mixture

API_VERSION = 1
"""Version of the plugin API, raised by every incompatible change. A plugin may state its version as ``fastprune_api``."""

KINDS = ("scorer", "searcher", "rearranger", "tuner", "cost", "schedule")
"""Of the stages of a recipe."""
STRATEGIES = (*KINDS, "format")
"""All kinds of strategies."""

T = TypeVar("T")


@dataclass(frozen=True)
class PluginInfo:
    """One plugin: its name, its distribution, and the reason it was not loaded (empty if it was)."""

    name: str
    distribution: str
    problem: str = ""


@dataclass(frozen=True)
class Plugins:
    """Everything that the installed plugins registered."""

    scorer: Registry[type[Scorer]] = field(default_factory=lambda: Registry("scorer"))
    searcher: Registry[type[Searcher]] = field(default_factory=lambda: Registry("searcher"))
    rearranger: Registry[type[Rearranger]] = field(default_factory=lambda: Registry("rearranger"))
    tuner: Registry[type[Tuner]] = field(default_factory=lambda: Registry("tuner"))
    cost: Registry[type[CostModel]] = field(default_factory=lambda: Registry("cost model"))
    schedule: Registry[type[Schedule]] = field(default_factory=lambda: Registry("schedule"))
    format: Registry[type[ExportFormat]] = field(default_factory=lambda: Registry("format"))
    preset: Registry[str] = field(default_factory=lambda: Registry("preset"))
    architecture: Registry[Architecture] = field(default_factory=lambda: Registry("architecture"))
    mixture: Registry[Mixture] = field(default_factory=lambda: Registry("mixture"))
    task: Registry[type[Task]] = field(default_factory=lambda: Registry("task"))
    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager("fastprune"))
    found: list[PluginInfo] = field(default_factory=list)

    def counted_costs(self) -> dict[str, CostModel]:
        """The cost models that count, with their default options, by name."""
        return {name: self.cost[name]() for name in self.cost if self.cost[name].counted}

    def strategies(self, kind: str) -> Registry[type[Strategy]]:
        """The registry of a kind of strategy, one of ``STRATEGIES``."""
        registry: Registry[type[Strategy]] = getattr(self, kind)
        return registry


@functools.cache
def installed() -> Plugins:
    """The plugins of this Python environment, loaded at the first call."""
    return load(entry_points(group=hookspecs.GROUP))


def load(points: Iterable[EntryPoint]) -> Plugins:
    """Import and register plugins. A plugin that cannot be imported gives a warning; the others are loaded.

    Raises:
        PluginError: A hook is misspelled, a name is registered twice, or a registered object has the wrong type.
    """
    plugins = Plugins()
    plugins.manager.add_hookspecs(hookspecs)
    for point in sorted(points, key=lambda point: point.name):
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        problem = _load_one(plugins.manager, point)
        plugins.found.append(PluginInfo(point.name, distribution, problem))
        if problem:
            warnings.warn(f"The plugin '{point.name}' ({distribution}) was not loaded: {problem}", stacklevel=2)
    try:
        plugins.manager.check_pending()
    except pluggy.PluginValidationError as error:
        hooks = ", ".join(name for name, _ in inspect.getmembers(hookspecs, inspect.isfunction) if "register" in name)
        raise PluginError(f"A plugin implements a hook that does not exist: {error}. The hooks are {hooks}.") from error
    _register(plugins)
    return plugins


def _load_one(manager: pluggy.PluginManager, point: EntryPoint) -> str:
    """Import and register one plugin; returns the reason of a failure, or an empty text."""
    try:
        plugin = point.load()
    except Exception as error:  # no error of one plugin may prevent the others from loading
        return f"importing {point.value} failed with {type(error).__name__}: {error}"
    version = getattr(plugin, "fastprune_api", API_VERSION)
    if version != API_VERSION:
        return (
            f"it was written for plugin API {version}, and this fastprune has {API_VERSION}; install a matching version"
        )
    if manager.has_plugin(point.name):
        return "a plugin of this name is already registered; uninstall one of the two"
    try:
        manager.register(plugin, name=point.name)
    except (ValueError, pluggy.PluginValidationError) as error:
        if manager.has_plugin(point.name):  # pluggy keeps the plugin after a failed registration
            manager.unregister(name=point.name)
        return f"registering {point.value} failed: {' '.join(str(error).split())}"
    return ""


def _register(plugins: Plugins) -> None:
    """Call every registration hook of every plugin; each entry records its plugin."""
    hooks: list[tuple[str, Callable[[str], Callable[..., None]]]] = [
        ("register_architectures", lambda plugin: functools.partial(_add_architecture, plugins, plugin)),
        ("register_mixtures", lambda plugin: functools.partial(_add_mixture, plugins, plugin)),
        ("register_tasks", lambda plugin: functools.partial(_add_class, plugins.task, Task, plugin)),
        ("register_cost_models", lambda plugin: functools.partial(_add_class, plugins.cost, CostModel, plugin)),
        ("register_scorers", lambda plugin: functools.partial(_add_class, plugins.scorer, Scorer, plugin)),
        ("register_searchers", lambda plugin: functools.partial(_add_class, plugins.searcher, Searcher, plugin)),
        ("register_rearrangers", lambda plugin: functools.partial(_add_class, plugins.rearranger, Rearranger, plugin)),
        ("register_tuners", lambda plugin: functools.partial(_add_class, plugins.tuner, Tuner, plugin)),
        ("register_schedules", lambda plugin: functools.partial(_add_class, plugins.schedule, Schedule, plugin)),
        ("register_export_formats", lambda plugin: functools.partial(_add_class, plugins.format, ExportFormat, plugin)),
        ("register_presets", lambda plugin: lambda name, text: plugins.preset.add(name, text, plugin)),
    ]
    for hook, registrar in hooks:
        for implementation in getattr(plugins.manager.hook, hook).get_hookimpls():
            try:
                implementation.function(registrar(implementation.plugin_name))
            except PluginError:
                raise
            except Exception as error:
                raise PluginError(
                    f"The plugin '{implementation.plugin_name}' failed in {hook}: {type(error).__name__}: {error}."
                ) from error


def _add_class(registry: Registry[type[T]], contract: type[T], plugin: str, value: type[T]) -> None:
    described = f"The plugin '{plugin}' registers {getattr(value, '__name__', value)!r} as a {registry.kind}"
    if not (isinstance(value, type) and issubclass(value, contract)):
        face = ".".join(contract.__module__.split(".")[:2])
        raise PluginError(f"{described}, which is not a subclass of {face}.{contract.__name__}.")
    missing = sorted(getattr(value, "__abstractmethods__", ()))
    if missing:
        raise PluginError(f"{described}, but it does not define {', '.join(missing)}.")
    name: Any = getattr(value, "name", None)
    if not isinstance(name, str) or not dataclasses.is_dataclass(value) or not value.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise PluginError(f"{described}; it must be a frozen dataclass with a ClassVar 'name'.")
    registry.add(name, value, plugin)


def _add_architecture(plugins: Plugins, plugin: str, architecture: Architecture) -> None:
    if not isinstance(architecture, Architecture):
        raise PluginError(
            f"The plugin '{plugin}' registers {architecture!r} as an architecture; it must be an Architecture."
        )
    plugins.architecture.add(architecture.name, architecture, plugin)


def _add_mixture(plugins: Plugins, plugin: str, mixture: Mixture) -> None:
    if not isinstance(mixture, Mixture):
        raise PluginError(f"The plugin '{plugin}' registers {mixture!r} as a mixture; it must be a Mixture.")
    plugins.mixture.add(mixture.name, mixture, plugin)
