"""Sweep results: a metric against cost, its Pareto front and knee, and its output as CSV, JSON or picture."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastprune.errors import UsageError
from fastprune.files import PARTIAL, check_output, json_text, library_versions, user_path
from fastprune.reports.pictures import plain, save_figure, subplots
from fastprune.untrusted import read_json

FORMAT = 2
NEAR = 0.01  # difference of two costs, as fractions of the dense model's, up to which they count as equal


@dataclass(frozen=True, kw_only=True)
class Run:
    """One pruning of a sweep.

    Attributes:
        recipe: Name of the recipe in the sweep.
        budget: The requested fraction of the cost.
        seed: Seed of the calibration set and of all random choices.
        cost: The pruned model's cost as a fraction of the dense model's.
        metrics: The pruned model's metrics on the evaluation data.
        seconds: Duration of the pruning, without scores reused from another run.
    """

    recipe: str
    budget: float
    seed: int
    cost: float
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """The result of one recipe at one budget, over the seeds.

    Attributes:
        recipe: Name of the recipe.
        budget: The requested fraction of the cost.
        cost: Mean cost as a fraction of the dense model's.
        value: Mean of the metric.
        low: Minimum of the metric.
        high: Maximum of the metric.
        drop: Loss against the dense model: points (hundredths of the metric), or percent for metrics where lower is better.
            Negative for a gain.
    """

    recipe: str
    budget: float
    cost: float
    value: float
    low: float
    high: float
    drop: float


@dataclass(kw_only=True, repr=False)
class Sweep:
    """The curve of a metric against cost. Its text form lists the Pareto front.

    Attributes:
        about: Description of the sweep: model, data, samples, cost. A sweep is resumed only if all of it is unchanged.
        metric: The metric of the curve.
        falling: Whether lower values of the metric are better.
        dense: The dense model's metrics.
        measure: Unit of the cost, such as MACs; empty before the first run.
        unreachable: Why a recipe cannot reach a budget, by "RECIPE at BUDGET".
        runs: The finished runs.
        versions: Versions of the libraries of the last run.
        failures: Files that could not be written, a sentence each; the sweep is complete without them.
    """

    about: Mapping[str, Any]
    metric: str
    falling: bool
    dense: Mapping[str, float]
    measure: str = ""
    runs: list[Run] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=library_versions)
    unreachable: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        """The dense model's metric, and the points of the front, one per line."""
        first = (
            f"{len(self.runs)} prunings; dense {self.metric_told} {self.dense[self.metric]:.4f}; best for their cost:"
        )
        return "\n  ".join([first, *(f"{p.recipe} at {p.budget:g}: {self.sentence(p)}" for p in self.front())])

    @property
    def metric_told(self) -> str:
        """The metric with what it depends on besides model and data, such as ``perplexity (context 512, stride 256)``."""
        conditions = self.about.get("eval_conditions")
        return f"{self.metric} ({conditions})" if conditions else self.metric

    def find(self, recipe: str, budget: float, seed: int) -> Run | None:
        """The finished run of this recipe, budget and seed, if any."""
        return next((r for r in self.runs if (r.recipe, r.budget, r.seed) == (recipe, budget, seed)), None)

    def points(self) -> list[Point]:
        """One point per recipe and budget, by falling budget."""
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
        """The Pareto front in cost and metric, by rising cost: no other point loses less at the same or a lower cost.

        Costs that differ by ``NEAR`` or less count as the same: recipes use up a budget to different parts of a unit.
        """
        points = [point for point in self.points() if not math.isnan(point.drop)]
        front: list[Point] = []
        for point in sorted(points, key=lambda point: (point.cost, point.drop)):
            beaten = any(other.cost <= point.cost + NEAR and other.drop < point.drop for other in points)
            if not beaten and (not front or point.drop < front[-1].drop):
                front.append(point)
        return front

    def knee(self) -> Point | None:
        """The knee: the point of the front farthest below the line between its ends. Costs below the knee lose much accuracy.

        None if the front has fewer than three points.
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

    def sentence(self, point: Point) -> str:
        """A point in words, such as "0.46 of the MACs costs 0.4 points"."""
        unit = "percent" if self.falling else "points"
        verb = "costs" if point.drop >= 0 else "gains"
        return f"{point.cost:.2g} of the {self.measure} {verb} {abs(point.drop):.1f} {unit} of {self.metric}"

    def to_json(self) -> str:
        """The whole sweep as JSON, for ``Sweep.read``."""
        return json_text({"format": FORMAT} | asdict(self), indent=1)

    @staticmethod
    def read(path: Path) -> Sweep:
        """Read a sweep that ``to_json`` wrote.

        Raises:
            UsageError: The file is broken or has another format.
        """
        try:
            content = read_json(path)
            if content["format"] != FORMAT:
                raise UsageError(f"{path} is of another format than {FORMAT}; name another --output.")
            found = Sweep(
                about=dict(content["about"]),
                metric=str(content["metric"]),
                falling=bool(content["falling"]),
                dense=_numbers(content["dense"]),
                measure=str(content["measure"]),
                runs=[_run(run) for run in content["runs"]],
                versions={str(name): str(number) for name, number in dict(content.get("versions", {})).items()},
                unreachable={str(name): str(reason) for name, reason in dict(content.get("unreachable", {})).items()},
            )
            found.check()
            return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise UsageError(f"{path} is no sweep that could go on ({error}); name another --output.") from error

    def check(self) -> None:
        """Raise ``ValueError`` if a metric of the dense model is missing in a run, or a record of the sweep is no table."""
        for metrics in (self.dense, *(run.metrics for run in self.runs)):
            missing = {self.metric, *self.dense} - set(metrics)
            if missing:
                raise ValueError(f"the metric '{min(missing)}' is missing")
        calibration = self.about.get("calibration", {})
        for record in (self.about.get("recipes", {}), calibration, *calibration.values()):
            if not isinstance(record, dict):
                raise ValueError(f"{record!r} is no table")

    def _drop(self, value: float) -> float:
        """The loss of a value of the metric, both as printed with four decimals."""
        value, dense = round(value, 4), round(self.dense[self.metric], 4)
        if not self.falling:
            return 100 * (dense - value)
        return 100 * (value / dense - 1) if dense else 100 * value


def check_folder(folder: str | Path) -> Path:
    """Check that a sweep can be written to a folder: a new or empty one, or that of a sweep to continue.

    Returns:
        The path, without ``~``.

    Raises:
        UsageError: The folder holds something else or a broken sweep, or cannot be written.
    """
    place = user_path(folder)
    if (place / "sweep.json").is_file():
        Sweep.read(place / "sweep.json")
        return place
    if place.is_dir() and any(not each.name.startswith(PARTIAL) for each in place.iterdir()):
        raise UsageError(
            f"{folder} is not empty and holds no sweep; name a directory that does not exist, or is empty."
        )
    return check_output(folder)


def _run(content: Mapping[str, Any]) -> Run:
    """A run from its JSON."""
    return Run(
        recipe=str(content["recipe"]),
        budget=float(content["budget"]),
        seed=int(content["seed"]),
        cost=float(content["cost"]),
        metrics=_numbers(content["metrics"]),
        seconds=float(content["seconds"]),
    )


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Metrics with NaN where JSON has null."""
    return {name: math.nan if value is None else float(value) for name, value in metrics.items()}


def to_csv(found: Sweep) -> str:
    """The sweep as CSV: one row per run."""
    text = io.StringIO()
    metrics = list(found.dense)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["recipe", "budget", "seed", "cost", "seconds", *metrics])
    writer.writerow(["dense", 1.0, "", 1.0, "", *found.dense.values()])
    for run in found.runs:
        writer.writerow([run.recipe, run.budget, run.seed, run.cost, run.seconds, *(run.metrics[m] for m in metrics)])
    return text.getvalue()


def draw(found: Sweep, path: Path) -> None:
    """Draw the sweep: one line per recipe with the range over its seeds, the dense model, the Pareto front and the knee."""
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
            label=plain(recipe),
        )
    front = found.front()
    axes.plot(
        [p.cost for p in front], [p.value for p in front], color="0.6", linewidth=4, alpha=0.4, label="Pareto front"
    )
    axes.axhline(found.dense[found.metric], color="0.4", linestyle=":", label="dense")
    knee = found.knee()
    if knee:
        axes.plot(knee.cost, knee.value, "o", markersize=13, fillstyle="none", color="0.3", label="knee")
        axes.set_title(plain(f"The knee: {found.sentence(knee)}"), loc="left", fontsize=10)
    axes.set(xlabel=plain(f"{found.measure} left"), ylabel=plain(found.metric_told))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
