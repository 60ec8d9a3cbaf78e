"""What a pruning costs in two checkouts, in turns: wall time, processor time, peak memory, and what is lost.

    python tests/benchmarks/speed_of_pruning.py MODEL --old CHECKOUT --train DATA --test DATA --budgets 0.5,0.3

Every pruning is a process of its own, with the same model, samples and seed in both checkouts (pair i has seed i), which take turns
and swap their order from pair to pair. The table has the medians of the pairs, and of the pairs' ratios new / old; the last columns
are the means over the pairs, and the standard error of the mean difference of the metric. Run it where nothing else runs.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parents[2]


@click.command()
@click.argument("model")
@click.option("--old", type=click.Path(exists=True, file_okay=False), help="The checkout to compare with.")
@click.option("--train", required=True)
@click.option("--test", help="Data for the metric and the fidelity [neither].")
@click.option("--budgets", default="0.5", show_default=True)
@click.option("--samples", default=2048, show_default=True)
@click.option("--test-samples", type=int)
@click.option("--max-length", default=128, show_default=True)
@click.option("--labels", help="Labels of the scorer [the recipe's].")
@click.option("--recipe", default="default", show_default=True)
@click.option("--pairs", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option(
    "--output", default="speed_of_pruning.jsonl", show_default=True, help="A line for each pruning is added to it."
)
@click.option("--run", help="Prune once, at this budget and seed, and print JSON.", hidden=True)
def main(run: str | None, **options: Any) -> None:
    """Compare both checkouts, or prune once."""
    if run:
        budget, seed = run.split(",")
        print(json.dumps(pruned(float(budget), int(seed), options)), flush=True)
        return
    print("| budget | | old | new | new / old |\n|---|---|---|---|---|", flush=True)
    for budget in options["budgets"].split(","):
        pairs = [pair(budget, seed, options) for seed in range(options["pairs"])]
        for row in rows(budget, pairs):
            print(row, flush=True)


def pair(budget: str, seed: int, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures of both checkouts, ``old`` and ``new``, for one seed."""
    trees = {"old": Path(options["old"] or HERE).resolve(), "new": HERE}
    found = {}
    for which in sorted(trees, reverse=bool(seed % 2)):
        path = os.pathsep.join(str(each) for each in (trees[which], trees[which] / "plugins"))
        threads = str(options["threads"])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        command = [sys.executable, __file__, *sys.argv[1:], "--run", f"{budget},{seed}"]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found[which] = json.loads(done.stdout.splitlines()[-1])
        with Path(options["output"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"checkout": which, "model": options["model"], **found[which]}) + "\n")
    return found


def pruned(budget: float, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """The figures of one pruning by the checkout on ``PYTHONPATH``; only names that all checkouts have are used."""
    import torch

    from fastprune import Recipe, evaluate, fidelity, make_batches, open_pretrained, prune

    torch.set_num_threads(options["threads"])
    opened = open_pretrained(options["model"])
    sizes = {"max_length": options["max_length"]}
    train = make_batches(
        options["train"], opened.task, opened.tokenizer, samples=options["samples"], seed=seed, **sizes
    )
    settings = {"scorer": {"labels": options["labels"]}} if options["labels"] else {}
    recipe = Recipe.of(options["recipe"], settings=settings)
    wall, processor = time.perf_counter(), time.process_time()
    result = prune(opened, train, budget=budget, recipe=recipe, seed=seed, bench=False, progress=False)
    figures: dict[str, Any] = {
        "budget": budget,
        "seed": seed,
        "wall, s": time.perf_counter() - wall,
        "processor, s": time.process_time() - processor,
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "timings": result.timings,
    }
    if options["test"]:
        test = make_batches(options["test"], opened.task, opened.tokenizer, samples=options["test_samples"], **sizes)
        figures["metrics"] = evaluate(result.model, test)
        figures["fidelity"] = statistics.fmean(fidelity(opened.model, result.model, test).values())
    return figures


def rows(budget: str, pairs: list[dict[str, dict[str, Any]]]) -> list[str]:
    """The rows of the table for one budget."""
    lines = []
    costs = [("wall, s", "wall, s"), ("processor, s", "processor, s"), ("peak memory, MiB", "peak memory, MiB")]
    stages = [stage for stage, seconds in pairs[0]["old"]["timings"].items() if seconds >= 0.5]
    for name, key in costs:
        lines.append(_row(budget, name, [(each["old"][key], each["new"][key]) for each in pairs]))
    for stage in stages:
        both = [(each["old"]["timings"][stage], each["new"]["timings"].get(stage, 0.0)) for each in pairs]
        lines.append(_row(budget, f"of it {stage}, s", both))
    if "fidelity" not in pairs[0]["new"]:
        return lines
    metric = next(iter(pairs[0]["new"]["metrics"]))
    for name, both in (
        ("fidelity x 100", [(each["old"]["fidelity"], each["new"]["fidelity"]) for each in pairs]),
        (f"{metric} x 100", [(each["old"]["metrics"][metric], each["new"]["metrics"][metric]) for each in pairs]),
    ):
        old, new = (100 * statistics.fmean(values) for values in zip(*both, strict=True))
        gained = [100 * (after - before) for before, after in both]
        noise = f" +- {statistics.stdev(gained) / math.sqrt(len(gained)):.2f}" if len(gained) > 1 else ""
        lines.append(f"| {budget} | {name} | {old:.2f} | {new:.2f} | {new - old:+.2f}{noise} |")
    return lines


def _row(budget: str, name: str, both: list[tuple[float, float]]) -> str:
    old, new = (statistics.median(values) for values in zip(*both, strict=True))
    ratios = [after / before for before, after in both if before > 0]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
    return f"| {budget} | {name} | {old:.1f} | {new:.1f} | {ratio} |"


if __name__ == "__main__":
    main()
