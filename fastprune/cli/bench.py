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
from fastprune.ranges import BATCH, COUNT, LENGTH, ROUNDS


@click.command(short_help="Time a dense and a pruned model side by side.")
@click.argument("dense")
@click.argument("pruned")
@click.option(
    "--batch-size",
    type=within(BATCH),
    help="Samples per forward pass [default: that of PRUNED's latency, else 32, of models that generate texts 1].",
)
@click.option(
    "--seq-len", type=within(LENGTH), help="Tokens per sample [default: those of PRUNED's latency, else 128]."
)
@click.option("--rounds", type=within(ROUNDS), default=15, show_default=True, help="Measurements of each model.")
@click.option(
    "--new-tokens",
    type=within(COUNT),
    help="Tokens to generate after a prompt of --seq-len tokens [default: 32 for models that generate texts].",
)
@click.option(
    "--latency-table", help="Table file for the predicted latency [default: the latency in PRUNED's manifest]."
)
@serving_options
@model_options
def bench(dense: str, pruned: str, **options: Any) -> None:
    """Time DENSE and PRUNED in turns on the same inputs: median, spread, throughput, memory and predicted latency; and, of models
    that generate texts, prefill of a prompt and decoding token by token.

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
            if (
                not all(exported)
                or options["attention"]
                or options["compile"]
                or options["latency_table"]
                or options["new_tokens"]
            ):
                raise UsageError(
                    "An exported model can only be compared with another exported model, without --attention, --compile, "
                    "--latency-table and --new-tokens; export both models."
                )
            compared = timing.bench_exported(dense, pruned, **settings)
        else:
            compared = side_by_side.bench_saved(
                open_model(dense, options),
                open_model(pruned, options),
                table_file=options["latency_table"],
                new_tokens=options["new_tokens"],
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
    if "generation" in figures:
        where.print(terminal.figures_table(*_generation_rows(figures["generation"])))


def _generation_rows(figures: Mapping[str, Any]) -> tuple[list[tuple[str, str, str, str]], str]:
    """The times of generation as table rows, and their title."""
    from fastprune.reports.figures import milliseconds

    dense, pruned = figures["dense"], figures["pruned"]
    rows = []
    for name, times, speeds, faster in (
        ("prefill", "prefill_milliseconds", "prefill_tokens_per_second", "prefill_speedup"),
        ("decode, a token", "milliseconds_per_token", "tokens_per_second", "decode_speedup"),
    ):
        comparison = f"{figures[faster]:.2f}x as fast"
        rows.append((f"{name}, ms", milliseconds(dense[times]), milliseconds(pruned[times]), comparison))
        rows.append(("  tokens per second", f"{dense[speeds]:.4g}", f"{pruned[speeds]:.4g}", ""))
    size = (
        f"{figures['batch_size']} x {figures['prompt_tokens']:,} tokens, then {figures['new_tokens']:,} new ones each"
    )
    return rows, f"Generation, {size}"


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
