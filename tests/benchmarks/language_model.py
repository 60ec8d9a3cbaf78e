"""Perplexity of a pruned causal language model, beside what others prune such models with, each at its own settings.

    python tests/benchmarks/language_model.py MODEL --train wikitext2/valid.txt --test wikitext2/test.txt

Budgets are shares of the layers' parameters. Calibration takes windows of the training text; perplexity is on the first
tokens of the test text, in windows that do not overlap. Wanda-sp is the scorer ``activation`` at the same share of every
sublayer; FLAP (An et al., AAAI 2024) is ``fluctuation``, the highest scores of the whole model, with the bias made up
for. Any other recipe goes as ``preset+stage=strategy+stage.option=value``. Scores are computed once a recipe, and billed
to each budget; F is one forward pass of the dense model over the calibration set. Results are appended to a JSONL file,
for table.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch
from accuracy import forward, recipe_of, record

from fastprune import Batches, Pretrained, PruningCache, evaluate, make_batches, open_pretrained, prune

RECIPES = {
    "wanda-sp": "default+scorer=activation+searcher=uniform+tuner=none",
    "flap": "default+scorer=fluctuation+searcher=threshold+tuner=bias",
}


@click.command()
@click.argument("model")
@click.option("--train", required=True)
@click.option("--test", required=True)
@click.option("--budgets", default="0.9,0.8,0.7")
@click.option("--seed", default=0)
@click.option("--windows", "samples", default=64, help="Windows of the training text.")
@click.option("--window", default=128, help="Tokens of each.")
@click.option("--batch-size", default=8)
@click.option("--context", default=512, help="Tokens of a window of the test text.")
@click.option("--test-tokens", default=4088)
@click.option("--recipes", default="paper,wanda-sp,flap,default")
@click.option("--output", default="language_model.jsonl")
def main(**options: Any) -> None:
    """Run everything and append each result to the output."""
    opened = open_pretrained(options["model"])
    test = first_windows(opened, Path(options["test"]), options["test_tokens"], options["context"])
    train = make_batches(
        options["train"],
        opened.task,
        opened.tokenizer,
        samples=options["samples"],
        max_length=options["window"],
        batch_size=options["batch_size"],
        seed=options["seed"],
    )
    record(options, {"recipe": "dense", "budget": 1.0, "metrics": evaluate(opened.model, test)})
    unit = forward(opened, train)
    for name in options["recipes"].split(","):
        run_recipe(name, opened, train, test, unit, options)


def run_recipe(
    name: str, opened: Pretrained, train: Batches, test: Batches, unit: float, options: dict[str, Any]
) -> None:
    """One recipe at all budgets."""
    recipe = recipe_of(f"{RECIPES.get(name, name)}+cost=params+cost.scope=layers")
    cache, scoring = PruningCache(), 0.0
    for budget in map(float, options["budgets"].split(",")):
        result = prune(opened, train, budget=budget, recipe=recipe, seed=options["seed"], cache=cache, bench=False)
        scoring = scoring or result.timings["score"]
        timings = {**result.timings, "score": scoring}
        record(
            options,
            {
                "recipe": name,
                "budget": budget,
                "seed": options["seed"],
                "seconds": sum(timings.values()),
                "F": sum(timings.values()) / unit,
                "timings": timings,
                "cost": result.cost_after / result.cost_before,
                "kept": list(result.mask.counts().values()),
                "metrics": evaluate(result.model, test),
            },
        )


def first_windows(opened: Pretrained, text: Path, tokens: int, context: int) -> Batches:
    """The first tokens of a text, a window a batch."""
    assert opened.tokenizer is not None
    ids = torch.tensor([opened.tokenizer(text.read_text(encoding="utf-8"))["input_ids"][:tokens]])  # [1, tokens]
    windows = [{"input_ids": ids[:, at : at + context]} for at in range(0, ids.shape[1] - 1, context)]
    return Batches.wrap([{**window, "labels": window["input_ids"]} for window in windows], opened.task)


if __name__ == "__main__":
    main()
