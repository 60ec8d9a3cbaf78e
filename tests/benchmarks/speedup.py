"""Accuracy against measured latency: the search on measured latency, and the one on MACs, at the same latency.

    python tests/benchmarks/speedup.py MODEL --train DATA --test DATA --shares 0.65,0.5,0.4 --batch-size 32 --seq-len 64

For every share of the dense model's latency, the model is pruned to it by the latency table, and to the share of the MACs
that the same table says takes as long. The dense model and both pruned ones then take turns; measured is the median over
the rounds of pruned time / dense time. Both use the searcher ``knapsack`` and are otherwise the preset; scores are shared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch

from fastprune import (
    Batches,
    Pretrained,
    PruningCache,
    Recipe,
    architecture_for,
    evaluate,
    make_batches,
    open_pretrained,
    prune,
    strategy,
)
from fastprune.calibration import frozen
from fastprune.data import Workload
from fastprune.measuring.timing import interleaved, speedup
from fastprune.strategies import Context
from fastprune.units import resolve_groups


@click.command()
@click.argument("model")
@click.option("--train", required=True)
@click.option("--test", required=True)
@click.option("--shares", default="0.65,0.5,0.4")
@click.option("--seeds", default="0")
@click.option("--preset", default="default")
@click.option("--samples", default=2048)
@click.option("--test-samples", default=None, type=int)
@click.option("--max-length", default=128)
@click.option("--batch-size", default=32)
@click.option("--seq-len", default=64)
@click.option("--rounds", default=9)
@click.option("--output", default="speedup.jsonl")
def main(**options: Any) -> None:
    """Run everything and append each result to the output."""
    opened = open_pretrained(options["model"])
    test = make_batches(
        options["test"],
        opened.task,
        opened.tokenizer,
        samples=options["test_samples"],
        max_length=options["max_length"],
    )
    cost = strategy("cost", "latency", batch_size=options["batch_size"], seq_len=options["seq_len"])
    record(options, {"cost": "dense", "share": 1.0, "metrics": evaluate(opened.model, test)})
    for seed in map(int, options["seeds"].split(",")):
        train = make_batches(
            options["train"],
            opened.task,
            opened.tokenizer,
            samples=options["samples"],
            max_length=options["max_length"],
            seed=seed,
        )
        cache = PruningCache()
        for share in map(float, options["shares"].split(",")):
            compare(opened, train, test, cost, share, seed, cache, options)


def compare(
    opened: Pretrained,
    train: Batches,
    test: Batches,
    cost: Any,
    share: float,
    seed: int,
    cache: PruningCache,
    options: dict[str, Any],
) -> None:
    """Both searches at one share of the latency."""
    recipe = Recipe.of(options["preset"], cost=cost, searcher="knapsack")
    by_latency = prune(opened, train, budget=share, recipe=recipe, seed=seed, cache=cache, bench=False)
    macs = same_latency(opened, train, recipe, share, seed, cache)
    by_macs = prune(
        opened, train, budget=macs, recipe=Recipe.of(recipe, cost="macs"), seed=seed, cache=cache, bench=False
    )
    inputs = Workload.dummy(opened.model, options["seq_len"]).inputs(batch_size=options["batch_size"])
    models = {"dense": opened.model, "latency": by_latency.model, "macs": by_macs.model}
    times = interleaved(models, inputs, rounds=options["rounds"])
    for name, result in (("latency", by_latency), ("macs", by_macs)):
        found = {
            "cost": name,
            "share": share,
            "seed": seed,
            "budget": result.budget,
            "measured": 1 / speedup(times["dense"], times[name]),
            "speedup": speedup(times["dense"], times[name]),
            "metrics": evaluate(result.model, test),
            "kept": [group["kept"] for group in result.kept()],
        }
        record(options, found)


def same_latency(
    opened: Pretrained, train: Batches, recipe: Recipe, share: float, seed: int, cache: PruningCache
) -> float:
    """The share of the MACs whose mask takes as long, by the table, as the latency share allows."""
    model = opened.model
    groups = resolve_groups(architecture_for(model), model)
    with frozen(model):
        latency = cache.costs(recipe.cost, lambda: recipe.cost.measure(model, groups, Workload.of(train)))
        counted = strategy("cost", "macs")
        macs = cache.costs(counted, lambda: counted.measure(model, groups, Workload.of(train)))
        generator = torch.Generator().manual_seed(seed)
        scores = cache.scores(
            recipe.scorer,
            lambda: recipe.scorer.score(model, groups, train, Context(groups=groups, generator=generator)),
        )
    low, high = macs.floor / macs.total, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        counts = recipe.searcher.search(scores, macs, middle * macs.total, Context(groups=groups)).counts()
        low, high = (middle, high) if latency.of(counts) <= share * latency.total else (low, middle)
    return low


def record(options: dict[str, Any], result: dict[str, Any]) -> None:
    """Print a result and append it to the output."""
    line = {"model": Path(options["model"]).name, "batch_size": options["batch_size"], **result}
    print({name: value for name, value in line.items() if name != "kept"}, flush=True)
    with Path(options["output"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
