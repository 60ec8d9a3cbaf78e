"""The frontier: how near a pruned model is to the dense one, against processor seconds, by preset and number of samples.

    python tests/benchmarks/frontier.py run MODEL --name MRPC --train DATA --test DATA --samples 128,512,2048 --recipes fast,default
    python tests/benchmarks/frontier.py show frontier.jsonl --picture docs/images/frontier.png

A point is a pruning by one preset with one number of samples, at one budget and seed. Points that the output file has are not
run again, so a killed run goes on. Seconds are those of the processor, which other programs on the machine change least. The
table has the means over the seeds, and marks the points on the frontier: none is nearer to the dense model for fewer seconds.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from accuracy import recipe_of

from fastprune import evaluate, fidelity, make_batches, open_pretrained, prune
from fastprune.reports.pictures import save_figure, subplots

OUTPUT = click.option("--output", default="frontier.jsonl", show_default=True)
KEY = ("name", "recipe", "samples", "budget", "seed")


@click.group()
def main() -> None:
    """Run points, or show them."""


@main.command()
@click.argument("model")
@click.option("--name", required=True, help="Name of the task in table and picture.")
@click.option("--train", required=True)
@click.option("--test", required=True)
@click.option("--test-samples", type=int)
@click.option("--samples", default="128,256,512,1024,2048,4096", show_default=True)
@click.option("--recipes", default="fast,default,best", show_default=True)
@click.option("--budgets", default="0.5", show_default=True)
@click.option("--seeds", default="0", show_default=True)
@click.option("--max-length", default=128, show_default=True)
@click.option("--labels", default="auto", show_default=True)
@click.option("--threads", default=1, show_default=True)
@OUTPUT
def run(model: str, name: str, output: str, **options: Any) -> None:
    """Run the points that OUTPUT lacks."""
    torch.set_num_threads(options["threads"])
    opened, sizes = open_pretrained(model), {"max_length": options["max_length"]}
    test = make_batches(options["test"], opened.task, opened.tokenizer, samples=options["test_samples"], **sizes)
    parts = [options[each].split(",") for each in ("seeds", "samples", "budgets", "recipes")]
    for seed, samples, budget, recipe in itertools.product(*parts):
        point = dict(zip(KEY, (name, recipe, int(samples), float(budget), int(seed)), strict=True))
        if point in [{key: one[key] for key in KEY} for one in read(output)]:
            continue
        train = make_batches(
            options["train"], opened.task, opened.tokenizer, samples=int(samples), seed=int(seed), **sizes
        )
        start = time.process_time()
        chosen = recipe_of(recipe, options["labels"])
        result = prune(opened, train, budget=float(budget), recipe=chosen, seed=int(seed), bench=False, progress=False)
        figures: dict[str, Any] = {"seconds": time.process_time() - start, "drawn": train.n_samples}
        figures["fidelity"] = statistics.fmean(fidelity(opened.model, result.model, test).values())
        figures["metrics"] = evaluate(result.model, test) if not test.missing else {}
        with Path(output).open("a", encoding="utf-8") as file:
            file.write(json.dumps(point | figures) + "\n")
        click.echo(json.dumps(point | figures))


@main.command()
@OUTPUT
@click.option("--picture", help="File for the picture [none].")
def show(output: str, picture: str | None) -> None:
    """Print the table of OUTPUT, and draw it."""
    points = means(read(output))
    print(
        "| task | budget | preset | samples | seconds | fidelity x 100 | metric x 100 | |\n|---|---|---|---|---|---|---|---|"
    )
    for point in points:
        metric = f"{100 * point['metric']:.1f}" if point["metric"] is not None else ""
        print(
            f"| {point['name']} | {point['budget']:g} | {point['recipe']} | {point['samples']:,} | {point['seconds']:.1f} | "
            f"{100 * point['fidelity']:.2f} | {metric} | {'frontier' if on_frontier(point, points) else ''} |"
        )
    if picture:
        draw(points, picture)


def read(output: str) -> list[dict[str, Any]]:
    """The points of a file; none if it does not exist."""
    path = Path(output)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def means(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points with their means over the seeds, in the order of task, budget, preset and seconds."""
    found = []
    for key in dict.fromkeys(tuple(one[name] for name in KEY[:4]) for one in points):
        same = [one for one in points if tuple(one[name] for name in KEY[:4]) == key]
        metrics = [next(iter(one["metrics"].values())) for one in same if one["metrics"]]
        mean = {name: statistics.fmean(one[name] for one in same) for name in ("seconds", "fidelity")}
        metric = statistics.fmean(metrics) if metrics else None
        found.append(dict(zip(KEY, key, strict=False)) | mean | {"metric": metric})
    return sorted(found, key=lambda one: (one["name"], -one["budget"], one["recipe"], one["seconds"]))


def on_frontier(point: dict[str, Any], points: Sequence[dict[str, Any]]) -> bool:
    """Whether no other point of the same task and budget is nearer to the dense model for at most as many seconds."""
    return not any(
        (one["name"], one["budget"]) == (point["name"], point["budget"])
        and one["fidelity"] > point["fidelity"]
        and one["seconds"] <= point["seconds"]
        for one in points
    )


def draw(points: Sequence[dict[str, Any]], picture: str) -> None:
    """Fidelity against seconds: a panel for each task and budget, a line for each preset, its points by number of samples."""
    panels = list(dict.fromkeys((one["name"], one["budget"]) for one in points))
    figure, axes = subplots(4.2 * len(panels), 3.4, len(panels))
    axes = axes if len(panels) > 1 else [axes]
    for axis, (name, budget) in zip(axes, panels, strict=True):
        here = [one for one in points if (one["name"], one["budget"]) == (name, budget)]
        for recipe in dict.fromkeys(one["recipe"] for one in here):
            line = [one for one in here if one["recipe"] == recipe]
            axis.plot([one["seconds"] for one in line], [100 * one["fidelity"] for one in line], "o-", label=recipe)
            for one in line:
                place = (one["seconds"], 100 * one["fidelity"])
                axis.annotate(f"{one['samples']:,}", place, textcoords="offset points", xytext=(4, -10), fontsize=7)
        axis.set(xscale="log", title=f"{name}, {budget:g} of the MACs", xlabel="processor seconds")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("fidelity x 100")
    axes[0].legend()
    save_figure(figure, picture)


if __name__ == "__main__":
    main()
