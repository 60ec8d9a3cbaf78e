"""fastprune export."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fastprune.cli.opening import check_sources, read_batches, read_evaluation_batches
from fastprune.cli.options import data_options, evaluation_options, quantize_options, trust_option, verbosity_options
from fastprune.cli.working import working
from fastprune.errors import OptionError
from fastprune.files import check_output, claimed, json_text

if TYPE_CHECKING:
    from rich.console import Console

    from fastprune.exporting.export import Export
    from fastprune.exporting.quantize import Quantize
    from fastprune.models.pretrained import Pretrained


@click.command(short_help="Write a model in a format for another runtime, such as ONNX, also quantised.")
@click.argument("model")
@click.option("--output", required=True, help="A directory that does not exist, or is empty.")
@click.option("--format", default="onnx", show_default=True, help="By name: 'fastprune strategies format' lists them.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the format; repeatable.")
@quantize_options
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
    _check_quantize(options)
    check_sources(model, options["data"], options["eval_data"])
    with claimed(output), working() as where:
        from fastprune.exporting import export as exporting
        from fastprune.models.pretrained import open_pretrained
        from fastprune.registry.recipe import strategy

        chosen = strategy("format", format, **chosen_options)
        chosen.require_packages()
        opened = open_pretrained(model, device="cpu", dtype="float32", trust_remote_code=options["trust_remote_code"])
        asked = _quantize(opened, options, chosen, where) if options["quantize"] else None
        made = exporting.export(opened, output, format=chosen, quantize=asked)
    if options["as_json"]:
        click.echo(json_text(_figures(made, output)))
    else:
        _show(where, made, output)


def _check_quantize(options: Mapping[str, Any]) -> None:
    """Raise ``OptionError`` for options that quantising needs, or that only quantising has."""
    if not options["quantize"]:
        given = next((name for name in ("data", "eval_data", "max_drop") if options[name] is not None), None)
        if given:
            raise OptionError(f"--{given.replace('_', '-')} is for quantised weights; add --quantize int8.")


def _quantize(opened: Pretrained, options: Mapping[str, Any], chosen: Any, where: Console) -> Quantize:
    """What is asked of the quantised weights, with the data that were read."""
    from fastprune.exporting.quantize import Quantize

    asked = Quantize(
        weights=options["quantize"],
        data=options["data"],
        samples=options["samples"],
        seed=options["seed"],
        max_drop=options["max_drop"],
        eval_data=options["eval_data"],
    )
    asked.check(chosen, opened)
    read: dict[str, Any] = {}
    if options["data"]:
        read["data"] = read_batches(options["data"], opened, options, samples=asked.rows, seed=options["seed"])
        where.print(read["data"].told)
    if options["eval_data"]:
        read["eval_data"] = read_evaluation_batches(options["eval_data"], opened, options)
        where.print(f"Evaluation: {read['eval_data'].told}")
    return dataclasses.replace(asked, **read)


def _figures(made: Export, output: str) -> dict[str, Any]:
    """An export as JSON."""
    figures: dict[str, Any] = {"directory": output, "format": made.format.name}
    figures |= {"files": [str(file) for file in made.files]}
    figures |= {"inputs": made.inputs, "outputs": made.outputs, "difference": made.difference, "remark": made.remark}
    if made.quantised:
        figures["quantised"] = dataclasses.asdict(made.quantised)
    return figures


def _show(where: Console, made: Export, output: str) -> None:
    """Print where an export is, what it takes and gives, and how far it is from PyTorch."""
    saved = f"Saved {output}, {made.format.name}"
    if made.difference is None:
        where.print(f"{saved}; not compared with PyTorch: nothing in Python runs this format")
    else:
        before = " before it was quantised" if made.quantised else ""
        where.print(
            f"{saved}: {', '.join(made.inputs)} to {', '.join(made.outputs)}; "
            f"differs from PyTorch by {made.difference:.1g} at most{before}"
        )
    if made.remark:
        where.print(made.remark)
    if made.quantised:
        where.print(f"Quantised: {made.quantised.told}", soft_wrap=True)


def _options(values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE texts to options."""
    pairs = [text.partition("=") for text in values]
    for (name, equals, _), text in zip(pairs, values, strict=True):
        if not (name.strip() and equals):
            raise OptionError(f"--set takes NAME=VALUE, such as opset=18; got '{text}'.")
    return {name.strip(): value.strip() for name, _, value in pairs}
