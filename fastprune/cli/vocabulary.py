"""A smaller vocabulary in commands: the one that is asked for, or what a requested size leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastprune.cli.opening import read_architecture_option, read_batches, read_evaluation_batches, tell_missing
from fastprune.cli.options import text_names

if TYPE_CHECKING:
    from rich.console import Console

    from fastprune.data.batches import Batches
    from fastprune.data.mixes import DataMix
    from fastprune.models.pretrained import Pretrained
    from fastprune.registry.recipe import Recipe
    from fastprune.strategies.budgets import BudgetRequest
    from fastprune.strategies.vocabulary import VocabularyRequest


def asked_vocabulary(options: Mapping[str, Any]) -> VocabularyRequest | None:
    """The vocabulary that is asked for; None: the whole, or that of the recipe.

    Raises:
        OptionError: An option has another form, or texts are given without a size.
    """
    from fastprune.errors import OptionError
    from fastprune.strategies.vocabulary import read_vocabulary

    asked = read_vocabulary(options["vocabulary"], options["vocabulary_coverage"], options["vocabulary_characters"])
    named = "=" in (options.get("budget") or "")  # perhaps a size, which is divided
    if asked is None and options["vocabulary_data"] and options.get("recipe", "default") == "default" and not named:
        raise OptionError("--vocabulary-data is for --vocabulary or --vocabulary-coverage; give one of them, too.")
    return asked


def weigh(
    requested: Mapping[str, BudgetRequest],
    stages: dict[str, Any],
    settings: dict[str, dict[str, str]],
    options: Mapping[str, Any],
) -> None:
    """Let a requested size be that of the export that ``--quantize`` writes, or of weights saved by ``--save-dtype``: the cost
    model gets the type of the weights."""
    from fastprune.models.weights import read_dtype
    from fastprune.registry.loading import installed

    registered = installed().cost
    named = [name for name in requested if name and registered[name].of_files]
    weights = options["quantize"] or (
        options["save_dtype"] and str(read_dtype(options["save_dtype"])).removeprefix("torch.")
    )
    if weights and named:
        stages["cost"] = named[0]
        settings["cost"] = {"weights": weights} | settings.get("cost", {})


def smaller(
    opened: Pretrained,
    recipe: Recipe,
    requested: Mapping[str, BudgetRequest],
    mix: DataMix,
    texts: DataMix,
    options: Mapping[str, Any],
    where: Console,
) -> tuple[Pretrained, Recipe]:
    """The model with the vocabulary that is asked for, or that a size leaves, and the recipe with the form of the weights.

    Args:
        opened: The dense model.
        recipe: The recipe.
        requested: The budget.
        mix: The calibration data.
        texts: Texts to count tokens in.
        options: The command's options.
        where: Takes how the size is divided.
    """
    from fastprune.errors import OptionError
    from fastprune.pipeline.dividing import TEXTS
    from fastprune.pipeline.prune import prune as run
    from fastprune.pipeline.sizing import Sizing
    from fastprune.strategies.vocabulary import ALL

    paths = read_architecture_option(options)
    sizing = Sizing.of(opened, recipe, requested, run, paths) if options["vocabulary"] != ALL else None
    if sizing is None:
        if options["vocabulary_data"] and recipe.vocabulary is None:
            raise OptionError(
                "--vocabulary-data is for --vocabulary, --vocabulary-coverage or a size; give one of them, too."
            )
        return trimmed(opened, recipe.vocabulary, texts, options), recipe
    read = lambda one: read_batches(mix, one, options, samples=TEXTS, seed=options["seed"])  # noqa: E731
    division = sizing.measured(read, texts, **_counting(options))
    where.print(division.told(sizing.bytes), soft_wrap=True)
    return sizing.divided(division)


def _counting(options: Mapping[str, Any]) -> dict[str, Any]:
    """Columns and split of the texts that tokens are counted in; texts other than --data have their own."""
    if options["vocabulary_data"]:
        return {}
    return {"columns": text_names(options["text_columns"]), "split": options["split"]}


def trimmed(
    opened: Pretrained, request: VocabularyRequest | None, texts: DataMix, options: Mapping[str, Any]
) -> Pretrained:
    """The model with the vocabulary that is asked for; the model itself if none is."""
    if request is None:
        return opened
    from fastprune.vocabulary.trimming import trim_vocabulary

    return trim_vocabulary(opened, texts, request, **_counting(options))


def evaluated(
    dense: Pretrained, small: Pretrained, options: Mapping[str, Any], where: Console
) -> tuple[Batches | None, dict[str, float] | None]:
    """The evaluation data in the tokens of the model with the smaller vocabulary, and the dense model's metrics, computed first, so
    that nothing is pruned for an evaluation that fails; None where there are none."""
    from fastprune.measuring.evaluation import evaluate

    if not options["eval_data"]:
        return None, None
    tests = read_evaluation_batches(options["eval_data"], dense, options)
    tell_missing(tests, where)
    where.print(f"Evaluation: {tests.told_for_evaluation}")
    known = None if tests.missing else evaluate(dense.model, tests)
    return tests if small is dense else read_evaluation_batches(options["eval_data"], small, options), known
