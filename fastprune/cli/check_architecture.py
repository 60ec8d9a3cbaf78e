"""fastprune check-architecture."""

from __future__ import annotations

import click

from fastprune.cli.opening import (
    check_files,
    check_sources,
    named_file,
    read_architecture_option,
)
from fastprune.cli.options import trust_option, verbosity_options
from fastprune.cli.working import working
from fastprune.files import json_text


@click.command(short_help="Check that fastprune prunes a model's family correctly.")
@click.argument("model")
@click.option(
    "--architecture",
    help="Architecture to check: a TOML file, or a family by name [default: the registered family of MODEL].",
)
@click.option(
    "--layers",
    type=click.IntRange(2),
    default=2,
    show_default=True,
    help="Layers per stack of the test model, at most.",
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print only JSON, on standard output.")
@verbosity_options
@click.pass_context
def check_architecture(
    ctx: click.Context, model: str, architecture: str | None, layers: int, trust_remote_code: bool, as_json: bool
) -> None:
    """Run the conformance suite on MODEL's family, with a model of its configuration with random weights and few layers.

    The checks compare the pruned model to the masked one: with half of the units, with empty groups and with no unit left;
    also after saving and loading, in training, generation and tuning. The exit status is 1 if a check fails.

    \b
    fastprune check-architecture ./my-model
    fastprune check-architecture ./my-model --architecture my.toml
    """
    check_sources(model)
    check_files(named_file(architecture))
    with working() as where:
        from fastprune.cli import terminal
        from fastprune.testing.conformance import check_model

        chosen = read_architecture_option({"architecture": architecture})
        verdicts = check_model(model, architecture=chosen, layers=layers, trust_remote_code=trust_remote_code)
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if as_json:
        click.echo(json_text([vars(verdict) for verdict in verdicts]))
    else:
        where.print(terminal.verdicts_table([(one.check, one.passed, one.detail) for one in verdicts]))
        where.print(f"{len(verdicts) - len(failed)} of {len(verdicts)} checks passed.")
    ctx.exit(1 if failed else 0)
