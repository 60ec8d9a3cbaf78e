"""fastprune experts."""

from __future__ import annotations

from typing import Any

import click

from fastprune.cli.opening import (
    check_sources,
    open_model,
    read_batches,
    read_evaluation_batches,
    read_sources,
    tell_missing,
)
from fastprune.cli.options import calibration_options, data_options, evaluation_options, model_options, within
from fastprune.cli.saving import check_room, save_somewhere
from fastprune.cli.working import working
from fastprune.errors import OptionError
from fastprune.files import check_output, claimed, json_text
from fastprune.ranges import COUNT, SEED


@click.command(short_help="Remove whole experts from a mixture of experts.")
@click.argument("model")
@calibration_options
@click.option(
    "--keep", required=True, help="Share of each layer's experts to keep, such as 0.5, or their number, such as 4."
)
@click.option("--output", required=True, help="Output directory; it must not exist or be empty.")
@click.option(
    "--by",
    type=click.Choice(["damage", "reap", "magnitude", "random"]),
    default="damage",
    show_default=True,
    help="Which experts stay: those without which the layer's output changes most (damage), with the largest mean output (reap), "
    "with the largest weights (magnitude), or any (random).",
)
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    show_default=True,
    help="Fit routers and experts toward the dense model.",
)
@click.option(
    "--tokens",
    type=within(COUNT),
    default=4096,
    show_default=True,
    help="Most calibration tokens that layers are compared on.",
)
@click.option("--seed", type=within(SEED), default=0, show_default=True, help="Seed of all random choices.")
@click.option("--eval-data", help="Data to evaluate the dense and the smaller model on.")
@evaluation_options
@data_options
@model_options
def experts(model: str, data: tuple[str, ...], output: str, **options: Any) -> None:
    """Remove whole experts from MODEL, the same number in every layer, and save a model that transformers opens by itself.

    \b
    fastprune experts ./my-mixtral --data wiki.txt --keep 0.75 --output smaller
    fastprune experts ./my-qwen-moe --data wiki.txt:0.5 --data code.jsonl:0.5 --keep 32 --output smaller --eval-data test.txt
    fastprune prune smaller --data wiki.txt --budget params=0.8 --output smallest     prunes heads and filters of the rest
    """
    check_output(output)
    keep = _keep(options["keep"])
    mix = read_sources(data)
    check_sources(model, options["eval_data"])
    with claimed(output), working() as where:
        from fastprune.experts.dropping import check_keep, drop_experts
        from fastprune.measuring.evaluation import compare_models

        opened = open_model(model, options)
        check_keep(opened.model, keep)
        check_room(opened.model, output)
        batches = read_batches(mix, opened, options, samples=options["samples"], seed=options["seed"])
        tests = None
        if options["eval_data"]:
            tests = read_evaluation_batches(options["eval_data"], opened, options)
            tell_missing(tests, where)
            where.print(f"Evaluation: {tests.told_for_evaluation}")
        where.print(batches.told)
        result = drop_experts(
            opened,
            batches,
            keep=keep,
            by=options["by"],
            calibrate_routers=options["calibrate"],
            tokens=options["tokens"],
            seed=options["seed"],
        )
        if tests is not None:
            result.metrics.update(compare_models(opened.model, result.model, tests))
        save_somewhere(result.save, output)
    if options["as_json"]:
        evaluated = {"evaluation": tests.summary()} if tests is not None else {}
        click.echo(json_text(result.summary() | evaluated | {"output": output}))
        return
    from fastprune.cli import terminal
    from fastprune.reports import figures

    title = f"{result.left} of {result.experts} experts in each of {len(result.kept)} layers"
    where.print(terminal.figures_table(figures.plain_rows(result.summary()), title))
    where.print(
        f"Saved in {output}. {type(result.model).__name__}.from_pretrained({output!r}) opens it.", soft_wrap=True
    )


def _keep(text: str) -> float:
    """A share or a number of experts.

    Raises:
        OptionError: It is neither.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if 0 < value <= 1 or (value > 1 and value == int(value)):
        return value
    raise OptionError(f"--keep takes a share above 0 and at most 1, or a whole number of experts; got '{text}'.")
