"""The figures of accuracy.py as a Markdown table: mean and spread over the seeds, in points.

python tests/benchmarks/table.py accuracy.jsonl --metric accuracy
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--metric", default="accuracy", show_default=True)
@click.option("--of", default="metrics", type=click.Choice(["metrics", "fidelity"]), show_default=True)
@click.option("--scale", default=100.0, show_default=True, help="What the metric is multiplied by.")
def main(file: Path, metric: str, of: str, scale: float) -> None:
    """One row a recipe, one column a budget; a cell is the mean and, in brackets, the lowest and highest seed.

    The last columns are the medians of what pruning cost: in F, forward passes of the dense model over the calibration set,
    and in seconds.
    """
    found: dict[tuple[str, float], dict[int, float]] = {}
    bills: dict[str, list[tuple[float, float]]] = {}
    for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        if of not in line:  # of the dense model: it is as near as can be to itself
            continue
        values = found.setdefault((line["recipe"], line["budget"]), {})
        values[line.get("seed", 0)] = scale * line[of][metric]
        bills.setdefault(line["recipe"], []).extend([(line["F"], line["seconds"])] if "F" in line else [])
    recipes = list(dict.fromkeys(recipe for recipe, _ in found))
    budgets = sorted({budget for recipe, budget in found if recipe != "dense"}, reverse=True)
    click.echo(f"| {metric} | " + " | ".join(f"{budget:g}" for budget in budgets) + " | F | seconds |")
    click.echo("|---|" + "---|" * (len(budgets) + 2))
    for recipe in recipes:
        cells = [_cell(found.get((recipe, 1.0 if recipe == "dense" else budget), {})) for budget in budgets]
        medians = [statistics.median(each) for each in zip(*bills[recipe], strict=True)]
        cells += [f"{value:.0f}" for value in medians] or ["", ""]
        click.echo(f"| {recipe} | " + " | ".join(cells) + " |")


def _cell(values: dict[int, float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values.values()):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values.values()):.1f} to {max(values.values()):.1f})"


if __name__ == "__main__":
    main()
