"""fastprune plugins."""

from __future__ import annotations

import click

from fastprune.files import json_text


@click.command(short_help="List the installed plugins.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List the installed plugins, with the error of those that could not be loaded."""
    from fastprune.registry import loading

    rows = [{"name": p.name, "distribution": p.distribution, "problem": p.problem} for p in loading.installed().found]
    if as_json:
        click.echo(json_text(rows))
        return
    for row in rows:
        click.echo(f"{row['name']:<14} {row['distribution']:<24} {row['problem'] or 'loaded'}")
