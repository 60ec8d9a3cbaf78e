"""Speed: what pruning costs, in F and seconds a stage, and how much faster the pruned model is, in one run.

    python tests/benchmarks/speed.py MODEL --train DATA --budget 0.5

F is one forward pass of the dense model over the calibration set. It is timed before and after each pruning, since
shared machines drift. Dense and pruned models take turns; the ratio is the median over the rounds.
"""

from __future__ import annotations

import statistics
from typing import Any

import click
from accuracy import forward

from fastprune import make_batches, open_pretrained, prune
from fastprune.data import model_inputs
from fastprune.data.workload import Workload
from fastprune.measuring.timing import interleaved, speedup


@click.command()
@click.argument("model")
@click.option("--train", required=True)
@click.option("--budget", default=0.5)
@click.option("--samples", default=2048)
@click.option("--max-length", default=128)
@click.option("--batch-size", default=32)
@click.option("--seq-len", default=128)
@click.option("--preset", "presets", multiple=True, default=("paper", "default"))
@click.option("--rounds", default=3, help="Prunings of each preset.")
def main(model: str, train: str, **options: Any) -> None:
    """Print both."""
    opened = open_pretrained(model)
    batches = make_batches(
        train, opened.task, opened.tokenizer, samples=options["samples"], max_length=options["max_length"]
    )
    inputs = model_inputs(
        Workload.of(batches).inputs(batch_size=options["batch_size"], seq_len=options["seq_len"]), opened.task
    )
    forward(opened, batches)
    for preset in options["presets"]:
        bills: list[dict[str, float]] = []
        for _ in range(options["rounds"]):
            before = forward(opened, batches)
            result = prune(opened, batches, budget=options["budget"], recipe=preset, bench=False)
            unit = (before + forward(opened, batches)) / 2
            bills.append({stage: seconds / unit for stage, seconds in result.timings.items()} | {"F in s": unit})
        medians = {stage: statistics.median(bill[stage] for bill in bills) for stage in bills[0]}
        total = statistics.median(sum(bill.values()) - bill["F in s"] for bill in bills)
        print(preset, {stage: round(value, 2) for stage, value in medians.items()}, f"total {total:.2f} F")
        times = interleaved({"dense": opened.model, "pruned": result.model}, inputs)
        print(
            f"  {options['batch_size']} x {options['seq_len']} tokens: "
            f"dense {statistics.median(times['dense']):.0f} ms, pruned {statistics.median(times['pruned']):.0f} ms, "
            f"speedup {speedup(times['dense'], times['pruned']):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
