"""Accuracy against budget: dense, the paper's pipeline after each of its stages, and the default, over several seeds.

    python tests/benchmarks/accuracy.py MODEL --train DATA --test DATA --budgets 0.7,0.5,0.4,0.3 --seeds 0,1,2

Calibrates on the training data, reports the task's metrics on the test data, which calibration never sees. Scores are
computed once a seed and shared by all recipes and budgets. Results are appended to a JSONL file, one line a model.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import click
import torch

from fastprune import (
    Batches,
    Groups,
    Pretrained,
    Recipe,
    Scorer,
    Scores,
    evaluate,
    make_batches,
    open_pretrained,
    prune,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known(Scorer):
    """Scores that were computed before."""

    name = "known"
    scores: Scores
    given: frozenset[str]

    @property
    def gives(self) -> frozenset[str]:
        return self.given

    def score(self, model: Any, groups: Groups, batches: Batches, generator: torch.Generator) -> Scores:
        return self.scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep(Scorer):
    """Scores with another scorer, and keeps what it says."""

    name = "keep"
    inner: Scorer
    kept: list[Scores]

    @property
    def gives(self) -> frozenset[str]:
        return self.inner.gives

    def score(self, model: Any, groups: Groups, batches: Batches, generator: torch.Generator) -> Scores:
        self.kept.append(self.inner.score(model, groups, batches, generator))
        return self.kept[-1]


STAGES = {
    "search": {"preset": "paper", "rearranger": "none", "tuner": "none"},
    "rearrange": {"preset": "paper", "tuner": "none"},
    "paper": {"preset": "paper"},
    "default": {"preset": "default"},
}


@click.command()
@click.argument("model")
@click.option("--train", required=True)
@click.option("--test", required=True)
@click.option("--budgets", default="0.7,0.5,0.4,0.3")
@click.option("--seeds", default="0,1,2")
@click.option("--samples", default=2048)
@click.option("--test-samples", default=None, type=int)
@click.option("--max-length", default=128)
@click.option("--recipes", default="search,rearrange,paper,default", help="Of: " + ", ".join(STAGES) + ", or a preset.")
@click.option("--labels", default="auto")
@click.option("--output", default="accuracy.jsonl")
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
    record(options, {"recipe": "dense", "budget": 1.0, "metrics": evaluate(opened.model, test)})
    for seed in map(int, options["seeds"].split(",")):
        run_seed(opened, test, seed, options)


def run_seed(opened: Pretrained, test: Batches, seed: int, options: dict[str, Any]) -> None:
    """All recipes at all budgets for one draw of the calibration set."""
    train = make_batches(
        options["train"],
        opened.task,
        opened.tokenizer,
        samples=options["samples"],
        max_length=options["max_length"],
        seed=seed,
    )
    known: dict[Scorer, Scores] = {}
    for budget in map(float, options["budgets"].split(",")):
        for name in options["recipes"].split(","):
            arguments: dict[str, Any] = dict(STAGES.get(name, {"preset": name}))
            recipe = Recipe.of(arguments.pop("preset"), **arguments)
            recipe = recipe.change(settings={"scorer": {"labels": options["labels"]}})
            kept: list[Scores] = []
            if recipe.scorer in known and recipe.schedule.name == "once":
                scorer: Scorer = Known(scores=known[recipe.scorer], given=recipe.scorer.gives)
            else:
                scorer = Keep(inner=recipe.scorer, kept=kept)
            start = time.perf_counter()
            result = prune(opened, train, budget=budget, recipe=recipe.change(scorer=scorer), seed=seed)
            seconds = time.perf_counter() - start
            if kept:
                known[recipe.scorer] = kept[0]
            line = {"recipe": name, "budget": budget, "seed": seed, "seconds": seconds, "timings": dict(result.timings)}
            line |= {"cost": result.cost_after / result.cost_before, "kept": list(result.mask.counts().values())}
            record(options, line | {"metrics": evaluate(result.model, test)})


def record(options: dict[str, Any], line: dict[str, Any]) -> None:
    """Print a result and append it."""
    line = {"model": options["model"], "samples": options["samples"], **line}
    print({name: value for name, value in line.items() if name not in ("model", "kept", "timings")}, flush=True)
    with Path(options["output"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
