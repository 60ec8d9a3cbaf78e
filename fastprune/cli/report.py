"""fastprune report."""

from __future__ import annotations

import click

from fastprune.files import check_file


@click.command(short_help="Show several pruned models side by side on one page.")
@click.argument("directories", nargs=-1, required=True)
@click.option("--output", default="report.html", show_default=True, help="The page.")
def report(directories: tuple[str, ...], output: str) -> None:
    """Show pruned models side by side on one page, which needs no network. Each has one of its own: DIR/report.html.

    \b
    fastprune report small smaller
    fastprune report runs/* --output runs.html
    """
    from fastprune.models.manifests import write_report

    check_file(output)
    click.echo(write_report(directories, output))
