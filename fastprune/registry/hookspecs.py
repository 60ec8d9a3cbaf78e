"""The hooks of a fastprune plugin. They are called once, to register classes and data; pluggy never runs a stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from fastprune.data.tasks import Task
    from fastprune.strategies.contracts import CostModel, Rearranger, Scorer, Searcher, Tuner
    from fastprune.strategies.export_formats import ExportFormat
    from fastprune.strategies.schedules import Schedule
    from fastprune.units.architecture import Architecture
    from fastprune.units.mixtures import Mixture

GROUP = "fastprune"
"""The entry point group of plugins."""

hookspec = pluggy.HookspecMarker("fastprune")
hookimpl = pluggy.HookimplMarker("fastprune")


@hookspec
def register_architectures(register: Callable[[Architecture], None]) -> None:
    """Add model families: the paths of their layers, and the linears of each kind of unit."""


@hookspec
def register_mixtures(register: Callable[[Mixture], None]) -> None:
    """Add families of mixtures of experts: names of their modules and settings, for removing whole experts."""


@hookspec
def register_tasks(register: Callable[[type[Task]], None]) -> None:
    """Add tasks: encoding, loss, labels and metrics for a kind of head."""


@hookspec
def register_cost_models(register: Callable[[type[CostModel]], None]) -> None:
    """Add cost models: the cost of keeping 0..units units of each group."""


@hookspec
def register_scorers(register: Callable[[type[Scorer]], None]) -> None:
    """Add importance criteria: the importance of each unit."""


@hookspec
def register_searchers(register: Callable[[type[Searcher]], None]) -> None:
    """Add mask searches: the units to keep within the budget (stage 1)."""


@hookspec
def register_rearrangers(register: Callable[[type[Rearranger]], None]) -> None:
    """Add rearrangements: swaps of units within a group (stage 2)."""


@hookspec
def register_tuners(register: Callable[[type[Tuner]], None]) -> None:
    """Add tuners: reconstruction of the kept weights toward the dense model (stage 3)."""


@hookspec
def register_schedules(register: Callable[[type[Schedule]], None]) -> None:
    """Add schedules: the number of passes and the budget of each."""


@hookspec
def register_export_formats(register: Callable[[type[ExportFormat]], None]) -> None:
    """Add export formats: how a model is written for another runtime."""


@hookspec
def register_presets(register: Callable[[str, str], None]) -> None:
    """Add presets: a name and the TOML text of the recipe."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add subcommands to the command line."""
