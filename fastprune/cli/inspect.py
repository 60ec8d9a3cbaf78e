"""fastprune inspect."""

from __future__ import annotations

import json
from typing import Any

import click

from fastprune.cli.opening import (
    check_files,
    check_sources,
    named_file,
    open_model,
    read_architecture_option,
)
from fastprune.cli.options import model_options
from fastprune.cli.working import working


@click.command(short_help="Show what can be pruned of a model, or what is left.")
@click.argument("model")
@click.option("--seq-len", type=click.IntRange(1), help="Tokens a sample, for MACs; 128, or 16,000 readings.")
@click.option("--architecture", help="Where the units are: a TOML file, or a family by name.")
@click.option("--draft", is_flag=True, help="Print an architecture for MODEL's family as TOML, found by running it.")
@model_options
def inspect(model: str, seq_len: int | None, draft: bool, **options: Any) -> None:
    """Show what can be pruned of MODEL, or what is left of a pruned one: units, MACs and parameters by group.

    With --draft: propose where the units of an unknown family are, and say how sure that is. The proposal goes to
    standard output, for a file; weights are not read.

    \b
    fastprune inspect textattack/bert-base-uncased-MRPC
    fastprune inspect bert-half --seq-len 64
    fastprune inspect ./my-model --draft > my.toml
    """
    check_sources(model)
    check_files(named_file(options["architecture"]))
    if draft:
        _print_draft(model, as_json=options["as_json"])
        return
    with working(as_json=options["as_json"]) as where:
        from fastprune.cli import terminal
        from fastprune.measuring.inspection import inspect as look
        from fastprune.reports.figures import count

        architecture = read_architecture_option(options)
        found = look(open_model(model, options), seq_len=seq_len, architecture=architecture)
    if options["as_json"]:
        click.echo(json.dumps(found))
        return
    where.print(terminal.groups_table(found["groups"], found["measures"]))
    for name, of in (("macs", f" of a sample of length {found['seq_len']}"), ("parameters", "")):
        fixed = count(found["fixed"][name])
        where.print(f"{found['measures'][name]}{of}: {count(found[name])}, of which {fixed} cannot be pruned")


def _print_draft(model: str, *, as_json: bool) -> None:
    with working(as_json=as_json) as where:
        from fastprune.cli import terminal
        from fastprune.drafting.drafting import draft_architecture

        found = draft_architecture(model)
    if as_json:
        findings = [vars(finding) for finding in found.findings]
        click.echo(json.dumps({"findings": findings, "unclaimed": found.unclaimed, "toml": found.to_toml()}))
        return
    where.print(terminal.findings_table([vars(finding) for finding in found.findings]))
    click.echo(found.to_toml(), nl=False)
