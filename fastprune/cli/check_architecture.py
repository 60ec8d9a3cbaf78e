"""fastprune check-architecture."""

from __future__ import annotations

import json

import click

from fastprune.cli.opening import (
    check_files,
    check_sources,
    named_file,
    read_architecture_option,
)
from fastprune.cli.options import verbosity_options
from fastprune.cli.working import working


@click.command(short_help="Check that fastprune prunes a model's family rightly.")
@click.argument("model")
@click.option("--architecture", help="Where the units are: a TOML file, or a family by name.")
@click.option("--layers", type=click.IntRange(2), default=2, show_default=True, help="Of the model that is built.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else.")
@verbosity_options
@click.pass_context
def check_architecture(ctx: click.Context, model: str, architecture: str | None, layers: int, as_json: bool) -> None:
    """Run the conformance suite on MODEL's family: a model of its configuration, with random weights and few layers.

    Every check says whether what is pruned is what was masked: with half of the units gone, all of a group, all of all;
    saved and loaded, trained on, generating, tuned. The exit status is 1 where one fails.

    \b
    fastprune check-architecture ./my-model
    fastprune check-architecture ./my-model --architecture my.toml
    """
    check_sources(model)
    check_files(named_file(architecture))
    with working(as_json=as_json) as where:
        from fastprune.cli import terminal
        from fastprune.testing.conformance import check_model

        given = read_architecture_option({"architecture": architecture})
        found = check_model(model, architecture=given, layers=layers)
    failed = [verdict for verdict in found if not verdict.passed]
    if as_json:
        click.echo(json.dumps([vars(verdict) for verdict in found]))
    else:
        where.print(terminal.verdicts_table([(one.check, one.passed, one.detail) for one in found]))
        where.print(f"{len(found) - len(failed)} of {len(found)} checks passed.")
    ctx.exit(1 if failed else 0)
