"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from fastprune.models.sentence_transformers import POOLINGS

VERBOSITY = "fastprune.verbosity"


def _set_verbosity(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        ctx.find_root().meta[VERBOSITY] = parameter.name


def verbosity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How much is said on standard error, for every command that takes its time."""
    remember: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set_verbosity}
    quiet = click.option("-q", "--quiet", **remember, help="Say nothing but errors.")
    return quiet(
        click.option("-v", "--verbose", **remember, help="Say what each step does and how long it takes.")(command)
    )


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How data are read, for every command that reads some."""
    options = [
        click.option("--split", help="Of a source with several."),
        click.option("--text-columns", help="One or two, separated by a comma; guessed from the usual names."),
        click.option("--label-column", help="Guessed from the usual names."),
        click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True),
        click.option("--max-length", type=click.IntRange(1), help="Tokens a sample at most; the model's, up to 512."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a model is opened, for every command that opens one."""
    options = [
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float32", "float16", "bfloat16", "fp32", "fp16", "bf16"]),
            default="auto",
            show_default=True,
            help="auto: the checkpoint's, but float32 on a CPU.",
        ),
        click.option("--pooling", type=click.Choice(POOLINGS), help="Of a plain encoder's embedding."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else."),
    ]
    command = verbosity_options(command)
    for option in reversed(options):
        command = option(command)
    return command


def serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a model will be served, for every command that times one."""
    options = [
        click.option("--attention", help="The attention kernel, such as sdpa or eager; the model's."),
        click.option("--threads", type=click.IntRange(1), help="Of a CPU; torch's."),
        click.option("--compile", is_flag=True, help="Through torch.compile."),
    ]
    for option in reversed(options):
        command = option(command)
    return command
