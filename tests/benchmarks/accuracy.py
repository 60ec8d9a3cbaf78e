"""Accuracy against budget: dense, the paper's pipeline after each of its stages, and any recipes, over several seeds.

    python tests/benchmarks/accuracy.py MODEL --train DATA --test DATA --budgets 0.7,0.5,0.4,0.3 --seeds 0,1,2

A recipe is a stage of the paper (search, rearrange, paper), another preset, or a preset with changes such as
``default+tuner=mask+scorer.labels=model``. It calibrates on the training data and reports the task's metrics on the test
data, which calibration never sees, and how near the model is to the dense one there (``fidelity``: less noisy, as it
compares what each sample gives). Every pruning begins anew. Results are appended to a JSONL file, one line a model, with the
seconds of each stage and F, the seconds of one forward pass of the dense model over the calibration set, in the mean of one just
before and one just after.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import torch

from fastprune import Batches, Pretrained, Recipe, evaluate, fidelity, make_batches, open_pretrained, prune
from fastprune.data import outputs_of

STAGES = {"search": "paper+rearranger=none+tuner=none", "rearrange": "paper+tuner=none"}


@click.command()
@click.argument("model")
@click.option("--train", required=True)
@click.option("--test", required=True)
@click.option("--budgets", default="0.7,0.5,0.4,0.3")
@click.option("--seeds", default="0,1,2")
@click.option("--samples", default=2048)
@click.option("--test-samples", default=None, type=int)
@click.option("--max-length", default=128)
@click.option("--recipes", default="search,rearrange,paper,default")
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
    for budget in map(float, options["budgets"].split(",")):
        for name in options["recipes"].split(","):
            recipe = recipe_of(STAGES.get(name, name), options["labels"])
            before = forward(opened, train)
            result = prune(opened, train, budget=budget, recipe=recipe, seed=seed, bench=False)
            unit = (before + forward(opened, train)) / 2
            record(
                options,
                {
                    "recipe": name,
                    "budget": budget,
                    "seed": seed,
                    "seconds": sum(result.timings.values()),
                    "F": sum(result.timings.values()) / unit,
                    "timings": result.timings,
                    "cost": result.cost_after / result.cost_before,
                    "kept": list(result.mask.counts().values()),
                    "metrics": evaluate(result.model, test),
                    "fidelity": fidelity(opened.model, result.model, test),
                },
            )


def recipe_of(text: str, labels: str = "") -> Recipe:
    """A preset with changes, ``preset+stage=strategy+stage.option=value``, scoring with such labels where any are said."""
    preset, *changes = text.split("+")
    stages: dict[str, Any] = {}
    settings: dict[str, dict[str, Any]] = {"scorer": {"labels": labels}} if labels else {}
    for change in changes:
        what, value = change.split("=")
        stage, _, option = what.partition(".")
        if option:
            settings.setdefault(stage, {})[option] = _value(value)
        else:
            stages[stage] = value
    return Recipe.of(preset, settings=settings, **stages)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def forward(opened: Pretrained, batches: Batches) -> float:
    """Seconds of one forward pass of the dense model over the calibration set."""
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            outputs_of(opened.model, batch, opened.task)
    return time.perf_counter() - start


def record(options: dict[str, Any], line: dict[str, Any]) -> None:
    """Print a result and append it."""
    line = {"model": options["model"], "samples": options["samples"], **line}
    print({name: value for name, value in line.items() if name not in ("model", "kept", "timings")}, flush=True)
    with Path(options["output"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
