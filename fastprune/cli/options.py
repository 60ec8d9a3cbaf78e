"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from fastprune.models.sentence_modules import POOLINGS
from fastprune.ranges import COUNT, THREADS, Range

DTYPES = ("float32", "float16", "bfloat16", "fp32", "fp16", "bf16")
VERBOSITY = "fastprune.verbosity"


def _set_verbosity(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        ctx.find_root().meta[VERBOSITY] = parameter.name


def within(allowed: Range) -> click.IntRange:
    """The type of an option that takes integers of a range, which help prints."""
    least, most = (None if bound is None else int(bound) for bound in (allowed.at_least, allowed.at_most))
    return click.IntRange(least, most)


def verbosity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for the messages on standard error, for long-running commands."""
    remember: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set_verbosity}
    quiet = click.option("-q", "--quiet", **remember, help="Print only errors.")
    return quiet(click.option("-v", "--verbose", **remember, help="Log each step and its duration.")(command))


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for reading data."""
    options = [
        click.option("--split", help="Split of --data to read, for sources with several splits."),
        click.option(
            "--text-columns",
            help="Text columns of --data, separated by commas [default: guessed from usual names].",
        ),
        click.option("--label-column", help="Label column of --data [default: guessed from usual names]."),
        click.option("--batch-size", type=within(COUNT), default=32, show_default=True, help="Samples per batch."),
        click.option(
            "--max-length",
            type=within(COUNT),
            help="Maximum number of tokens per sample [default: the model's limit, at most 512].",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def evaluation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for reading ``--eval-data``."""
    options = [
        click.option("--eval-split", help="Split of --eval-data [default: validation, else test]."),
        click.option(
            "--eval-text-columns", help="Text columns of --eval-data [default: those of --data, if it has them]."
        ),
        click.option(
            "--eval-label-column", help="Label column of --eval-data [default: that of --data, if it has it]."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for opening a model."""
    options = [
        click.option("--device", default="auto", show_default=True, help="Device, such as cpu, cuda, cuda:1 or mps."),
        click.option(
            "--dtype",
            type=click.Choice(["auto", *DTYPES]),
            default="auto",
            show_default=True,
            help="Data type for computing; auto: the checkpoint's, but float32 instead of half precision on a CPU.",
        ),
        click.option(
            "--pooling", type=click.Choice(POOLINGS), help="Pooling for a plain encoder used as embedding model."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print only JSON, on standard output."),
    ]
    command = verbosity_options(command)
    for option in reversed(options):
        command = option(command)
    return command


def serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for timing a model as it will be served."""
    options = [
        click.option("--attention", help="Attention kernel, such as sdpa or eager [default: the model's]."),
        click.option("--threads", type=within(THREADS), help="CPU threads [default: torch's]."),
        click.option("--compile", is_flag=True, help="Compile the model with torch.compile."),
    ]
    for option in reversed(options):
        command = option(command)
    return command
