"""Perplexity of a pruned causal language model, beside what others prune such models with, each at its own settings.

    python tests/benchmarks/language_model.py MODEL --train wikitext2/valid.txt --test wikitext2/test.txt \\
        --other dialogue=dialogue.txt --other code=code.txt

Budgets are shares of the layers' parameters. Calibration takes windows of the training text; perplexity is on the first
tokens of the test text, in windows that do not overlap, and on those of other texts, which were not calibrated on.
Wanda-sp is the scorer ``activation`` at the same share of every sublayer; FLAP (An et al., AAAI 2024) is ``fluctuation``,
the highest scores of the whole model, with the bias made up for; ``uniform-obs`` is structured OBS at the same share of
every sublayer, reconstructed as by ``default``; ``curves`` is the knapsack over damage curves alone. Any other recipe goes
as ``preset+stage=strategy+stage.option=value``.

Scores are computed once a seed, and billed to each budget; F is one forward pass of the dense model over the calibration
set, in seconds of the processor. Results are lines of a JSONL file, for table.py; a repeated call goes on with what is
missing.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import torch
from accuracy import recipe_of, record

from fastprune import Batches, Pretrained, PruningCache, evaluate, make_batches, open_pretrained, prune
from fastprune.data import outputs_of

RECIPES = {
    "wanda-sp": "default+scorer=activation+searcher=uniform+tuner=none",
    "flap": "default+scorer=fluctuation+searcher=threshold+tuner=bias",
    "uniform-obs": "default+searcher=uniform",
    "curves": "default+searcher=knapsack+searcher.tries=3",
}


@click.command()
@click.argument("model")
@click.option("--train", required=True)
@click.option("--test", required=True)
@click.option("--other", "others", multiple=True, help="NAME=FILE, a text of another kind.")
@click.option("--budgets", default="0.9,0.8,0.7,0.5")
@click.option("--seeds", default="0")
@click.option("--windows", "samples", default=128, help="Windows of the training text.")
@click.option("--window", default=512, help="Tokens of each.")
@click.option("--batch-size", default=8)
@click.option("--context", default=512, help="Tokens of a window of the test text.")
@click.option("--test-tokens", default=65536)
@click.option("--recipes", default="paper,wanda-sp,flap,uniform-obs,curves,default,best")
@click.option("--output", default="language_model.jsonl")
def main(**options: Any) -> None:
    """Run what is missing and append each result to the output."""
    opened = open_pretrained(options["model"])
    texts = {"metrics": options["test"], **dict(each.split("=", 1) for each in options["others"])}
    tests = {
        name: first_windows(opened, Path(text), options["test_tokens"], options["context"])
        for name, text in texts.items()
    }
    known = {tuple(line[name] for name in KEY) for line in lines(Path(options["output"])) if "window" in line}
    if identity(options, "dense", 1.0, 0) not in known:
        record(options, {**conditions(options, "dense", 1.0, 0), **measured(opened.model, tests)})
    for seed in map(int, options["seeds"].split(",")):
        wanted = [
            (name, budget)
            for name in options["recipes"].split(",")
            for budget in map(float, options["budgets"].split(","))
            if identity(options, name, budget, seed) not in known
        ]
        if wanted:
            run(wanted, opened, seed, tests, options)


KEY = ("model", "samples", "window", "test_tokens", "recipe", "budget", "seed")


def conditions(options: dict[str, Any], recipe: str, budget: float, seed: int) -> dict[str, Any]:
    """What a result depends on, but for the model and the number of samples, which ``record`` adds."""
    sizes = {name: options[name] for name in ("window", "test_tokens")}
    return {**sizes, "recipe": recipe, "budget": budget, "seed": seed}


def identity(options: dict[str, Any], recipe: str, budget: float, seed: int) -> tuple[Any, ...]:
    """By what a result is known again."""
    line = {"model": options["model"], "samples": options["samples"], **conditions(options, recipe, budget, seed)}
    return tuple(line[name] for name in KEY)


def run(
    wanted: list[tuple[str, float]], opened: Pretrained, seed: int, tests: dict[str, Batches], options: dict[str, Any]
) -> None:
    """Recipes and budgets with one calibration set."""
    train = make_batches(
        options["train"],
        opened.task,
        opened.tokenizer,
        samples=options["samples"],
        max_length=options["window"],
        batch_size=options["batch_size"],
        seed=seed,
    )
    unit, cache, scoring = forward(opened, train), PruningCache(), dict[str, float]()
    for name, budget in wanted:
        recipe = recipe_of(f"{RECIPES.get(name, name)}+cost=params+cost.scope=layers")
        scorer, start = repr(recipe.scorer), time.process_time()
        result = prune(opened, train, budget=budget, recipe=recipe, seed=seed, cache=cache, bench=False)
        seconds = time.process_time() - start
        if scorer in scoring:
            seconds += scoring[scorer]
        else:
            scoring[scorer] = result.timings["score"]
        record(
            options,
            {
                **conditions(options, name, budget, seed),
                "seconds": seconds,
                "F": seconds / unit,
                "timings": result.timings,
                "cost": result.cost_after / result.cost_before,
                "kept": list(result.mask.counts().values()),
                **measured(result.model, tests),
            },
        )


def forward(opened: Pretrained, batches: Batches) -> float:
    """Processor's seconds of one forward pass of the dense model over the calibration set."""
    start = time.process_time()
    with torch.inference_mode():
        for batch in batches:
            outputs_of(opened.model, batch, opened.task)
    return time.process_time() - start


def measured(model: Any, tests: dict[str, Batches]) -> dict[str, dict[str, float]]:
    """The metrics on each text."""
    return {name: evaluate(model, batches) for name, batches in tests.items()}


def lines(output: Path) -> list[dict[str, Any]]:
    """The results so far."""
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] if output.exists() else []


def first_windows(opened: Pretrained, text: Path, tokens: int, context: int) -> Batches:
    """The first tokens of a text, a window a batch."""
    assert opened.tokenizer is not None
    ids = torch.tensor([opened.tokenizer(text.read_text(encoding="utf-8"))["input_ids"][:tokens]])  # [1, tokens]
    windows = [{"input_ids": ids[:, at : at + context]} for at in range(0, ids.shape[1] - 1, context)]
    return Batches.wrap([{**window, "labels": window["input_ids"]} for window in windows], opened.task)


if __name__ == "__main__":
    main()
