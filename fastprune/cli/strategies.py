"""fastprune strategies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from fastprune.files import json_text


def _complete_kinds(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(incomplete)]


KINDS = ("scorer", "searcher", "rearranger", "tuner", "cost", "schedule", "format", "preset", "architecture")
"""As the catalogue has them, without the seconds that importing it takes."""


@click.command(short_help="List strategies, presets and architectures.")
@click.argument("kind", required=False, shell_complete=_complete_kinds)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def strategies(kind: str | None, name: str | None, as_json: bool) -> None:
    """List all strategies, presets and architectures, those of one KIND, or one by NAME with options, formula and paper.

    \b
    fastprune strategies                            everything
    fastprune strategies scorer                     the importance criteria
    fastprune strategies scorer fisher              what it computes, and its options
    fastprune strategies format                     what fastprune export writes
    fastprune strategies preset paper > mine.toml   a recipe to edit and give to prune --recipe
    fastprune strategies architecture bert          a family to edit and give to prune --architecture
    """
    from fastprune.registry import catalogue

    if name and kind in ("preset", "architecture"):
        click.echo(catalogue.preset(name) if kind == "preset" else catalogue.architecture(name), nl=False)
        return
    entries = catalogue.entries(kind, name)
    if as_json:
        click.echo(json_text(entries))
    elif name:
        click.echo(_described(entries[0]))
    else:
        for entry in entries:
            click.echo(f"{entry['kind']:<12} {entry['name']:<14} {entry['summary']}")


def _described(entry: Mapping[str, Any]) -> str:
    """The full description of one strategy as text."""
    lines = [f"{entry['kind']} {entry['name']}, from the plugin {entry['plugin']}", "", entry["description"], ""]
    for option in entry["options"]:
        takes = ", ".join(filter(None, (option["type"], option["range"])))
        lines.append(f"    {option['name']} = {option['default']!r}  ({takes})  {option['help']}")
    lines += [""] * bool(entry["options"])
    for name in ("formula", "paper"):
        if entry[name]:
            lines.append(f"{name.capitalize():<9}{entry[name]}")
    if entry["use"]:
        lines.append(f"{'Use':<9}{entry['use']}")
    return "\n".join(lines).rstrip()
