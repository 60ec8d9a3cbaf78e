"""fastprune export."""

from __future__ import annotations

from typing import Any

import click

from fastprune.cli.opening import check_sources, open_model
from fastprune.cli.options import (
    data_options,
    evaluation_options,
    quantize_options,
    trust_option,
    verbosity_options,
    within,
)
from fastprune.cli.quantizing import asked_of, check_quantize, figures, read, show
from fastprune.cli.working import working
from fastprune.errors import OptionError
from fastprune.files import check_output, claimed, json_text
from fastprune.ranges import COUNT, SEED


@click.command(short_help="Write a model in a format for another runtime, such as ONNX, also quantised.")
@click.argument("model")
@click.option("--output", required=True, help="A directory that does not exist, or is empty.")
@click.option("--format", default="onnx", show_default=True, help="By name: 'fastprune strategies format' lists them.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the format; repeatable.")
@quantize_options
@click.option("--samples", type=within(COUNT), help="Number of calibration rows, at most [default: 128; 512 for int4].")
@click.option("--seed", type=within(SEED), default=0, show_default=True, help="Seed of the draw of calibration rows.")
@click.option("--data", help="Calibration data of --quantize: a file, a directory, or a Hub name such as glue/mrpc.")
@click.option(
    "--eval-data", help="Data that --max-drop is measured on; without labels, agreement with float32 is measured."
)
@evaluation_options
@data_options
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else.")
@verbosity_options
def export(model: str, output: str, format: str, settings: tuple[str, ...], **options: Any) -> None:
    """Write MODEL, pruned or not, in a format for another runtime, and compare it with PyTorch.

    \b
    fastprune export small --output small-onnx
    fastprune export small --output small-onnx --set graph=exporter
    fastprune export small --output small-int8 --quantize int8 --data train.csv
    fastprune export small --output small-int4 --quantize int4 --data train.csv --eval-data test.csv --max-drop 1
    fastprune export small --format torch-export --output small-program
    """
    check_output(output)
    chosen_options = _options(settings)
    check_quantize(options, "data", "eval_data", "max_drop")
    check_sources(model, options["data"], options["eval_data"])
    given = (options["data"], options["samples"], options["eval_data"])
    asked = asked_of(options, *given) if options["quantize"] else None
    with claimed(output), working() as where:
        from fastprune.exporting import export as exporting
        from fastprune.registry.recipe import strategy

        chosen = strategy("format", format, **chosen_options)
        chosen.require_packages()
        opened = open_model(model, {**options, "device": "cpu", "dtype": "float32"})
        if asked:
            asked.check(chosen, opened)
            asked = read(asked, opened, options, where)
        made = exporting.export(opened, output, format=chosen, quantize=asked)
    if options["as_json"]:
        click.echo(json_text(figures(made, output)))
    else:
        show(where, made, output)


def _options(values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE texts to options."""
    pairs = [text.partition("=") for text in values]
    for (name, equals, _), text in zip(pairs, values, strict=True):
        if not (name.strip() and equals):
            raise OptionError(f"--set takes NAME=VALUE, such as opset=18; got '{text}'.")
    return {name.strip(): value.strip() for name, _, value in pairs}
