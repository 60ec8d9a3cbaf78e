"""fastprune export."""

from __future__ import annotations

import click

from fastprune.cli.opening import check_sources
from fastprune.cli.options import trust_option, verbosity_options
from fastprune.cli.working import working
from fastprune.errors import OptionError
from fastprune.files import check_output, claimed, json_text


@click.command(short_help="Write a model in a format for another runtime, such as ONNX.")
@click.argument("model")
@click.option("--output", required=True, help="A directory that does not exist, or is empty.")
@click.option("--format", default="onnx", show_default=True, help="By name: 'fastprune strategies format' lists them.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the format; repeatable.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else.")
@verbosity_options
def export(
    model: str, output: str, format: str, settings: tuple[str, ...], trust_remote_code: bool, as_json: bool
) -> None:
    """Write MODEL, pruned or not, in a format for another runtime, and compare it with PyTorch.

    \b
    fastprune export small --output small-onnx
    fastprune export small --output small-onnx --set graph=exporter
    fastprune export small --format torch-export --output small-program
    """
    check_output(output)
    options = _options(settings)
    check_sources(model)
    with claimed(output), working() as where:
        from fastprune.exporting import export as exporting
        from fastprune.models.pretrained import open_pretrained
        from fastprune.registry.recipe import strategy

        chosen = strategy("format", format, **options)
        chosen.require_packages()
        opened = open_pretrained(model, device="cpu", dtype="float32", trust_remote_code=trust_remote_code)
        made = exporting.export(opened, output, format=chosen)
    if as_json:
        figures = {"directory": output, "format": chosen.name, "files": [str(file) for file in made.files]}
        figures |= {
            "inputs": made.inputs,
            "outputs": made.outputs,
            "difference": made.difference,
            "remark": made.remark,
        }
        click.echo(json_text(figures))
    elif made.difference is None:
        where.print(f"Saved {output}, {chosen.name}; not compared with PyTorch: nothing in Python runs this format")
    else:
        where.print(
            f"Saved {output}, {chosen.name}: {', '.join(made.inputs)} to {', '.join(made.outputs)}; "
            f"differs from PyTorch by {made.difference:.1g} at most"
        )
    if made.remark and not as_json:
        where.print(made.remark)


def _options(values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE texts to options."""
    pairs = [text.partition("=") for text in values]
    for (name, equals, _), text in zip(pairs, values, strict=True):
        if not (name.strip() and equals):
            raise OptionError(f"--set takes NAME=VALUE, such as opset=18; got '{text}'.")
    return {name.strip(): value.strip() for name, _, value in pairs}
