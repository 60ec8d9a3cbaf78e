"""fastprune bench."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from fastprune.cli.opening import (
    check_files,
    open_model,
)
from fastprune.cli.options import model_options, serving_options, within
from fastprune.cli.working import working
from fastprune.errors import UsageError
from fastprune.files import json_text
from fastprune.ranges import BATCH, LENGTH, ROUNDS


@click.command(short_help="Time a dense and a pruned model side by side.")
@click.argument("dense")
@click.argument("pruned")
@click.option(
    "--batch-size",
    type=within(BATCH),
    help="Samples per forward pass [default: that of PRUNED's latency, else 32].",
)
@click.option(
    "--seq-len", type=within(LENGTH), help="Tokens per sample [default: those of PRUNED's latency, else 128]."
)
@click.option("--rounds", type=within(ROUNDS), default=15, show_default=True, help="Measurements of each model.")
@click.option(
    "--latency-table", help="Table file for the predicted latency [default: the latency in PRUNED's manifest]."
)
@serving_options
@model_options
def bench(dense: str, pruned: str, **options: Any) -> None:
    """Time DENSE and PRUNED in turns on the same inputs: median, spread, throughput, memory and predicted latency.

    \b
    fastprune bench ./my-classifier small
    fastprune bench ./my-classifier small --batch-size 1 --seq-len 64
    fastprune bench dense-onnx small-onnx                             both of fastprune export, in their runtimes
    """
    check_files(options["latency_table"])
    with working() as where:
        from fastprune.cli import terminal
        from fastprune.exporting import opening, timing
        from fastprune.measuring import side_by_side

        settings = {name: options[name] for name in ("batch_size", "seq_len", "rounds", "threads")}
        exported = [opening.format_of(each) is not None for each in (dense, pruned)]
        if any(exported):
            if not all(exported) or options["attention"] or options["compile"] or options["latency_table"]:
                raise UsageError(
                    "An exported model can only be compared with another exported model, without --attention, --compile and "
                    "--latency-table; export both models."
                )
            compared = timing.bench_exported(dense, pruned, **settings)
        else:
            compared = side_by_side.bench_saved(
                open_model(dense, options),
                open_model(pruned, options),
                table_file=options["latency_table"],
                attention=options["attention"],
                compile=options["compile"],
                **settings,
            )
    figures = compared.summary()
    if options["as_json"]:
        click.echo(json_text(figures))
        return
    from fastprune.reports.figures import shape

    title = f"{shape(compared.batch_size, compared.seq_len, compared.unit)}, {options['rounds']} rounds"
    where.print(terminal.figures_table(_bench_rows(figures), title))


def _bench_rows(figures: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The figures of a comparison as table rows: name, dense, pruned, comparison."""
    from fastprune.reports.figures import count, milliseconds, ratio, speedup

    dense, pruned = figures["dense"], figures["pruned"]

    def row(name: str, text: Callable[[Mapping[str, Any]], str], comparison: str = "") -> tuple[str, str, str, str]:
        return name, text(dense), text(pruned), comparison

    rows = [
        row(
            "milliseconds",
            lambda side: milliseconds(side["milliseconds"]["median"]),
            f"{figures['speedup']:.2f}x as fast",
        ),
        row("  quartiles", lambda side: "{lower_quartile:.4g} to {upper_quartile:.4g}".format(**side["milliseconds"])),
    ]
    if "predicted_milliseconds" in pruned:
        predicted = {name: figures[name]["predicted_milliseconds"] for name in ("dense", "pruned")}
        faster = f"{speedup(predicted['dense'], predicted['pruned']):.2f}x as fast"
        rows.append(row("  predicted", lambda side: milliseconds(side["predicted_milliseconds"]), faster))
    rows.append(row("samples per second", lambda side: f"{side['samples_per_second']:.4g}"))
    for name, key in (("weights in memory", "weight_bytes"), ("peak memory besides weights", "peak_bytes")):
        if key in dense:
            rows.append((name, f"{count(dense[key])}B", f"{count(pruned[key])}B", ratio(dense[key], pruned[key])))
    return rows
