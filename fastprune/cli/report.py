"""fastprune report."""

from __future__ import annotations

import click


@click.command(short_help="Write an HTML report that compares pruned models.")
@click.argument("directories", nargs=-1, required=True)
@click.option("--output", default="report.html", show_default=True, help="HTML file to write.")
def report(directories: tuple[str, ...], output: str) -> None:
    """Write an HTML report that compares the pruned models in DIRECTORIES. The page loads nothing from the network.

    The report of a single model is in its directory: DIR/report.html.

    \b
    fastprune report small smaller
    fastprune report runs/* --output runs.html
    """
    from fastprune.models.manifests import write_report

    click.echo(write_report(directories, output))
