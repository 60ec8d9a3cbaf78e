"""Searches, rearrangement and damage curves at size: seconds and peak memory, on one core, of random scores and inputs.

    OMP_NUM_THREADS=1 python tests/benchmarks/searches.py

Tables: BERT-large (24 layers of 16 heads and 4,096 filters), and a decoder of 32 layers (32 heads, 11,008 filters, hidden 4,096).
Each line is a process of its own, so that its peak memory is its own, too.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import click
import numpy as np
import torch

from fastprune import strategy
from fastprune.strategies import Context, CostTable, Scores
from fastprune_fisher.rearranger import swap
from fastprune_obs.surgeon import sweep

MODELS = {"BERT-large": (24, 16, 64, 4096, 1024), "32 layers": (32, 32, 128, 11008, 4096)}
"""Layers, heads, features of a head, filters, hidden size."""
SEARCHERS = ("exact", "knapsack", "threshold")


@click.command()
@click.option("--width", default=11008, help="Filters of the group that is rearranged, and of the damage curve.")
@click.option("--hidden", default=4096, help="Hidden size of the damage curve's group.")
@click.option("--only", help="Run one case in this process.")
def main(width: int, hidden: int, only: str | None) -> None:
    """Run every case, or one."""
    cases: dict[str, Callable[[], float]] = {
        f"{searcher}, {model}": lambda searcher=searcher, model=model: search(searcher, model)
        for model in MODELS
        for searcher in SEARCHERS
    }
    cases |= {
        f"rearrangement, {width:,} filters": lambda: rearrange(width),
        f"damage curve, {width:,} filters, hidden {hidden:,}": lambda: damage(width, hidden),
    }
    if only:
        seconds = cases[only]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {only} | {seconds:.2f} | {peak:.2f} |", flush=True)
        return
    print("| step | CPU seconds | peak memory, GiB |\n|---|---|---|", flush=True)
    for name in cases:
        arguments = [f"--width={width}", f"--hidden={hidden}", f"--only={name}"]
        subprocess.run([sys.executable, __file__, *arguments], check=True)


def search(searcher: str, model: str) -> float:
    """CPU seconds of a search at half of the cost."""
    layers, heads, width, filters, hidden = MODELS[model]
    generator = torch.Generator().manual_seed(0)
    importance, damage, costs = {}, {}, {}
    for layer in range(layers):
        for kind, units, cost in (("attention", heads, 4.0 * hidden * width), ("ffn", filters, 3.0 * hidden)):
            name = f"layer.{layer}.{kind}"
            importance[name] = torch.rand(units, generator=generator, dtype=torch.float64) ** 4 * 2.0 ** (layer / 8)
            rising = importance[name].sort().values.cumsum(0)
            damage[name] = torch.cat([rising.new_zeros(1), rising]).flip(0).pow(0.75)
            costs[name] = cost * torch.arange(units + 1, dtype=torch.float64)
    scores = Scores(importance=importance, damage=None if searcher == "exact" else damage)
    table = CostTable(measure="MACs", groups=costs, fixed=0.0)
    chosen = strategy("searcher", searcher)
    start = time.process_time()
    chosen.search(scores, table, 0.5 * table.total, Context())
    return time.process_time() - start


def rearrange(width: int) -> float:
    """CPU seconds of swapping filters, from the half that the diagonal alone prunes."""
    gradients = np.random.default_rng(0).standard_normal((512, width)).astype(np.float32)
    gradients[:, ::2] += gradients[:, :1]  # filters that do the same work
    start = time.process_time()
    gram = (gradients.T @ gradients).astype(np.float64)
    swap(gram, gram.diagonal() > np.median(gram.diagonal()))
    return time.process_time() - start


def damage(width: int, hidden: int) -> float:
    """CPU seconds of a damage curve."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2 * width, width, generator=generator)
    gram = (inputs.T @ inputs).double().div_(len(inputs))
    del inputs
    gram.diagonal().add_(0.01)
    weight = torch.randn(width, hidden, generator=generator, dtype=torch.float64)
    start = time.process_time()
    sweep(gram, weight, 1)
    return time.process_time() - start


if __name__ == "__main__":
    main()
