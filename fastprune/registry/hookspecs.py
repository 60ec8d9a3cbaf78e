"""The hooks of a fastprune plugin. They register, once, when plugins load; pluggy never runs a stage."""

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

GROUP = "fastprune"
"""The entry point group that plugins are found by."""

hookspec = pluggy.HookspecMarker("fastprune")
hookimpl = pluggy.HookimplMarker("fastprune")


@hookspec
def register_architectures(register: Callable[[Architecture], None]) -> None:
    """Add model families: where the layers are, and which linears a unit runs through."""


@hookspec
def register_tasks(register: Callable[[type[Task]], None]) -> None:
    """Add tasks: what a kind of head is for, hence its loss, its labels and its metrics."""


@hookspec
def register_cost_models(register: Callable[[type[CostModel]], None]) -> None:
    """Add cost models: what keeping 0..units of a group costs."""


@hookspec
def register_scorers(register: Callable[[type[Scorer]], None]) -> None:
    """Add importance criteria: how much the loss suffers when a unit goes."""


@hookspec
def register_searchers(register: Callable[[type[Searcher]], None]) -> None:
    """Add mask searches: which units to keep within the budget (stage 1)."""


@hookspec
def register_rearrangers(register: Callable[[type[Rearranger]], None]) -> None:
    """Add rearrangements: which units to swap within a group (stage 2)."""


@hookspec
def register_tuners(register: Callable[[type[Tuner]], None]) -> None:
    """Add tuners: how the consumers make up for what is gone (stage 3)."""


@hookspec
def register_schedules(register: Callable[[type[Schedule]], None]) -> None:
    """Add schedules: how many passes there are, and the budget of each."""


@hookspec
def register_export_formats(register: Callable[[type[ExportFormat]], None]) -> None:
    """Add export formats: how a model is written for another runtime."""


@hookspec
def register_presets(register: Callable[[str, str], None]) -> None:
    """Add presets: a name, and the TOML text of the recipe."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add subcommands to the command line."""
