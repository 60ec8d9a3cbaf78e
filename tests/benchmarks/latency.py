"""Latency: how near the measured time of pruned models comes to what was asked for and predicted.

    python tests/benchmarks/latency.py --batch-size 1 --batch-size 32 --seq-len 128

A BERT of BERT-base's shape with random weights, which serve for time. Its table is measured once for each batch size; the
knapsack then prunes it to each share of the dense latency by random scores a feature, and the dense model and all pruned ones take
turns. Measured is the median over the rounds of pruned time / dense time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import torch
import transformers

from fastprune import architecture_for, materialize, strategy
from fastprune.calibration import frozen
from fastprune.data import Workload
from fastprune.measuring.timing import interleaved, median, speedup
from fastprune.strategies import Context, Scores
from fastprune.units import Mask, resolve_groups


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A pruned model of random scores.

    Attributes:
        share: The asked share of the dense model's latency.
        predicted: The table's.
        measured: The median over the rounds, of the dense model's.
        milliseconds: Its latency.
    """

    share: float
    predicted: float
    measured: float
    milliseconds: float

    @property
    def off(self) -> float:
        """How far the measured share is from the asked one."""
        return self.measured / self.share - 1


def bert(*, layers: int, hidden: int, device: str | torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """A BERT with heads of 64 features, or two of them if it is small, and random weights."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=max(2, hidden // 64),
        intermediate_size=4 * hidden,
    )
    return transformers.BertForSequenceClassification(config).eval().to(device, dtype)


def asked_and_measured(
    model: Any, batch_size: int, seq_len: int, shares: Sequence[float], rounds: int
) -> tuple[float, Mapping[str, float], list[Measured]]:
    """Measure a table, search with it, and time what was found.

    Returns:
        The dense model's milliseconds, the table's check (half of the units, predicted and measured), and one entry for each share.
    """
    groups = resolve_groups(architecture_for(model), model)
    scores = Scores(importance={group.name: group.width * torch.rand(group.units) for group in groups})
    ids = torch.full((1, seq_len), 5)
    workload = Workload(example={"input_ids": ids, "attention_mask": torch.ones_like(ids)}, seq_len=seq_len)
    cost = strategy("cost", "latency", batch_size=batch_size, rounds=min(rounds, 5), cache=False)
    table = cost.table(model, groups, workload)
    costs = table.costs(groups)
    models, predicted = {"dense": model}, {}
    for share in shares:
        mask = strategy("searcher", "knapsack").search(scores, costs, max(share * costs.total, costs.floor), Context())
        counts = mask.counts()
        predicted[share] = costs.of(counts) / costs.total
        models[str(share)] = materialize(model, groups, Mask.first(groups, counts)).eval()
    inputs = {name: value.to(model.device) for name, value in workload.inputs(batch_size=batch_size).items()}
    with frozen(model):
        times = interleaved(models, inputs, rounds=rounds)
    made = [
        Measured(
            share=share,
            predicted=predicted[share],
            measured=1 / speedup(times["dense"], times[str(share)]),
            milliseconds=median(times[str(share)]),
        )
        for share in shares
    ]
    return median(times["dense"]), table.check, made


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
def main(batch_sizes: tuple[int, ...], shares: tuple[float, ...], dtype: str, **options: Any) -> None:
    """Print one line for each batch size and share."""
    shape = {name: options[name] for name in ("layers", "hidden", "device", "seed")}
    model = bert(**shape, dtype=getattr(torch, dtype))
    for batch_size in batch_sizes:
        start = time.perf_counter()
        dense, check, found = asked_and_measured(model, batch_size, options["seq_len"], shares, options["rounds"])
        print(
            f"batch {batch_size} x {options['seq_len']}: {time.perf_counter() - start:.0f} s, dense {dense:.4g} ms, half of the "
            f"units: predicted {check['predicted']:.4g} ms, measured {check['measured']:.4g} ms",
            flush=True,
        )
        for each in found:
            print(
                f"  asked {each.share}, predicted {each.predicted:.3f}, measured {each.measured:.3f} ({each.off:+.1%}), "
                f"{each.milliseconds:.4g} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
