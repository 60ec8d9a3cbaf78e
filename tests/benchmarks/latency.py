"""Latency: how near the measured time of pruned models comes to what was asked for and predicted.

    python tests/benchmarks/latency.py --batch-size 1 --batch-size 32 --seq-len 128

A BERT of BERT-base's shape with random weights, which serve for time. Its table is measured once for each batch size; the
knapsack then prunes it to each share of the dense latency by random scores a feature, and the dense model and all pruned ones take
turns. Measured is the median over the rounds of pruned time / dense time.
"""

from __future__ import annotations

import statistics
import time

import click
import torch
import transformers

from fastprune import architecture_for, materialize, strategy
from fastprune.calibration import frozen
from fastprune.data import Workload
from fastprune.measuring.timing import interleaved, speedup
from fastprune.strategies import Context, Scores
from fastprune.units import Mask, resolve_groups


@click.command()
@click.option("--batch-size", "batch_sizes", multiple=True, type=int, default=(1, 32))
@click.option("--seq-len", default=128)
@click.option("--share", "shares", multiple=True, type=float, default=(0.8, 0.6, 0.5, 0.4))
@click.option("--layers", default=12)
@click.option("--hidden", default=768)
@click.option("--device", default="cpu")
@click.option("--dtype", default="float32")
@click.option("--rounds", default=9)
@click.option("--seed", default=0)
def main(batch_sizes: tuple[int, ...], shares: tuple[float, ...], **options: int | str) -> None:
    """Print one line for each batch size and share."""
    torch.manual_seed(int(options["seed"]))
    hidden = int(options["hidden"])
    config = transformers.BertConfig(
        num_hidden_layers=int(options["layers"]),
        hidden_size=hidden,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.to(options["device"], getattr(torch, str(options["dtype"])))
    groups = resolve_groups(architecture_for(model), model)
    scores = Scores(importance={group.name: group.width * torch.rand(group.units) for group in groups})
    ids = torch.full((1, int(options["seq_len"])), 5)
    workload = Workload(example={"input_ids": ids, "attention_mask": torch.ones_like(ids)}, seq_len=ids.shape[1])
    for batch_size in batch_sizes:
        start = time.perf_counter()
        cost = strategy("cost", "latency", batch_size=batch_size, cache=False)
        table = cost.table(model, groups, workload)
        costs = table.costs(groups)
        print(
            f"batch {batch_size} x {workload.seq_len}: table in {time.perf_counter() - start:.0f} s, "
            f"dense {costs.total:.4g} ms, floor {costs.floor / costs.total:.3f}, half of the units: "
            f"predicted {table.check['predicted']:.4g} ms, measured {table.check['measured']:.4g} ms",
            flush=True,
        )
        models = {"dense": model}
        predicted = {}
        for share in shares:
            mask = strategy("searcher", "knapsack").search(scores, costs, share * costs.total, Context())
            counts = mask.counts()
            predicted[str(share)] = costs.of(counts) / costs.total
            models[str(share)] = materialize(model, groups, Mask.first(groups, counts)).eval()
        inputs = {name: value.to(model.device) for name, value in workload.inputs(batch_size=batch_size).items()}
        with frozen(model):
            times = interleaved(models, inputs, rounds=int(options["rounds"]))
        for share in predicted:
            measured = 1 / speedup(times["dense"], times[share])
            print(
                f"  asked {share}, predicted {predicted[share]:.3f}, measured {measured:.3f} "
                f"({measured / float(share) - 1:+.1%}), {statistics.median(times[share]):.4g} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
