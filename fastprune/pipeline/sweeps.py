"""Sweeps: accuracy against cost over many budgets. Each run is saved at once, so that an interrupted sweep can be resumed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastprune.data.batches import Batches
from fastprune.errors import BudgetError, UsageError
from fastprune.files import write_text
from fastprune.measuring.evaluation import quality
from fastprune.models.pretrained import Pretrained
from fastprune.pipeline.cache import PruningCache
from fastprune.pipeline.curves import Point, Run, Sweep, check_folder, draw, to_csv
from fastprune.pipeline.fingerprint import data_digest, dtype_text, task_text, weights_digest
from fastprune.pipeline.prune import prune
from fastprune.pipeline.result import PruningResult
from fastprune.progress import Progress, listening, track
from fastprune.ranges import SEED, check_integer
from fastprune.registry.recipe import Recipe
from fastprune.strategies.budgets import read_budget
from fastprune.strategies.contracts import CostModel, MeasuredCost


def sweep(
    model: Pretrained,
    data: Callable[[int], Batches],
    eval_data: Batches,
    *,
    budgets: Sequence[float],
    recipes: Mapping[str, Recipe] | None = None,
    seeds: Sequence[int] = (0,),
    metric: str | None = None,
    folder: str | Path | None = None,
    progress: Progress | bool = True,
) -> Sweep:
    """Prune one model to several budgets with one or more recipes, and evaluate each pruned model.

    Scores are computed once for each recipe's scorer and seed. The dense model's states for tuning are computed once for each
    seed, as far as memory allows. With a folder, each run is saved as soon as it is done, and the same call resumes an
    interrupted sweep; at the end the folder holds ``sweep.json``, ``sweep.csv`` and the curve as ``sweep.png`` and
    ``sweep.svg``.

    Args:
        model: The dense model.
        data: Function from a seed to a calibration set.
        eval_data: Evaluation data, disjoint from the calibration data; without labels, agreement with the dense model is measured.
        budgets: Fractions of the dense model's cost.
        recipes: Recipes by name; None: the preset ``default``.
        seeds: Seeds; each recipe and budget is run once per seed.
        metric: The metric of the curve; None: the task's first.
        folder: Folder for all results; None: nothing is saved.
        progress: Whether to show progress on standard error, or a function, as for ``prune``.

    Raises:
        UsageError: A budget or the metric is invalid, or the folder holds another sweep or one with other calibration data.
    """
    recipes = recipes or {"default": Recipe.of("default")}
    for budget in budgets:
        read_budget(budget)
    for seed in seeds:
        check_integer("seeds", seed, SEED)
    if not budgets or not seeds:
        raise BudgetError("A sweep takes at least one budget and one seed.")
    folder = check_folder(folder) if folder else None
    with listening(progress):
        found = _started(model, eval_data, recipes, metric, folder)
        drawn: int | None = None
        todo = [(seed, budget, name) for seed in seeds for budget in budgets for name in recipes]
        for seed, budget, name in track(todo, "sweeping"):
            if seed != drawn:  # frees the cache of the previous seed
                drawn, batches, cache = (
                    seed,
                    data(seed),
                    PruningCache(folder / "scores" / str(seed) if folder else None),
                )
                _note_calibration(found, seed, batches, folder)
            if found.find(name, budget, seed):
                continue
            start = time.perf_counter()
            result = prune(model, batches, budget=budget, recipe=recipes[name], seed=seed, cache=cache, bench=False)
            seconds = time.perf_counter() - start
            found.measure = _counted(recipes[name].cost, result)
            found.runs.append(
                Run(
                    recipe=name,
                    budget=budget,
                    seed=seed,
                    cost=result.cost_after / result.cost_before,
                    metrics=quality(model.model, result.model, eval_data),
                    seconds=seconds,
                )
            )
            if folder:
                write_text(folder / "sweep.json", found.to_json())
        if folder:
            write_text(folder / "sweep.csv", to_csv(found))
            draw(found, folder / "sweep.svg")
            draw(found, folder / "sweep.png")
    return found


def prune_point(
    model: Pretrained, data: Callable[[int], Batches], point: Point, recipe: Recipe, seed: int, folder: Path
) -> PruningResult:
    """The pruned model of one point, pruned again from the scores that the sweep saved."""
    cache = PruningCache(folder / "scores" / str(seed))
    return prune(model, data(seed), budget=point.budget, recipe=recipe, seed=seed, cache=cache)


def drop_scores(folder: Path) -> None:
    """Delete the saved scores of a finished sweep; they are large."""
    shutil.rmtree(folder / "scores", ignore_errors=True)


def _started(
    model: Pretrained, eval_data: Batches, recipes: Mapping[str, Recipe], metric: str | None, folder: Path | None
) -> Sweep:
    """The sweep saved in the folder, or a new one with the dense model evaluated."""
    costs = {recipe.cost.name for recipe in recipes.values()}
    if len(costs) > 1:
        raise UsageError(f"The recipes of a sweep must count one cost; these count {', '.join(sorted(costs))}.")
    about: dict[str, Any] = {
        "model": model.source,
        "weights": weights_digest(model.model),
        "dtype": dtype_text(model.model),
        "task": task_text(model.task),
        "eval_data": eval_data.source,
        "eval_samples": eval_data.n_samples,
        "eval_batches": len(eval_data),
        "eval_contents": data_digest(eval_data),
        "cost": costs.pop(),
        "recipes": {name: recipe.to_toml() for name, recipe in recipes.items()},
        "calibration": {},
    }
    state = folder / "sweep.json" if folder else None
    if state and state.is_file():
        found = Sweep.read(state)
        known = {each: text for each, text in found.about.get("recipes", {}).items() if each in about["recipes"]}
        if any(about["recipes"][each] != text for each, text in known.items()):
            raise UsageError(f"A recipe of the sweep in {folder} has changed; name another --output.")
        settings = {name: value for name, value in about.items() if name not in ("recipes", "calibration")}
        _check_same(f"The sweep in {folder}", found.about, settings)
        found.about = {**found.about, "recipes": {**found.about.get("recipes", {}), **about["recipes"]}}
    else:
        dense = quality(model.model, model.model, eval_data)
        found = Sweep(about=about, metric=next(iter(dense)), falling=False, dense=dense)
    if metric is not None and metric not in found.dense:
        raise UsageError(f"There is no metric '{metric}' for this task; there are {', '.join(found.dense)}.")
    found.metric = metric or next(iter(found.dense))
    found.falling = eval_data.task is not None and found.metric in eval_data.task.lower_is_better
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


def _counted(cost: CostModel, result: PruningResult) -> str:
    """Name of the cost in phrases with a share: the cost model's name for measured costs (latency, not ms), else the measure."""
    return cost.name if isinstance(cost, MeasuredCost) else result.measure
