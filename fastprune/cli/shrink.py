"""fastprune shrink."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fastprune.cli.opening import (
    check_files,
    check_sources,
    named_file,
    open_model,
    read_batches,
    read_evaluation_batches,
    read_evaluation_rows,
    read_sources,
)
from fastprune.cli.options import (
    QUANTIZED,
    calibration_options,
    data_options,
    evaluation_options,
    model_options,
    text_names,
    within,
)
from fastprune.cli.working import working
from fastprune.files import check_output, json_text
from fastprune.ranges import SEED

if TYPE_CHECKING:
    from fastprune.shrinking.subject import Shrunk


@click.command(short_help="Save the smallest or fastest model that loses little.")
@click.argument("model")
@calibration_options
@click.option(
    "--eval-data",
    required=True,
    help="Labelled data: one half chooses the model, the other gives its final figures.",
)
@click.option(
    "--max-drop", type=float, default=1.0, show_default=True, help="Points of the task's first metric that may be lost."
)
@click.option(
    "--goal",
    type=click.Choice(["size", "latency"]),
    default="size",
    show_default=True,
    help="What is to be small: bytes of the directory, or the time of a forward pass.",
)
@click.option(
    "--quantize",
    type=click.Choice(QUANTIZED),
    help="Weights of an export for onnxruntime, written beside the model and measured instead of it [default: none].",
)
@click.option("--output", required=True, help="Output directory; it must not exist or be empty.")
@click.option("--recipe", default="default", show_default=True, help="A preset by name, or a TOML file.")
@click.option("--seed", type=within(SEED), default=0, show_default=True, help="Seed of all random choices.")
@evaluation_options
@data_options
@model_options
def shrink(model: str, data: tuple[str, ...], output: str, **options: Any) -> None:
    """Find and save the smallest (or fastest) model that loses at most a point: heads, filters, tokens, and bits.

    \b
    fastprune shrink ./my-classifier --data train.csv --eval-data test.csv --output small
    fastprune shrink ./my-classifier --data train.csv --eval-data test.csv --quantize int8 --output small     and small-int8
    fastprune shrink ./my-classifier --data train.csv --eval-data test.csv --max-drop 0.5 --goal latency --output fast
    """
    from fastprune.shrinking.limits import check_asked, places

    check_asked(options["max_drop"], options["goal"])
    for place in places(output, options["quantize"]):
        check_output(place)
    mix = read_sources(data)
    check_sources(model, options["eval_data"])
    check_files(named_file(options["recipe"]))
    with working() as where:
        from fastprune.shrinking.shrink import recipe_of, search
        from fastprune.shrinking.subject import Halves, Subject

        recipe = recipe_of(options["recipe"], options["goal"], options["quantize"])
        opened = open_model(model, options)
        rows = read_evaluation_rows(options["eval_data"], opened, options)
        subject = Subject(
            opened=opened,
            read=lambda one, number: read_batches(mix, one, options, samples=number, seed=options["seed"]),
            tests=lambda one, half: read_evaluation_batches(options["eval_data"], one, options, data=rows.select(half)),
            halves=Halves.of(len(rows), running=opened.task.running_text),
            texts=mix,
            samples=options["samples"],
            seed=options["seed"],
            counting={"columns": text_names(options["text_columns"]), "split": options["split"]},
        )
        asked = {name: options[name] for name in ("max_drop", "goal", "quantize")}
        found = search(subject, output, recipe=recipe, say=lambda told: where.print(told, soft_wrap=True), **asked)
    if options["as_json"]:
        click.echo(json_text(_figures(found)))
    else:
        where.print(_saved(found), soft_wrap=True)


def _figures(found: Shrunk) -> Mapping[str, Any]:
    """What was found, as JSON."""
    steps = [{"share": each.share, "drop": each.drop, "kept": each.fits, "size": each.size} for each in found.steps]
    return {
        "output": str(found.directory),
        "export": str(found.export) if found.export else None,
        "size": {"before": found.size_before, "after": found.size},
        "drop": found.drop,
        "metrics": {"dense": dict(found.dense), "small": dict(found.metrics)},
        "steps": steps,
        "pruning": found.result.summary(),
    }


def _saved(found: Shrunk) -> str:
    """Where the model is, and its size."""
    export = f", the export in {found.export}" if found.export else ""
    size = f"{found.size / 1e6:.3g} MB" + (f" of {found.size_before / 1e6:.3g}" if found.size_before else "")
    return f"Saved the model in {found.directory}{export}: {size}."
