"""fastprune sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fastprune.cli.main import UNREACHABLE
from fastprune.cli.opening import (
    check_files,
    check_sources,
    named_file,
    open_model,
    read_architecture_option,
    read_batches,
    read_sources,
)
from fastprune.cli.options import (
    STAGES,
    calibration_options,
    data_options,
    evaluation_options,
    form_options,
    model_options,
    read_settings,
    stage_options,
    vocabulary_options,
)
from fastprune.cli.vocabulary import asked_vocabulary, evaluated, trimmed
from fastprune.cli.working import working
from fastprune.errors import OptionError, UnfinishedError, UsageError
from fastprune.files import claimed
from fastprune.ranges import SEED, check_integer

if TYPE_CHECKING:
    from rich.console import Console

    from fastprune.pipeline.curves import Sweep
    from fastprune.registry.recipe import Recipe


@click.command(short_help="Plot accuracy against cost for many budgets.")
@click.argument("model")
@calibration_options
@click.option(
    "--eval-data",
    required=True,
    help="Data to evaluate every model on; without labels, agreement with the dense model counts.",
)
@click.option(
    "--budgets", default="0.9:0.2:0.1", show_default=True, help="Budgets as from:to:step, or as a list: 0.7,0.5,0.3."
)
@click.option("--recipes", default="default", show_default=True, help="Presets and TOML files, separated by commas.")
@click.option("--seeds", default="0", show_default=True, help="Seeds, separated by commas.")
@click.option("--metric", help="Metric of the curve [default: the task's first].")
@click.option("--pick", hidden=True)
@click.option("--output", required=True, help="Output directory: a new one, or that of a sweep to continue.")
@evaluation_options
@form_options
@stage_options
@vocabulary_options
@data_options
@model_options
def sweep(model: str, data: tuple[str, ...], output: str, **options: Any) -> None:
    """Prune MODEL to many budgets and plot accuracy against cost. Repeat the command to continue an interrupted sweep.

    \b
    fastprune sweep ./my-classifier --data train.csv --eval-data test.csv --output curve
    fastprune sweep ./my-classifier --data train.csv --eval-data test.csv --budgets 0.7,0.5,0.3 \\
        --recipes default,paper --seeds 0,1,2 --output curve
    fastprune sweep ./my-classifier --data train.csv --eval-data test.csv --cost latency --set cost.batch_size=1 --output fast
    fastprune sweep ./my-classifier --data train.csv --eval-data test.csv --vocabulary 0.5 --cost params --output few-tokens
    """

    from fastprune.pipeline.curves import check_folder
    from fastprune.strategies.budgets import read_budgets

    if options["pick"] is not None:
        raise OptionError(
            "sweep has no --pick any more; fastprune shrink MODEL --data D --eval-data E --max-drop 1 --output DIR finds and saves "
            "the smallest model within a point."
        )
    folder = check_folder(output)
    read_settings(options)
    budgets, seeds = read_budgets(options["budgets"]), _seeds(options["seeds"])
    mix, vocabulary = read_sources(data), asked_vocabulary(options)
    texts = read_sources(options["vocabulary_data"]) if options["vocabulary_data"] else mix
    check_sources(model, options["eval_data"])
    files = [name for name in options["recipes"].split(",") if name.endswith(".toml")]
    check_files(*files, named_file(options["architecture"]))
    with claimed(folder), working() as where:
        import functools

        from fastprune.pipeline import sweeps
        from fastprune.pipeline.curves import Sweep

        architecture, recipes = read_architecture_option(options), _recipes(options)
        state = folder / "sweep.json"
        if state.is_file():
            where.print(f"Continuing the sweep in {output}: {len(Sweep.read(state).runs)} models are already measured.")
        dense = open_model(model, options)
        opened = trimmed(dense, vocabulary, texts, options)
        tests, known = evaluated(dense, opened, options, where)
        assert tests is not None
        read = functools.cache(lambda seed: read_batches(mix, opened, options, samples=options["samples"], seed=seed))
        swept = sweeps.sweep(
            opened,
            read,
            tests,
            budgets=budgets,
            recipes=recipes,
            architecture=architecture,
            seeds=seeds,
            metric=options["metric"],
            dense=known,
            folder=folder,
        )
    for reason in swept.unreachable.values():
        where.print(reason, soft_wrap=True)
    if options["as_json"]:
        click.echo(swept.to_json())
    else:
        _show(where, swept, output)
    _end(swept, output)


def _end(swept: Sweep, output: str) -> None:
    """End with the exit status of what could not be reached or written."""
    if swept.failures:
        raise UnfinishedError(
            f"{'; '.join(swept.failures)}. The sweep is complete; all figures are in {output}/sweep.csv and sweep.json."
        )
    if swept.unreachable:
        click.get_current_context().exit(UNREACHABLE)


def _recipes(options: Mapping[str, Any]) -> dict[str, Recipe]:
    """The recipes of ``--recipes``, with the stages and settings of the other options."""
    from fastprune.registry.recipe import Recipe

    settings, stages = read_settings(options), {name: options[name] for name in STAGES}
    form = {"servable": options["servable"], "multiple": options["multiple"]}
    recipes = {}
    for name in options["recipes"].split(","):
        try:
            recipes[name] = Recipe.of(name, settings=settings, **stages).sized(**form)
        except UsageError as error:
            raise UsageError(f"The recipe '{name}' of the sweep: {error}") from error
    return recipes


def _show(where: Console, swept: Sweep, output: str) -> None:
    """Print the points of a sweep and its knee."""
    from fastprune.cli import terminal

    where.print(terminal.sweep_table(swept))
    knee = swept.knee()
    if knee:
        where.print(f"Knee of the curve: {swept.sentence(knee)}.")
    if not swept.failures:
        where.print(f"Saved the plot in {output}/sweep.png and sweep.svg, and all figures in sweep.csv and sweep.json")


def _seeds(text: str) -> list[int]:
    try:
        seeds = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise UsageError(f"Seeds must be integers separated by commas, such as 0,1,2; got {text}.") from error
    for seed in seeds:
        check_integer("--seeds", seed, SEED)
    return seeds
