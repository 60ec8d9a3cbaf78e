"""Sweeps: accuracy against cost over many budgets. Each run is saved at once, so that an interrupted sweep can be resumed."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from fastprune.data.batches import Batches, conditions_told
from fastprune.data.mixes import DataMix, is_source
from fastprune.data.rows import Rows
from fastprune.data.tasks import Batch
from fastprune.errors import BudgetError, UnreachableError, UsageError
from fastprune.files import library_versions, write_text
from fastprune.measuring.evaluation import evaluation_set, quality
from fastprune.models.calibration_data import calibration_set
from fastprune.models.forms import AnyModel, open_any, pretrained_of
from fastprune.models.pretrained import Pretrained
from fastprune.pipeline.cache import PruningCache
from fastprune.pipeline.curves import Run, Sweep, check_folder, draw, to_csv
from fastprune.pipeline.fingerprint import data_digest, digest_of, dtype_text, task_text, weights_digest
from fastprune.pipeline.prune import prune
from fastprune.pipeline.result import PruningResult
from fastprune.progress import Progress, listening, track
from fastprune.ranges import SEED, check_integer
from fastprune.registry.recipe import Recipe
from fastprune.reports.figures import share_of
from fastprune.strategies.budgets import read_budget
from fastprune.units.architecture import Architecture

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    CalibrationData: TypeAlias = (
        Callable[[int], Batches] | Batches | Iterable[Batch] | Dataset | IterableDataset | DataMix | str | Path
    )


def sweep(
    model: AnyModel,
    data: CalibrationData,
    eval_data: Batches | Iterable[Batch] | Rows | DataMix,
    *,
    budgets: Sequence[float],
    recipes: Mapping[str, Recipe] | None = None,
    architecture: Architecture | str | Path | None = None,
    seeds: Sequence[int] = (0,),
    metric: str | None = None,
    dense: Mapping[str, float] | None = None,
    folder: str | Path | None = None,
    progress: Progress | bool = True,
) -> Sweep:
    """Prune one model to several budgets with one or more recipes, and evaluate each pruned model.

    Scores are computed once for each recipe's scorer and seed, and with a folder kept in the user's cache directory, where
    ``fastprune prune`` finds them, too. The dense model's states for tuning are computed once for each seed, as far as memory
    allows. With a folder, each run is saved as soon as it is done, and the same call resumes an interrupted sweep, within a
    run as well; at the end the folder holds ``sweep.json``, ``sweep.csv`` and the curve as ``sweep.png`` and ``sweep.svg``.

    Args:
        model: The dense model, in any form that ``prune`` takes.
        data: The calibration data as for ``prune``, drawn anew for each seed if it is a source or a data set, or a function from
            a seed to a calibration set.
        eval_data: Evaluation data as for ``evaluate``, disjoint from the calibration data; without labels, agreement with the
            dense model is measured.
        budgets: Fractions of the dense model's cost, each recipe's own.
        recipes: Recipes by name; None: the preset ``default``. If their costs differ, the curve is over the cost of the preset
            ``default``.
        architecture: The paths of the model's units, as for ``prune``.
        seeds: Seeds; each recipe and budget is run once per seed.
        metric: The metric of the curve; None: the task's first.
        dense: The dense model's metrics; None: they are measured. A model whose vocabulary was reduced is compared with what it was
            before, if the evaluation data are rows or their source.
        folder: Folder for all results; None: nothing is saved.
        progress: Whether to show progress on standard error, or a function, as for ``prune``.

    Returns:
        The sweep. Budgets that a recipe cannot reach have no run and are in ``unreachable``.

    Raises:
        UsageError: A budget or the metric is invalid, or the folder holds another sweep or one with other calibration data.
        UnreachableError: No budget can be reached.
    """
    recipes = recipes or {"default": Recipe.of("default")}
    for budget in budgets:
        read_budget(budget)
    seeds = [check_integer("seeds", seed, SEED) for seed in seeds]
    if not budgets or not seeds:
        raise BudgetError("A sweep takes at least one budget and one seed.")
    folder = check_folder(folder) if folder else None
    with listening(progress):
        module, opened = open_any(model)
        tests = _evaluation_set(eval_data, module, opened)
        dense = dense or _before(eval_data, opened, tests)
        draw_set = data if callable(data) else functools.partial(_calibration_set, data, module, opened)
        found, drawn = _started(module, opened, tests, recipes, metric, folder, dense), None
        pruned = functools.partial(prune, opened or module, architecture=architecture, bench=False)
        todo = [(seed, budget, name) for seed in seeds for budget in budgets for name in recipes]
        for seed, budget, name in track(todo, "sweeping"):
            if seed != drawn:  # frees the cache of the previous seed
                cache = PruningCache.on_disk() if folder else PruningCache()
                drawn, batches = seed, draw_set(seed)
                _note_calibration(found, seed, batches, folder)
            if found.find(name, budget, seed):
                continue
            start = time.perf_counter()
            asked = _asked(recipes[name], budget, found.about["cost"])
            run = digest_of({"recipe": name, "budget": repr(budget), "seed": str(seed)})
            journal = folder / f"{run}.journal" if folder else None
            try:
                result = pruned(batches, budget=asked, recipe=recipes[name], seed=seed, cache=cache, journal=journal)
            except UnreachableError as error:
                found.unreachable[f"{name} at {budget:g}"] = str(error)
                continue
            _add_run(found, result, module, tests, recipe=name, budget=budget, seconds=time.perf_counter() - start)
            if folder:
                write_text(folder / "sweep.json", found.to_json())
            result.journal.discard()
    if not found.runs:
        raise UnreachableError(next(iter(found.unreachable.values())))
    if folder:
        write_files(found, folder)
    return found


def _add_run(
    found: Sweep, result: PruningResult, dense: nn.Module, tests: Batches, *, recipe: str, budget: float, seconds: float
) -> None:
    """Evaluate a pruned model and add its run."""
    cost = next(cost for cost in result.costs if cost["name"] == found.about["cost"])
    found.measure = share_of(cost)
    found.runs.append(
        Run(
            recipe=recipe,
            budget=budget,
            seed=result.calibration["seed"],
            cost=cost["after"] / cost["before"],
            metrics=quality(dense, result.model, tests),
            seconds=seconds,
        )
    )


def write_files(found: Sweep, folder: Path) -> None:
    """Write the sweep as JSON, CSV and picture. A picture that cannot be drawn is noted in ``failures``."""
    write_text(folder / "sweep.json", found.to_json())
    write_text(folder / "sweep.csv", to_csv(found))
    try:
        draw(found, folder / "sweep.svg")
        draw(found, folder / "sweep.png")
    except Exception as error:  # whatever it is, the sweep is worth more
        reason = str(error).strip().partition("\n")[0]
        found.failures.append(f"The plot failed: {type(error).__name__}: {reason}")
        log.warning("%s. The sweep is complete.", found.failures[-1], exc_info=error)


def _calibration_set(data: Any, module: nn.Module, opened: Pretrained | None, seed: int) -> Batches:
    return calibration_set(data, module, opened, None, seed)


def _evaluation_set(data: Any, module: nn.Module, opened: Pretrained | None) -> Batches:
    if isinstance(data, Batches):
        return data
    known = opened or pretrained_of(module)
    return evaluation_set(data, module, known.task, known.tokenizer, {})


def _before(data: Any, opened: Pretrained | None, tests: Batches) -> dict[str, float] | None:
    """The metrics of the model before its vocabulary was reduced; None if it was not, or they cannot be measured."""
    if opened is None or opened.trimming is None or tests.missing or not is_source(data):
        return None
    whole = opened.trimming
    return quality(whole.dense, whole.dense, evaluation_set(data, whole.dense, opened.task, whole.tokenizer, {}))


def _asked(recipe: Recipe, budget: float, axis: str) -> dict[str, float]:
    """The budget of a run, and the whole of the curve's cost, which is then counted as well."""
    return {axis: 1.0, recipe.cost.name: budget}


def _axis(recipes: Mapping[str, Recipe]) -> str:
    """Name of the cost of the curve: that of all recipes, or, where they differ, of the preset ``default``."""
    costs = {repr(recipe.cost): recipe.cost.name for recipe in recipes.values()}
    return next(iter(costs.values())) if len(costs) == 1 else Recipe.of("default").cost.name


def _started(
    module: nn.Module,
    opened: Pretrained | None,
    tests: Batches,
    recipes: Mapping[str, Recipe],
    metric: str | None,
    folder: Path | None,
    known: Mapping[str, float] | None,
) -> Sweep:
    """The sweep saved in the folder, or a new one with the dense model evaluated, if its metrics are not known."""
    about: dict[str, Any] = {
        "model": opened.source if opened else type(module).__name__,
        "weights": weights_digest(module),
        **({"vocabulary": dict(opened.trimming.figures["rows"])} if opened and opened.trimming else {}),
        "dtype": dtype_text(module),
        "task": task_text(opened.task if opened else tests.task),
        "eval_data": tests.source,
        "eval_samples": tests.n_samples,
        **({"eval_conditions": conditions_told(tests.conditions)} if tests.conditions else {}),
        "eval_batches": len(tests),
        "eval_contents": data_digest(tests),
        "cost": _axis(recipes),
        "recipes": {name: recipe.to_toml() for name, recipe in recipes.items()},
        "calibration": {},
    }
    state = folder / "sweep.json" if folder else None
    if state and state.is_file():
        found = Sweep.read(state)
        known = {name: text for name, text in found.about.get("recipes", {}).items() if name in recipes}
        if any(about["recipes"][name] != text for name, text in known.items()):
            raise UsageError(f"A recipe of the sweep in {folder} has changed; name another --output.")
        settings = {name: value for name, value in about.items() if name not in ("recipes", "calibration", "cost")}
        _check_same(f"The sweep in {folder}", found.about, settings)
        recorded = {**found.about.get("recipes", {}), **about["recipes"]}
        found.about = {**about, **found.about, "recipes": recorded}
        found.versions, found.unreachable = library_versions(), {}
    else:
        dense = known or quality(module, module, tests)
        found = Sweep(about=about, metric=next(iter(dense)), falling=False, dense=dense)
    if metric is not None and metric not in found.dense:
        raise UsageError(f"There is no metric '{metric}' for this task; there are {', '.join(found.dense)}.")
    found.metric = metric or next(iter(found.dense))
    found.falling = tests.task is not None and found.metric in tests.task.lower_is_better
    return found


def _note_calibration(found: Sweep, seed: int, batches: Batches, folder: Path | None) -> None:
    """Record a seed's calibration set; a resumed sweep must use the same one as before."""
    now = {
        "source": batches.source,
        "samples": batches.n_samples,
        "tokens": batches.n_tokens,
        "batches": len(batches),
        "contents": data_digest(batches),
    }
    known = found.about.get("calibration", {})
    _check_same(f"The calibration set of the sweep in {folder}", known.get(str(seed), now), now)
    found.about = {**found.about, "calibration": {**known, str(seed): now}}


def _check_same(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that the settings of a resumed sweep are those it was started with.

    Raises:
        UsageError: Some settings differ; the message names them.
    """
    changed = [name for name, value in now.items() if before.get(name) != value]
    if changed:
        said = ", ".join(f"{name.replace('_', ' ')} {before.get(name)}, not {now[name]}" for name in changed)
        raise UsageError(f"{what} has {said}; repeat the first call's options, or name another --output.")
