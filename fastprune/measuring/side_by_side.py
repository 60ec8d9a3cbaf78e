"""Proving: a dense and a pruned model side by side, in one process, on the same inputs."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastprune.calibration.hooks import frozen
from fastprune.data.workload import Workload
from fastprune.errors import ModelError, UsageError
from fastprune.measuring.memory import peak_bytes, weight_bytes
from fastprune.measuring.timing import interleaved, speedup
from fastprune.models.manifests import MANIFEST, read_manifest
from fastprune.models.pretrained import Pretrained
from fastprune.progress import Progress, listening
from fastprune.registry import serving
from fastprune.strategies.tables import MeasuredTable
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a dense and a pruned model took, each by its name: ``dense``, ``pruned``.

    Attributes:
        batch_size: Samples at once.
        seq_len: Tokens a sample.
        milliseconds: Of every forward pass, [rounds] each, the models taking turns.
        weights: Bytes of the weights.
        peak: Bytes that a forward pass holds beside the weights at its highest; empty where that is not known.
        predicted: Milliseconds that a table says, where there is one.
    """

    batch_size: int
    seq_len: int
    milliseconds: Mapping[str, list[float]]
    weights: Mapping[str, int]
    peak: Mapping[str, int] = field(default_factory=dict)
    predicted: Mapping[str, float] = field(default_factory=dict)

    @property
    def speedup(self) -> float:
        """The median over the rounds of dense time / pruned time."""
        return speedup(self.milliseconds["dense"], self.milliseconds["pruned"])

    @property
    def predicted_speedup(self) -> float | None:
        """As the table has it."""
        return self.predicted["dense"] / self.predicted["pruned"] if self.predicted else None

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        found: dict[str, Any] = {"batch_size": self.batch_size, "seq_len": self.seq_len, "speedup": self.speedup}
        if self.predicted:
            found["predicted_speedup"] = self.predicted_speedup
        for name, times in self.milliseconds.items():
            median = statistics.median(times)
            quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [median] * 3
            found[name] = {
                "milliseconds": {"median": median, "lower_quartile": quartiles[0], "upper_quartile": quartiles[2]},
                "samples_per_second": 1e3 * self.batch_size / median,
                "weight_bytes": self.weights[name],
            }
            if self.peak:
                found[name]["peak_bytes"] = self.peak[name]
            if self.predicted:
                found[name]["predicted_milliseconds"] = self.predicted[name]
        return found


def bench(
    dense: nn.Module,
    pruned: nn.Module,
    *,
    batch_size: int = 32,
    seq_len: int | None = None,
    rounds: int = 15,
    attention: str | None = None,
    threads: int | None = None,
    compile: bool = False,
    table: MeasuredTable | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Time two models of one family on the same made-up inputs, in turns.

    Args:
        dense: A transformers model.
        pruned: What became of it, on the same device.
        batch_size: Samples at once.
        seq_len: Tokens a sample; None: as ``Workload.made_up`` has it.
        rounds: Turns each.
        attention: The attention kernel, such as ``sdpa``; None: each model's own.
        threads: Of a CPU; None: torch's.
        compile: Time what torch.compile makes of both.
        table: What to predict from; it must have been measured for this workload.
        progress: Called as (description, steps done, steps in all).

    Raises:
        ModelError: The models are on two devices, or take no such length or attention.
        TableError: The table is of another model or workload.
    """
    devices = {name: next(model.parameters()).device for name, model in (("dense", dense), ("pruned", pruned))}
    if devices["dense"] != devices["pruned"]:
        raise ModelError(f"The dense model is on {devices['dense']}, the pruned one on {devices['pruned']}.")
    workload = Workload.made_up(dense, seq_len)
    predicted = {}
    if table is not None:
        table.require({"batch_size": batch_size, "seq_len": workload.seq_len})
        predicted = {name: _predicted(table, model) for name, model in (("dense", dense), ("pruned", pruned))}
    inputs = workload.inputs(batch_size=batch_size)
    inputs = {name: value.to(devices["dense"]) for name, value in inputs.items()}
    with listening(progress), _served({"dense": dense, "pruned": pruned}, attention, threads) as models:
        peak = {name: peak_bytes(model, inputs) for name, model in models.items()}
        weights = {name: weight_bytes(model) for name, model in models.items()}
        if compile:
            with frozen(dense), frozen(pruned):
                run = {name: torch.compile(model, dynamic=False) for name, model in models.items()}
                times = interleaved(run, inputs, rounds=rounds)  # type: ignore[arg-type]
        else:
            times = interleaved(models, inputs, rounds=rounds)
    return Comparison(
        batch_size=batch_size,
        seq_len=workload.seq_len,
        milliseconds=times,
        weights=weights,
        peak=peak,
        predicted=predicted,
    )


def bench_saved(
    dense: Pretrained,
    pruned: Pretrained,
    *,
    batch_size: int | None = None,
    seq_len: int | None = None,
    table_file: str | Path | None = None,
    **options: Any,
) -> Comparison:
    """As ``bench`` for opened models: the workload and the prediction come from what the pruned one was measured for.

    Args:
        dense: What ``open_pretrained`` returned.
        pruned: Likewise; where it was pruned to a latency, its manifest says for what.
        batch_size: None: the table's, the manifest's or 32.
        seq_len: None: the table's, the manifest's or as ``Workload.made_up`` has it.
        table_file: What to predict from instead of the manifest.
        options: Those of ``bench``.

    Raises:
        UsageError: As for ``bench``.
    """
    table = MeasuredTable.read(table_file) if table_file is not None else None
    told = _told(pruned.source)
    known: Mapping[str, Any] = table.conditions if table is not None else told.get("conditions", {})
    batch_size = batch_size or known.get("batch_size", 32)
    seq_len = seq_len or known.get("seq_len")
    compared = bench(dense.model, pruned.model, batch_size=batch_size, seq_len=seq_len, table=table, **options)
    parameter = next(pruned.model.parameters())
    here = {"batch_size": batch_size, "seq_len": compared.seq_len, "device": parameter.device.type}
    here |= {"dtype": str(parameter.dtype).removeprefix("torch."), "compiled": bool(options.get("compile"))}
    if table is None and told and here.items() <= known.items():
        compared = replace(compared, predicted={"dense": told["before"], "pruned": told["after"]})
    return compared


def _told(source: str) -> dict[str, Any]:
    """What a pruned model's manifest says of its latency; nothing where it was not measured."""
    if not (Path(source) / MANIFEST).is_file():
        return {}
    measured = (cost for cost in read_manifest(source).get("costs", []) if "batch_size" in cost["conditions"])
    return next(measured, {})


def _predicted(table: MeasuredTable, model: nn.Module) -> float:
    opened = unfuse_experts(model)
    return table.costs(resolve_groups(serving.architecture_for(opened), opened)).total


@contextlib.contextmanager
def _served(
    models: Mapping[str, nn.Module], attention: str | None, threads: int | None
) -> Iterator[dict[str, nn.Module]]:
    """While open, the models run with the attention and the threads asked for."""
    before = torch.get_num_threads()
    kernels = {name: getattr(model.config, "_attn_implementation", None) for name, model in models.items()}
    try:
        _set_attention(models, dict.fromkeys(models, attention))
        torch.set_num_threads(threads or before)
        yield dict(models)
    finally:
        torch.set_num_threads(before)
        _set_attention(models, kernels if attention else {})


def _set_attention(models: Mapping[str, nn.Module], kernels: Mapping[str, str | None]) -> None:
    for name, kernel in kernels.items():
        if kernel is not None:
            try:
                models[name].set_attn_implementation(kernel)  # type: ignore[operator]
            except (ValueError, ImportError) as error:
                raise UsageError(f"The model cannot be run with the attention {kernel}: {error}") from error
