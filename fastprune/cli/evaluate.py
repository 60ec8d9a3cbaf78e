"""fastprune evaluate."""

from __future__ import annotations

from typing import Any

import click

from fastprune.cli.opening import (
    check_sources,
    open_model,
    read_batches,
)
from fastprune.cli.options import data_options, model_options
from fastprune.cli.working import working
from fastprune.errors import DataError
from fastprune.files import json_text


@click.command(short_help="Measure a model, dense or pruned, on data.")
@click.argument("model")
@click.option("--data", required=True, help="Data: a file, a directory, or a Hub name such as glue/mrpc.")
@click.option("--dense", help="Dense model, to measure the agreement with it; needs no labels.")
@data_options
@model_options
def evaluate(model: str, data: str, **options: Any) -> None:
    """Print the task's metrics of MODEL, dense or pruned, on labelled data, or its agreement with another model on any data.

    \b
    fastprune evaluate ./my-classifier --data test.csv
    fastprune evaluate small --data glue/mrpc --json
    fastprune evaluate small --data texts.txt --dense ./my-classifier
    fastprune evaluate small-onnx --data test.csv                     of fastprune export, in its runtime
    """
    check_sources(model, data)
    check_sources(options["dense"])
    with working() as where:
        from fastprune.measuring.evaluation import EVALUATION_SPLITS, fidelity
        from fastprune.measuring.evaluation import evaluate as measure

        opened = open_model(model, options, exported=True)
        batches = read_batches(data, opened, options, samples=None, splits=EVALUATION_SPLITS)
        if batches.missing and not options["dense"]:
            raise DataError(
                f"{data}: {batches.missing} Or name the dense model (--dense) to measure the agreement with it."
            )
        metrics = {} if batches.missing else measure(opened.model, batches)
        agreement = {}
        if options["dense"]:
            agreement = fidelity(open_model(options["dense"], options, exported=True).model, opened.model, batches)
    if options["as_json"]:
        figures = {"metrics": metrics} | ({"fidelity": agreement} if options["dense"] else {})
        click.echo(json_text({"task": opened.task.name} | batches.summary() | figures))
        return
    where.print(f"{opened.task.name}, {batches.told}")
    for name, value in metrics.items():
        click.echo(f"{name:<20} {value:.4f}")
    if agreement:
        where.print(f"Agreement with {options['dense']}")
    for name, value in agreement.items():
        click.echo(f"{name:<20} {value:.4f}")
