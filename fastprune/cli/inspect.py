"""fastprune inspect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from fastprune.cli.opening import (
    check_files,
    check_sources,
    named_file,
    open_model,
    read_architecture_option,
)
from fastprune.cli.options import architecture_option, model_options, within
from fastprune.cli.working import working
from fastprune.files import json_text
from fastprune.ranges import LENGTH


@click.command(short_help="Show a model's prunable units and their costs.")
@click.argument("model")
@click.option(
    "--seq-len",
    type=within(LENGTH),
    help="Tokens per sample, for MACs [default: 128, or 16,000 readings of a recording].",
)
@architecture_option
@click.option("--draft", is_flag=True, help="Print a draft architecture for MODEL's family as TOML.")
@model_options
def inspect(model: str, seq_len: int | None, draft: bool, **options: Any) -> None:
    """Show MODEL's units, kept and pruned, with MACs and parameters by group, and which servers take it.

    With --draft: propose an architecture for an unknown family by running a small random model of it, with a confidence for
    each block. The TOML goes to standard output; the model's weights are not read.

    \b
    fastprune inspect textattack/bert-base-uncased-MRPC
    fastprune inspect bert-half --seq-len 64
    fastprune inspect ./my-model --draft > my.toml
    """
    check_sources(model)
    check_files(named_file(options["architecture"]))
    if draft:
        _print_draft(model, options)
        return
    with working() as where:
        from fastprune.cli import terminal
        from fastprune.exporting.servers import servers
        from fastprune.measuring.inspection import inspect as look
        from fastprune.reports.figures import count

        architecture = read_architecture_option(options)
        opened = open_model(model, options)
        units = look(opened, seq_len=seq_len, architecture=architecture)
        served = servers(opened)
    if options["as_json"]:
        click.echo(json_text(units | {"servers": [vars(each) for each in served]}))
        return
    where.print(terminal.groups_table(units["groups"], units["measures"]))
    where.print(f"Counted for a sample of length {units['seq_len']}:")
    for name, measure in units["measures"].items():
        where.print(f"{measure}: {count(units[name])}, of which {count(units['fixed'][name])} cannot be pruned")
    where.print(terminal.servers_table(served))


def _print_draft(model: str, options: Mapping[str, Any]) -> None:
    with working() as where:
        from fastprune.cli import terminal
        from fastprune.drafting.drafting import draft_architecture

        draft = draft_architecture(model, trust_remote_code=options["trust_remote_code"])
    if options["as_json"]:
        findings = [vars(finding) for finding in draft.findings]
        click.echo(json_text({"findings": findings, "unclaimed": draft.unclaimed, "toml": draft.to_toml()}))
        return
    where.print(terminal.findings_table([vars(finding) for finding in draft.findings]))
    click.echo(draft.to_toml(), nl=False)
