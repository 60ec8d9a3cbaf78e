"""The subcommand that the plugin adds to ``fastprune``."""

from __future__ import annotations

import click


@click.command()
@click.option("--layers", default=2, show_default=True, help="Layers of the toy.")
def toy_groups(layers: int) -> None:
    """List the groups of a random toy, and the units of each."""
    from fastprune.units import resolve_groups
    from fastprune_example.toy import TOY, random_toy

    for group in resolve_groups(TOY, random_toy(layers=layers)):
        click.echo(f"{group.name}\t{group.units}")
