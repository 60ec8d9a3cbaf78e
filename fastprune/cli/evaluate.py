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
from fastprune.files import json_text


@click.command(short_help="Measure a model, dense or pruned, on labelled data.")
@click.argument("model")
@click.option("--data", required=True, help="Labelled data: a file, a directory, or a Hub name such as glue/mrpc.")
@data_options
@model_options
def evaluate(model: str, data: str, **options: Any) -> None:
    """Print the task's metrics of MODEL, dense or pruned, on labelled data.

    \b
    fastprune evaluate ./my-classifier --data test.csv
    fastprune evaluate small --data glue/mrpc --json
    fastprune evaluate small-onnx --data test.csv                     of fastprune export, in its runtime
    """
    check_sources(model, data)
    with working() as where:
        from fastprune.measuring.evaluation import EVALUATION_SPLITS
        from fastprune.measuring.evaluation import evaluate as measure

        opened = open_model(model, options, exported=True)
        batches = read_batches(data, opened, options, samples=None, default_split=EVALUATION_SPLITS)
        metrics = measure(opened.model, batches)
    if options["as_json"]:
        click.echo(json_text({"task": opened.task.name, "samples": batches.n_samples, "metrics": metrics}))
        return
    where.print(f"{opened.task.name}, {batches.n_samples} samples of {data}")
    for name, value in metrics.items():
        click.echo(f"{name:<20} {value:.4f}")
