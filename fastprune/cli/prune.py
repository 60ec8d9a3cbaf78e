"""fastprune prune."""

from __future__ import annotations

import contextlib
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
    DTYPES,
    STAGES,
    calibration_options,
    data_options,
    evaluation_options,
    form_options,
    model_options,
    quantize_options,
    read_settings,
    stage_options,
    vocabulary_options,
    within,
)
from fastprune.cli.quantizing import (
    asked_beside,
    beyond,
    export_beside,
    figures_beside,
    place_beside,
    show,
)
from fastprune.cli.resuming import end_if_complete, resuming
from fastprune.cli.saving import check_room, save_evaluated
from fastprune.cli.vocabulary import asked_vocabulary, evaluated, smaller, weigh
from fastprune.cli.working import working
from fastprune.files import check_output, claimed, json_text
from fastprune.ranges import SEED

if TYPE_CHECKING:
    from rich.console import Console

    from fastprune.pipeline.result import PruningResult
    from fastprune.registry.recipe import Recipe
    from fastprune.strategies.budgets import BudgetRequest
    from fastprune.strategies.vocabulary import VocabularyRequest


@click.command(short_help="Prune a model to a budget and save the smaller one.")
@click.argument("model")
@calibration_options
@click.option(
    "--budget", help="Cost to keep: a share such as 0.5, or by cost: latency=0.6,params=0.7, or latency=3.5ms."
)
@click.option("--speedup", type=float, help="Target speedup, short for --budget latency=1/SPEEDUP.")
@click.option("--output", required=True, help="Output directory; it must not exist or be empty.")
@click.option("--recipe", default="default", show_default=True, help="A preset by name, or a TOML file.")
@stage_options
@vocabulary_options
@click.option("--seed", type=within(SEED), default=0, show_default=True, help="Seed of all random choices.")
@click.option(
    "--eval-data",
    help="Data to evaluate the dense and the pruned model on; without labels, their agreement is measured.",
)
@form_options
@quantize_options
@click.option("--reroute", is_flag=True, help="Remove experts without filters from their router.")
@click.option(
    "--bench/--no-bench", default=True, show_default=True, help="Time the dense and the pruned model for the report."
)
@click.option(
    "--save-dtype", type=click.Choice(DTYPES), help="Data type of the saved weights [default: that of MODEL's file]."
)
@click.option("--restart", is_flag=True, help="Start anew instead of going on with a run that was stopped.")
@click.option(
    "--cache/--no-cache",
    default=True,
    show_default=True,
    help="Keep the scores in the user's cache directory, for other budgets of the same model and data.",
)
@evaluation_options
@data_options
@model_options
def prune(model: str, data: tuple[str, ...], output: str, **options: Any) -> None:
    """Prune MODEL, a directory or Hub name, to a budget, and save the smaller model.

    A run that was stopped goes on when the command is repeated.

    \b
    fastprune prune textattack/bert-base-uncased-MRPC --data glue/mrpc --budget 0.5 --output bert-half
    fastprune prune ./my-classifier --data train.csv --budget 0.4 --output small --eval-data test.csv
    fastprune prune sentence-transformers/all-MiniLM-L6-v2 --data sentences.txt --budget 0.5 --output mini
    fastprune prune ./my-classifier --data train.csv --budget 0.5 --servable --output plain
    fastprune prune ./my-classifier --data train.csv --budget 0.4 --quantize int8 --output small      and small-int8
    fastprune prune ./my-classifier --data train.csv --speedup 2 --set cost.batch_size=1 --output fast
    fastprune prune ./my-classifier --data train.csv --vocabulary 0.3 --output few-tokens
    """
    from fastprune.strategies import budgets

    end_if_complete(output)
    check_output(output)
    beside = place_beside(output, options)
    vocabulary = asked_vocabulary(options)
    budget, settings = _budget(options), read_settings(options)
    requested = budgets.read_budget(budget)
    mix = read_sources(data)
    texts = read_sources(options["vocabulary_data"]) if options["vocabulary_data"] else mix
    check_sources(model, options["eval_data"])
    check_files(named_file(options["architecture"]), named_file(options["recipe"]))
    with (
        claimed(output),
        claimed(beside) if beside else contextlib.nullcontext(),
        working() as where,
        resuming(output, where, restart=options["restart"]) as journal,
    ):
        architecture = read_architecture_option(options)
        recipe = _recipe(requested, vocabulary, settings, options)

        from fastprune.pipeline.cache import PruningCache
        from fastprune.pipeline.prune import prune as run

        opened = open_model(model, options)
        check_room(opened.model, output)
        asked = asked_beside(opened, mix, options)
        dense, (small, recipe) = opened, smaller(opened, recipe, requested, mix, texts, options, where)
        batches = read_batches(mix, small, options, samples=options["samples"], seed=options["seed"])
        where.print(batches.told)
        tests, known = evaluated(dense, small, options, where)
        cache = PruningCache.on_disk() if options["cache"] else None
        how = {name: options[name] for name in ("seed", "reroute", "bench")} | {"cache": cache, "journal": journal}
        result = run(small, batches, budget=budget, recipe=recipe, architecture=architecture, **how)
        if options["save_dtype"]:
            result = result.stored_as(options["save_dtype"])
        save_evaluated(result, output, small.model, tests, known)
        made = export_beside(output, beside, asked, recipe.cost, options, where)
    _show_targets(where, result)
    if options["as_json"]:
        told = {"evaluation": tests.summary()} if tests is not None else {}
        click.echo(json_text(result.summary() | told | {"output": output} | figures_beside(made, beside)))
    else:
        _show(where, result, output)
        show(where, made, beside)
    missed = beyond(result, beside)
    if result.missed:
        missed = "The requested speed is not reached; ask for more than needed, or see docs/latency.md."
    if missed:
        where.print(missed, soft_wrap=True)
        click.get_current_context().exit(UNREACHABLE)


def _recipe(
    requested: Mapping[str, BudgetRequest],
    vocabulary: VocabularyRequest | None,
    settings: dict[str, dict[str, str]],
    options: Mapping[str, Any],
) -> Recipe:
    """The recipe of the options, whose cost is that of the budget.

    Raises:
        UsageError: An option, a strategy or a unit is unknown or does not fit.
    """
    from fastprune.registry.recipe import Recipe, check_units, main_cost

    stages = {name: options[name] for name in STAGES}
    stages["cost"] = stages["cost"] or main_cost(requested)
    weigh(requested, stages, settings, options)
    recipe = Recipe.of(options["recipe"], vocabulary=vocabulary, settings=settings, **stages)
    recipe = recipe.sized(servable=options["servable"], multiple=options["multiple"])
    check_units(requested, recipe)
    return recipe


def _show_targets(where: Console, result: PruningResult) -> None:
    """Print what was requested of each measured cost, and what was measured."""
    from fastprune.reports import figures

    for cost in result.costs:
        if cost["conditions"]:
            where.print(figures.target(cost), soft_wrap=True)


def _show(where: Console, result: PruningResult, output: str) -> None:
    """Print the units kept, the figures before and after, and the durations."""
    from fastprune.cli import terminal
    from fastprune.measuring.cost_tables import conditions_text
    from fastprune.reports import figures

    predicted = "predicted " if result.costs[0]["conditions"] else ""
    where.print(terminal.groups_table(result.kept()))
    where.print(
        terminal.figures_table(
            figures.rows(result.summary()),
            f"{result.cost_after / result.cost_before:.3f} of the {predicted}{figures.share_of(result.costs[0])} left",
        )
    )
    for cost in result.costs:
        if "batch_size" in cost["conditions"]:
            where.print(f"{cost['name']} for {conditions_text(cost['conditions'])}")
    if result.plainness:
        where.print(figures.plainness(result.plainness), soft_wrap=True)
    seconds = ", ".join(f"{figures.DURATIONS[stage]} {value:.1f} s" for stage, value in result.timings.items())
    where.print(f"Time: {seconds}\nSaved in {output}, with report.html. {_opening(result, output)}")


def _opening(result: PruningResult, output: str) -> str:
    """How to open the saved model."""
    if result.form == "plain":
        return f"{type(result.model).__name__}.from_pretrained({output!r}) opens it, without fastprune."
    return f"Load it: fastprune.load({output!r})"


def _budget(options: Mapping[str, Any]) -> str:
    """Combine --budget and --speedup to one budget; with a vocabulary alone, nothing else is pruned.

    Raises:
        BudgetError: None is given, the speedup is below 1, or a budget without a name is combined with --speedup.
    """
    from fastprune.errors import BudgetError

    speedup = options["speedup"]
    parts = [text for text in (options["budget"],) if text is not None]
    if speedup is not None:
        if not speedup >= 1:
            raise BudgetError(f"--speedup must be 1 or more; got {speedup:g}.")
        parts.append(f"latency={1 / speedup!r}")
    if not parts and options["vocabulary"] is None and options["vocabulary_coverage"] is None:
        raise BudgetError("Give a budget: --budget 0.5, --budget latency=3.5ms or --speedup 2.")
    if len(parts) > 1 and not all("=" in text for text in parts):
        raise BudgetError(
            "A budget without a name cannot be combined with --speedup; name its cost, such as --budget params=0.7."
        )
    return ",".join(parts) if parts else "1"
