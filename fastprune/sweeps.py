"""Sweeps: accuracy against cost over many budgets, kept as they go, so that an interrupted sweep goes on."""

from __future__ import annotations

import csv
import io
import json
import re
import secrets
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastprune.budgets import read_budget
from fastprune.calibration import Batches
from fastprune.errors import BudgetError, UsageError
from fastprune.evaluation import evaluate
from fastprune.pictures import save_figure, subplots
from fastprune.pipeline import prune
from fastprune.pretrained import Pretrained
from fastprune.progress import track
from fastprune.recipe import Recipe
from fastprune.result import PruningResult
from fastprune.reuse import Shared

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """One pruning of a sweep.

    Attributes:
        recipe: By which name it was asked for.
        budget: The fraction that was asked for.
        seed: Of the calibration set and everything random.
        cost: What is left, as a fraction of the dense model's cost.
        metrics: Of the pruned model, on the evaluation data.
        seconds: What pruning took, without scores that another run had computed.
    """

    recipe: str
    budget: float
    seed: int
    cost: float
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one recipe makes of one budget, over the seeds.

    Attributes:
        recipe: Its name.
        budget: The fraction that was asked for.
        cost: What is left, the mean.
        value: The metric's mean.
        low: Its lowest.
        high: Its highest.
        drop: What it lost against the dense model: points (hundredths of the metric), or percent of a metric of
            which less is better. Negative: it gained.
    """

    recipe: str
    budget: float
    cost: float
    value: float
    low: float
    high: float
    drop: float


@dataclass(kw_only=True)
class Sweep:
    """The curve of a metric against cost.

    Attributes:
        about: What it is a sweep of: model, data, samples; it goes on only where all of it is the same.
        metric: The metric that the curve shows.
        falling: Whether less of it is better.
        dense: The dense model's metrics.
        runs: What has been done.
    """

    about: Mapping[str, Any]
    metric: str
    falling: bool
    dense: Mapping[str, float]
    runs: list[Run] = field(default_factory=list)

    def find(self, recipe: str, budget: float, seed: int) -> Run | None:
        """The run that was done for these, if any."""
        return next((r for r in self.runs if (r.recipe, r.budget, r.seed) == (recipe, budget, seed)), None)

    def points(self) -> list[Point]:
        """One for each recipe and budget, the dearest first."""
        found: dict[tuple[str, float], list[Run]] = {}
        for run in self.runs:
            found.setdefault((run.recipe, run.budget), []).append(run)
        points = []
        for (recipe, budget), runs in found.items():
            values = [run.metrics[self.metric] for run in runs]
            value = statistics.mean(values)
            points.append(
                Point(
                    recipe=recipe,
                    budget=budget,
                    cost=statistics.mean(run.cost for run in runs),
                    value=value,
                    low=min(values),
                    high=max(values),
                    drop=self._drop(value),
                )
            )
        return sorted(points, key=lambda point: (point.recipe, -point.budget))

    def front(self) -> list[Point]:
        """The points that no other beats in both cost and metric, the cheapest first."""
        front: list[Point] = []
        for point in sorted(self.points(), key=lambda point: (point.cost, point.drop)):
            if not front or point.drop < front[-1].drop:
                front.append(point)
        return front

    def knee(self) -> Point | None:
        """The point of the front farthest below the line between its ends: from there on a little more saved costs much.

        None where the front has fewer than three points.
        """
        front = self.front()
        if len(front) < 3:
            return None
        first, last = front[0], front[-1]
        wide, high = last.cost - first.cost, first.drop - last.drop

        def below(point: Point) -> float:
            line = 1 - (point.cost - first.cost) / wide
            return line - (point.drop - last.drop) / high

        return max(front[1:-1], key=below)

    def pick(self, rule: str) -> Point:
        """The cheapest point that a rule allows: ``drop<=1`` (points or percent lost) or ``cost<=0.5``.

        Raises:
            UsageError: It is no such rule, or no point keeps to it.
        """
        name, most = read_rule(rule)
        allowed = [point for point in self.points() if getattr(point, name) <= most + 1e-9]
        if not allowed:
            nearest = min(self.points(), key=lambda point: float(getattr(point, name)))
            raise UsageError(
                f"No point of the sweep has {rule}; the nearest is {nearest.recipe} at {nearest.budget:g}, with a "
                f"{name} of {getattr(nearest, name):.3g}."
            )
        return min(allowed, key=lambda point: (point.cost, point.drop) if name == "drop" else (point.drop, point.cost))

    def sentence(self, point: Point) -> str:
        """A point in words, such as "0.46 of the MACs costs 0.4 points"."""
        unit = "percent" if self.falling else "points"
        verb = "costs" if point.drop >= 0 else "gains"
        return f"{point.cost:.2g} of the {self.about['measure']} {verb} {abs(point.drop):.1f} {unit} of {self.metric}"

    def to_json(self) -> str:
        """Everything, as ``Sweep.read`` takes it."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1)

    @staticmethod
    def read(path: Path) -> Sweep:
        """What ``to_json`` wrote.

        Raises:
            UsageError: The file is broken, or of another format.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise UsageError(f"{path} is of another format than {FORMAT}; name another --output.")
            runs = [Run(**run) for run in content.pop("runs")]
            return Sweep(**content, runs=runs)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is no sweep that could go on ({error}); name another --output.") from error

    def _drop(self, value: float) -> float:
        dense = self.dense[self.metric]
        return 100 * (value / dense - 1) if self.falling else 100 * (dense - value)


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
) -> Sweep:
    """Prune one model to many budgets by one or more recipes, and measure each.

    Scores are computed once for each recipe's scorer and seed. With a folder, each run is kept as soon as it is done,
    and the same call goes on where it stopped; at the end it holds ``sweep.json``, ``sweep.csv`` and the curve as
    ``sweep.png`` and ``sweep.svg``.

    Args:
        model: The dense model.
        data: From a seed to a calibration set.
        eval_data: Labelled data to measure on, none of it for calibration.
        budgets: Fractions of the dense model's cost.
        recipes: By name; None: the preset ``default``.
        seeds: One pruning each for every recipe and budget.
        metric: The metric of the curve; None: the task's first.
        folder: Where everything is kept; None: nowhere.

    Raises:
        UsageError: A budget or the metric is none, or the folder holds another sweep.
    """
    recipes = recipes or {"default": Recipe.of("default")}
    for budget in budgets:
        read_budget(budget)
    if not budgets or not seeds:
        raise BudgetError("A sweep takes at least one budget and one seed.")
    folder = Path(folder) if folder else None
    found = _started(model, eval_data, recipes, metric, folder)
    shared: dict[int, Shared] = {}
    sets: dict[int, Batches] = {}
    todo = [(seed, budget, name) for seed in seeds for budget in budgets for name in recipes]
    for seed, budget, name in track(todo, "sweeping"):
        if found.find(name, budget, seed):
            continue
        if seed not in sets:
            sets[seed] = data(seed)
            shared[seed] = Shared(folder / "scores" / str(seed) if folder else None)
        start = time.perf_counter()
        result = prune(model, sets[seed], budget=budget, recipe=recipes[name], seed=seed, shared=shared[seed])
        seconds = time.perf_counter() - start
        found.runs.append(
            Run(
                recipe=name,
                budget=budget,
                seed=seed,
                cost=result.cost_after / result.cost_before,
                metrics=evaluate(result.model, eval_data),
                seconds=seconds,
            )
        )
        if folder:
            write(folder / "sweep.json", found.to_json())
    if folder:
        write(folder / "sweep.csv", to_csv(found))
        draw(found, folder / "sweep.svg")
        draw(found, folder / "sweep.png")
    return found


def prune_point(
    model: Pretrained, data: Callable[[int], Batches], point: Point, recipe: Recipe, seed: int, folder: Path
) -> PruningResult:
    """The pruned model of one point, made again from the scores that the sweep kept."""
    shared = Shared(folder / "scores" / str(seed))
    return prune(model, data(seed), budget=point.budget, recipe=recipe, seed=seed, shared=shared)


def drop_scores(folder: Path) -> None:
    """Delete the kept scores: the sweep is done, and they are large."""
    shutil.rmtree(folder / "scores", ignore_errors=True)


def _started(
    model: Pretrained, eval_data: Batches, recipes: Mapping[str, Recipe], metric: str | None, folder: Path | None
) -> Sweep:
    """The sweep that the folder holds, or a new one with the dense model measured."""
    costs = {recipe.cost.name for recipe in recipes.values()}
    if len(costs) > 1:
        raise UsageError(f"The recipes of a sweep must count one cost; these count {', '.join(sorted(costs))}.")
    about: dict[str, Any] = {
        "model": model.source,
        "eval_data": eval_data.source,
        "eval_samples": eval_data.n_samples,
        "measure": costs.pop(),
        "recipes": {name: recipe.to_toml() for name, recipe in recipes.items()},
    }
    state = folder / "sweep.json" if folder else None
    if state and state.is_file():
        found = Sweep.read(state)
        for name in about:
            if name == "recipes":
                known = {each: text for each, text in found.about["recipes"].items() if each in about["recipes"]}
                if any(about["recipes"][each] != text for each, text in known.items()):
                    raise UsageError(f"A recipe of the sweep in {folder} has changed; name another --output.")
            elif found.about[name] != about[name]:
                raise UsageError(
                    f"The sweep in {folder} has {name} {found.about[name]}, not {about[name]}; name another --output."
                )
        found.about = {**about, "recipes": {**found.about["recipes"], **about["recipes"]}}
    else:
        if folder:
            _check_folder(folder)
        dense = evaluate(model.model, eval_data)
        found = Sweep(about=about, metric=next(iter(dense)), falling=False, dense=dense)
    if metric is not None and metric not in found.dense:
        raise UsageError(f"There is no metric '{metric}' for this task; there are {', '.join(found.dense)}.")
    found.metric = metric or next(iter(found.dense))
    found.falling = eval_data.task is not None and found.metric in eval_data.task.lower_is_better
    return found


def _check_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is not empty and holds no sweep; name a directory that does not exist, or is empty."
        )
    folder.mkdir(parents=True, exist_ok=True)


def read_budgets(text: str) -> list[float]:
    """Budgets in a user's words: ``0.9,0.5`` or ``0.9:0.2:0.1`` (from, to, step, both ends included).

    Raises:
        BudgetError: It is neither.
    """
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            count = round(abs(first - last) / abs(step))
            sign = 1 if last >= first else -1
            found = [round(first + sign * abs(step) * at, 10) for at in range(count + 1)]
        else:
            found = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BudgetError(f"Budgets are given as 0.9,0.5,0.3 or as 0.9:0.2:0.1 (from:to:step); got {text}.") from error
    for budget in found:
        read_budget(budget)
    return list(dict.fromkeys(found))


def read_rule(rule: str) -> tuple[str, float]:
    """``drop<=1`` or ``cost<=0.5`` as name and limit.

    Raises:
        UsageError: It is neither.
    """
    match = re.fullmatch(r"\s*(drop|cost)\s*<=\s*(-?\d+(?:\.\d+)?)\s*", rule)
    if not match:
        raise UsageError(f"--pick takes drop<=POINTS or cost<=FRACTION, such as 'drop<=1'; got {rule!r}.")
    return match[1], float(match[2])


def to_csv(found: Sweep) -> str:
    """One line a run."""
    text = io.StringIO()
    metrics = list(found.dense)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["recipe", "budget", "seed", "cost", "seconds", *metrics])
    writer.writerow(["dense", 1.0, "", 1.0, "", *found.dense.values()])
    for run in found.runs:
        writer.writerow([run.recipe, run.budget, run.seed, run.cost, run.seconds, *(run.metrics[m] for m in metrics)])
    return text.getvalue()


def draw(found: Sweep, path: Path) -> None:
    """The curve: a line a recipe with the spread of its seeds, the dense model, the Pareto front, the knee."""
    figure, axes = subplots(7, 4.5)
    points = found.points()
    for recipe in dict.fromkeys(point.recipe for point in points):
        line = sorted((point for point in points if point.recipe == recipe), key=lambda point: point.cost)
        errors = [[p.value - p.low for p in line], [p.high - p.value for p in line]]
        axes.errorbar(
            [p.cost for p in line],
            [p.value for p in line],
            yerr=errors,
            marker="o",
            markersize=4,
            capsize=2,
            label=recipe,
        )
    front = found.front()
    axes.plot(
        [p.cost for p in front], [p.value for p in front], color="0.6", linewidth=4, alpha=0.4, label="Pareto front"
    )
    axes.axhline(found.dense[found.metric], color="0.4", linestyle=":", label="dense")
    knee = found.knee()
    if knee:
        axes.annotate(
            found.sentence(knee),
            (knee.cost, knee.value),
            xytext=(12, -30 if not found.falling else 30),
            textcoords="offset points",
            arrowprops={"arrowstyle": "->"},
        )
    axes.set(xlabel=f"{found.about['measure']} left", ylabel=found.metric)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
