"""Prune a classifier (or any other supported model) and see what it lost.

python examples/prune_classifier.py MODEL TRAIN TEST OUTPUT [BUDGET]
"""

import sys

import fastprune


def main(model: str, train: str, test: str, output: str, budget: str = "0.5") -> None:
    """Prune, save, load back, evaluate."""
    opened = fastprune.open_pretrained(model)
    batches = fastprune.make_batches(train, opened.task, opened.tokenizer)
    result = fastprune.prune(opened, batches, budget=float(budget))
    result.save(output)

    smaller = fastprune.load(output)
    print("dense ", fastprune.evaluate(opened.model, test, tokenizer=opened.tokenizer))
    print("pruned", fastprune.evaluate(smaller, test, tokenizer=opened.tokenizer))
    print(f"{result.measure}: {result.cost_after / result.cost_before:.3f} of the dense model's")


if __name__ == "__main__":
    main(*sys.argv[1:])
