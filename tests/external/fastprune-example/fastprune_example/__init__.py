"""A plugin as an outsider would write it: a scorer, two model families, an export format, a subcommand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastprune import hookimpl, read_architecture
from fastprune.strategies import ExportFormat, Scorer
from fastprune.units import Architecture
from fastprune_example.power import PowerScorer
from fastprune_example.toy import TOY
from fastprune_example.widths import WidthsFormat

if TYPE_CHECKING:
    import click


@hookimpl
def register_scorers(register: Callable[[type[Scorer]], None]) -> None:
    """Add ``power``."""
    register(PowerScorer)


@hookimpl
def register_architectures(register: Callable[[Architecture], None]) -> None:
    """Add ``toy``, which is written in Python, and ``twig``, which is not."""
    register(TOY)
    register(read_architecture(Path(__file__).with_name("twig.toml")))


@hookimpl
def register_export_formats(register: Callable[[type[ExportFormat]], None]) -> None:
    """Add ``widths``."""
    register(WidthsFormat)


@hookimpl
def register_commands(cli: click.Group) -> None:
    """Add ``toy-groups``."""
    from fastprune_example.commands import toy_groups

    cli.add_command(toy_groups)
