"""Benchmark a dense and a pruned model side by side, in one process and on the same inputs."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import inputs_for, token_limit, unit_of
from fastprune.data.workload import Workload
from fastprune.errors import ModelError, UsageError
from fastprune.measuring.generation import Generation, check_generates, generates, time_generation
from fastprune.measuring.memory import peak_bytes, weight_bytes
from fastprune.measuring.timing import interleaved, median, speedup
from fastprune.models.forms import AnyModel, module_of
from fastprune.models.pretrained import Pretrained
from fastprune.progress import Progress, listening
from fastprune.ranges import BATCH, COUNT, ROUNDS, THREADS, check_integer
from fastprune.registry.serving import architecture_for
from fastprune.strategies.tables import MeasuredTable
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups

NEW_TOKENS = 32
"""Tokens that ``fastprune bench`` generates after the first one."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Benchmark of a dense and a pruned model. Mappings have the keys ``dense`` and ``pruned``.

    Attributes:
        batch_size: Samples per forward pass.
        seq_len: Tokens per sample.
        unit: What counts as a token (``unit_of``).
        milliseconds: Times of all forward passes, each [rounds]; the models take turns.
        weights: Bytes of the weights.
        peak: Peak bytes of a forward pass in addition to the weights; empty if unknown.
        predicted: Milliseconds predicted by a cost table; empty without a table.
        generation: Times of generation; None: not measured.
    """

    batch_size: int
    seq_len: int
    unit: str = "tokens"
    milliseconds: Mapping[str, list[float]]
    weights: Mapping[str, int]
    peak: Mapping[str, int] = field(default_factory=dict)
    predicted: Mapping[str, float] = field(default_factory=dict)
    generation: Generation | None = None

    @property
    def speedup(self) -> float:
        """Median dense time / median pruned time."""
        return speedup(self.milliseconds["dense"], self.milliseconds["pruned"])

    @property
    def predicted_speedup(self) -> float | None:
        """Speedup predicted by the cost table; None without a table."""
        return self.predicted["dense"] / self.predicted["pruned"] if self.predicted else None

    def summary(self) -> dict[str, Any]:
        """The figures as JSON-compatible values."""
        figures: dict[str, Any] = {"batch_size": self.batch_size, "seq_len": self.seq_len, "speedup": self.speedup}
        if self.predicted:
            figures["predicted_speedup"] = self.predicted_speedup
        for name, times in self.milliseconds.items():
            middle = median(times)
            quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [middle] * 3
            figures[name] = {
                "milliseconds": {"median": middle, "lower_quartile": quartiles[0], "upper_quartile": quartiles[2]},
                "samples_per_second": 1e3 * self.batch_size / middle,
                "weight_bytes": self.weights[name],
            }
            if self.peak:
                figures[name]["peak_bytes"] = self.peak[name]
            if self.predicted:
                figures[name]["predicted_milliseconds"] = self.predicted[name]
        if self.generation:
            figures["generation"] = self.generation.summary()
        return figures


class Serving(TypedDict, total=False):
    """How models are run while they are timed, all of it optional.

    Attributes:
        attention: The attention kernel, such as ``sdpa``; None: each model's own.
        threads: Of a CPU; None: torch's.
        compile: Through torch.compile.
        new_tokens: Tokens to generate after a prompt, for models that generate texts; None: none.
    """

    attention: str | None
    threads: int | None
    compile: bool
    new_tokens: int | None


def bench(
    dense: AnyModel,
    pruned: AnyModel,
    *,
    batch_size: int = 32,
    seq_len: int | None = None,
    rounds: int = 15,
    table: MeasuredTable | None = None,
    progress: Progress | bool = True,
    **serving: Unpack[Serving],
) -> Comparison:
    """Time two models of the same family in turns on the same dummy inputs.

    Args:
        dense: A model in any form that ``prune`` takes.
        pruned: The pruned model, or the result of ``prune``, on the same device.
        batch_size: Samples per forward pass.
        seq_len: Tokens per sample [None: 128 or the model's limit, or 16,000 readings of a recording].
        rounds: Measurements of each model.
        table: Cost table for predictions, measured for this workload.
        progress: Whether to show progress on standard error, or a function, as for ``prune``.
        serving: ``attention``: the attention kernel, such as ``sdpa`` [each model's own]; ``threads``: CPU threads [torch's];
            ``compile``: compile both models with torch.compile [False]; ``new_tokens``: tokens to generate after a prompt of
            ``seq_len`` tokens, for models that generate texts [none].

    Raises:
        OptionError: A number is out of range.
        ModelError: The models are on different devices, do not support the length, or do not generate.
        UsageError: The models do not support the attention kernel.
        TableError: The table is of another model or workload.
    """
    batch_size = check_integer("batch_size", batch_size, BATCH)
    rounds = check_integer("rounds", rounds, ROUNDS)
    threads = check_integer("threads", serving.get("threads"), THREADS)
    new_tokens = check_integer("new_tokens", serving.get("new_tokens"), COUNT)
    dense, pruned = module_of(dense), module_of(pruned)
    devices = {name: next(model.parameters()).device for name, model in (("dense", dense), ("pruned", pruned))}
    if devices["dense"] != devices["pruned"]:
        raise ModelError(f"The dense model is on {devices['dense']}, the pruned one on {devices['pruned']}.")
    workload = Workload.dummy(dense, seq_len)
    if new_tokens is not None:
        check_generates(dense, workload.seq_len, new_tokens)
    predicted = {}
    if table is not None:
        table.require({"batch_size": batch_size, "seq_len": workload.seq_len})
        predicted = {name: _predicted(table, model) for name, model in (("dense", dense), ("pruned", pruned))}
    inputs = inputs_for(dense, workload.inputs(batch_size=batch_size))
    kernel = serving.get("attention")
    with listening(progress), _served({"dense": dense, "pruned": pruned}, kernel, threads) as models:
        peak = {name: peak_bytes(model, inputs) for name, model in models.items()}
        weights = {name: weight_bytes(model) for name, model in models.items()}
        if serving.get("compile"):
            with frozen(dense), frozen(pruned):
                run = {name: torch.compile(model, dynamic=False) for name, model in models.items()}
                times = interleaved(run, inputs, rounds=rounds)  # type: ignore[arg-type]
        else:
            times = interleaved(models, inputs, rounds=rounds)
        generation = time_generation(models, inputs, new_tokens=new_tokens, rounds=rounds) if new_tokens else None
    return Comparison(
        batch_size=batch_size,
        seq_len=workload.seq_len,
        unit=unit_of(inputs),
        milliseconds=times,
        weights=weights,
        peak=peak,
        predicted=predicted,
        generation=generation,
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
    """``bench`` for opened models, with the workload and the prediction of the latency in the pruned model's manifest.

    Args:
        dense: The dense model, from ``open_pretrained``.
        pruned: The pruned model, from ``open_pretrained``.
        batch_size: Samples per forward pass [None: the table's, else the manifest's, else 32, of models that generate texts 1].
        seq_len: Tokens per sample [None: the table's, else the manifest's, else the default of ``bench``].
        table_file: File of a cost table for predictions [None: the manifest's latency].
        options: Further arguments of ``bench``; ``new_tokens`` is 32 for models that generate texts, or as many as they have
            positions for.

    Raises:
        UsageError: As for ``bench``.
    """
    table = MeasuredTable.read(table_file) if table_file is not None else None
    recorded = _recorded_latency(pruned.manifest)
    conditions: Mapping[str, Any] = table.conditions if table is not None else recorded.get("conditions", {})
    texts = generates(dense.model) and generates(pruned.model)
    batch_size = conditions.get("batch_size", 1 if texts else 32) if batch_size is None else batch_size
    seq_len = conditions.get("seq_len") if seq_len is None else seq_len
    if texts and options.get("new_tokens") is None:
        options["new_tokens"] = _usual_new_tokens(dense.model, seq_len)
    compared = bench(dense.model, pruned.model, batch_size=batch_size, seq_len=seq_len, table=table, **options)
    parameter = next(pruned.model.parameters())
    current = {"batch_size": batch_size, "seq_len": compared.seq_len, "device": parameter.device.type}
    current |= {"dtype": str(parameter.dtype).removeprefix("torch."), "compiled": bool(options.get("compile"))}
    if table is None and recorded and current.items() <= conditions.items():
        compared = replace(compared, predicted={"dense": recorded["before"], "pruned": recorded["after"]})
    return compared


def _usual_new_tokens(model: nn.Module, seq_len: int | None) -> int | None:
    """As many new tokens as are usual and as the model has positions for; None if there is none left."""
    limit, prompt = token_limit(model), Workload.dummy(model, seq_len).seq_len
    room = NEW_TOKENS if limit is None else min(NEW_TOKENS, limit - prompt - 1)
    return room if room > 0 else None


def _recorded_latency(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The latency in the manifest of a pruned model; empty if it was not measured."""
    measured = (cost for cost in manifest.get("costs", []) if "batch_size" in cost["conditions"])
    return next(measured, {})


def _predicted(table: MeasuredTable, model: nn.Module) -> float:
    opened = unfuse_experts(model)
    return table.costs(resolve_groups(architecture_for(opened), opened)).total


@contextlib.contextmanager
def _served(
    models: Mapping[str, nn.Module], attention: str | None, threads: int | None
) -> Iterator[dict[str, nn.Module]]:
    """Within the context, the models run with the attention kernel and the number of threads."""
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
                raise UsageError(f"The model cannot be run with the attention kernel {kernel}: {error}") from error
