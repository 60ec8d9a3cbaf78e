"""What the plain form costs: models pruned to it beside models pruned in the free form, at the same budgets and seeds.

    python tests/benchmarks/plain.py --case mrpc MODEL TRAIN TEST --case stsb MODEL TRAIN TEST \\
        --language-model smollm2 MODEL TRAIN TEST --budgets 0.7,0.5,0.3 --seeds 0,1,2

Calibration draws from the training data; the metric is the task's first on the whole test data. Of a language model it is the
perplexity of the first tokens of the test text, in windows that do not overlap. Every result is one line of a JSONL file; a
repeated call goes on with what is missing, and prints the table at the end. Scores are computed once for each case and seed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from language_model import first_windows

from fastprune import (
    Batches,
    Pretrained,
    PruningCache,
    Recipe,
    evaluate,
    fidelity,
    make_batches,
    open_pretrained,
    prune,
)

FORMS = ("free", "plain")


@click.command()
@click.option("--case", "cases", nargs=4, multiple=True, help="Name, model, training and test data.")
@click.option("--language-model", "languages", nargs=4, multiple=True, help="Name, model, training and test text.")
@click.option("--budgets", default="0.7,0.5,0.3", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--recipe", default="default", show_default=True)
@click.option("--samples", default=512, show_default=True, help="Calibration samples of a case.")
@click.option("--max-length", default=128, show_default=True)
@click.option("--windows", default=128, show_default=True, help="Calibration windows of a language model.")
@click.option("--window", default=256, show_default=True, help="Tokens of each.")
@click.option("--test-tokens", default=16384, show_default=True)
@click.option("--output", default="plain.jsonl", show_default=True, type=click.Path(path_type=Path))
def main(**options: Any) -> None:
    """Run what is missing, and print the table."""
    for name, model, train, test in options["cases"]:
        opened = open_pretrained(model)
        sizes = {"max_length": options["max_length"]}

        def drawn(seed: int, opened: Pretrained = opened, train: str = train, sizes: dict[str, int] = sizes) -> Batches:
            return make_batches(train, opened.task, opened.tokenizer, samples=options["samples"], seed=seed, **sizes)

        tests = make_batches(test, opened.task, opened.tokenizer, samples=None, **sizes)
        run_case(name, opened, drawn, tests, options)
    for name, model, train, test in options["languages"]:
        opened = open_pretrained(model)

        def windows(seed: int, opened: Pretrained = opened, train: str = train) -> Batches:
            sizes = {"samples": options["windows"], "max_length": options["window"], "batch_size": 8}
            return make_batches(train, opened.task, opened.tokenizer, seed=seed, **sizes)

        run_case(name, opened, windows, first_windows(opened, Path(test), options["test_tokens"], 512), options)
    click.echo("\n".join(table(list(lines(options["output"])))))


def run_case(
    name: str, opened: Pretrained, drawn: Callable[[int], Batches], tests: Batches, options: dict[str, Any]
) -> None:
    """Both forms at all budgets and seeds, but for what the output has."""
    output: Path = options["output"]
    known = {(line["case"], line["form"], line["budget"], line["seed"]) for line in lines(output)}
    falling = list(opened.task.lower_is_better)
    if (name, "dense", 1.0, 0) not in known:
        record(
            output, {"case": name, "form": "dense", "budget": 1.0, "seed": 0, "metrics": evaluate(opened.model, tests)}
        )
    for seed in map(int, options["seeds"].split(",")):
        wanted = [(budget, form) for budget in map(float, options["budgets"].split(",")) for form in FORMS]
        missing = [(budget, form) for budget, form in wanted if (name, form, budget, seed) not in known]
        batches, cache = drawn(seed) if missing else None, PruningCache()
        for budget, form in missing:
            assert batches is not None
            recipe = Recipe.of(options["recipe"]).sized(servable=form == "plain")
            result = prune(opened, batches, budget=budget, recipe=recipe, seed=seed, cache=cache, bench=False)
            record(
                output,
                {
                    "case": name,
                    "form": form,
                    "budget": budget,
                    "seed": seed,
                    "cost": result.cost_after / result.cost_before,
                    "kept": list(result.mask.counts().values()),
                    "plainness": dict(result.plainness),
                    "seconds": sum(result.timings.values()),
                    "metrics": evaluate(result.model, tests),
                    "fidelity": fidelity(opened.model, result.model, tests),
                    "falling": falling,
                },
            )


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """One row a case and budget: the means over the seeds, with their lowest and highest, and what plainness costs."""
    yield "| case | metric | dense | budget | free | plain | plain less free | agreement free, plain |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in dict.fromkeys(line["case"] for line in found):
        of_case = [line for line in found if line["case"] == case]
        dense = next(line for line in of_case if line["form"] == "dense")["metrics"]
        metric = next(iter(dense))
        pruned = [line for line in of_case if line["form"] != "dense"]
        scale = 1.0 if any(metric in line["falling"] for line in pruned) else 100.0
        for budget in sorted({line["budget"] for line in pruned}, reverse=True):
            lines_of = {form: [x for x in pruned if (x["form"], x["budget"]) == (form, budget)] for form in FORMS}
            values = {form: [scale * x["metrics"][metric] for x in each] for form, each in lines_of.items()}
            if not all(values.values()):
                continue
            near = [statistics.mean(next(iter(x["fidelity"].values())) for x in lines_of[form]) for form in FORMS]
            less = statistics.mean(values["plain"]) - statistics.mean(values["free"])
            cells = [f"{scale * dense[metric]:.1f}", f"{budget:g}", *(spread(values[form]) for form in FORMS)]
            yield f"| {case} | {metric} | {' | '.join(cells)} | {less:+.1f} | {near[0]:.3f}, {near[1]:.3f} |"


def spread(values: list[float]) -> str:
    """The mean, and in brackets the lowest and the highest."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def lines(output: Path) -> Iterator[dict[str, Any]]:
    """The results so far."""
    if output.exists():
        yield from map(json.loads, output.read_text(encoding="utf-8").splitlines())


def record(output: Path, line: dict[str, Any]) -> None:
    """Print a result and append it."""
    print({name: value for name, value in line.items() if name not in ("kept", "falling")}, flush=True)
    with output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
