"""fastprune export."""

from __future__ import annotations

import json

import click

from fastprune.cli.opening import (
    check_sources,
)
from fastprune.cli.options import verbosity_options
from fastprune.cli.working import working
from fastprune.files import check_output


@click.command(short_help="Write a model as ONNX or as a torch.export program.")
@click.argument("model")
@click.option("--output", required=True, help="A directory that does not exist, or is empty.")
@click.option("--format", type=click.Choice(["onnx", "torch-export"]), default="onnx", show_default=True)
@click.option("--opset", type=click.IntRange(1), help="Of ONNX; the exporter's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else.")
@verbosity_options
def export(model: str, output: str, format: str, opset: int | None, as_json: bool) -> None:
    """Write MODEL, pruned or not, as a graph that runs without Python code, checked against PyTorch.

    \b
    fastprune export small --output small-onnx
    fastprune export small --format torch-export --output small-program
    """
    check_output(output)
    check_sources(model)
    with working(as_json=as_json) as where:
        from fastprune.exporting import export as exporting
        from fastprune.models.pretrained import open_pretrained

        opened = open_pretrained(model, device="cpu", dtype="float32")
        made = exporting.export(opened, output, format=format, opset=opset)
    figures = {"file": str(made.file), "inputs": made.inputs, "outputs": made.outputs, "difference": made.difference}
    if as_json:
        click.echo(json.dumps(figures))
        return
    where.print(
        f"Saved {made.file}: {', '.join(made.inputs)} to {', '.join(made.outputs)}, any number of samples and tokens; "
        f"off by {made.difference:.1g} from PyTorch at most"
    )
