"""fastprune measure."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from fastprune.cli.opening import (
    check_files,
    check_sources,
    named_file,
    open_model,
    read_architecture_option,
)
from fastprune.cli.options import architecture_option, model_options, serving_options, within
from fastprune.cli.saving import save_somewhere
from fastprune.cli.working import working
from fastprune.errors import UsageError
from fastprune.files import check_file, claimed
from fastprune.ranges import BATCH, LENGTH, ROUNDS
from fastprune.reports.pictures import check_picture


@click.command(short_help="Measure a model's latency table on this machine.")
@click.argument("model", required=False)
@click.option("--output", help="File for the table (JSON); with --show, for the plot (.png, .svg, .pdf).")
@click.option("--show", help="Show the curves of an existing table file instead of measuring.")
@click.option("--cost", default="latency", show_default=True, help="Cost model, one that is measured.")
@click.option(
    "--mode",
    type=click.Choice(["pass", "prefill", "decode"]),
    help="What the cost latency measures: a forward pass, or of a decoder the reading of a prompt, or one token behind it with the "
    "cache [default: pass].",
)
@click.option("--batch-size", type=within(BATCH), help="Samples at once [default: 32; of prefill and decode 1].")
@click.option(
    "--seq-len", type=within(LENGTH), help="Tokens per sample [default: 128, or 16,000 readings of a recording]."
)
@click.option(
    "--rounds", type=within(ROUNDS), default=5, show_default=True, help="Number of times each width is measured."
)
@click.option("--cache/--no-cache", default=True, help="Read and store tables in the user's cache directory.")
@architecture_option
@serving_options
@model_options
def measure(model: str | None, output: str | None, show: str | None, **options: Any) -> None:
    """Measure MODEL's latency with any number of heads and filters on this machine, as a table for fastprune prune.

    \b
    fastprune measure ./my-classifier --batch-size 1 --seq-len 64 --output table.json
    fastprune measure ./my-classifier --device cuda --dtype bfloat16 --output table.json
    fastprune measure ./my-llama --mode decode --seq-len 256 --output decode.json
    fastprune measure --show table.json
    """
    if bool(model) == bool(show):
        raise UsageError("Name a MODEL to measure, or a table to --show.")
    check_sources(model)
    check_files(show, named_file(options["architecture"]))
    if output:
        check_picture(output) if show else check_file(output, mark=b"fastprune cost table")
    with claimed(output) if output else contextlib.nullcontext(), working() as where:
        from fastprune.cli import terminal
        from fastprune.measuring import cost_tables
        from fastprune.strategies.tables import MeasuredTable

        if show:
            table = MeasuredTable.read(show)
        else:
            assert model is not None
            generating = options["mode"] in ("prefill", "decode")
            options["batch_size"] = options["batch_size"] or (1 if generating else 32)
            names = ["batch_size", "seq_len", "rounds", "cache", "attention", "threads", "compile"]
            names += ["mode"] if options["mode"] else []
            settings = {name: options[name] for name in names}
            settings |= {"cost": options["cost"], "architecture": read_architecture_option(options)}
            table = cost_tables.measure(open_model(model, options), **settings)
        if output:
            cost_tables.draw(table, output) if show else save_somewhere(table.save, output)
    if options["as_json"]:
        click.echo(table.to_json())
        return
    if show or not output:
        for curve in table.curves:
            where.print(cost_tables.title(curve))
            where.print(terminal.curve_table(curve, table.measure))
    where.print(cost_tables.conditions_text(table.conditions))
    where.print(f"{table.total:.4g} {table.measure}, of which {table.fixed:.4g} cannot be pruned")
    if output:
        use = "" if show else f" Use it: fastprune prune ... --set cost.table_file={output}"
        where.print(f"Saved in {output}.{use}", soft_wrap=True)
