"""The cost model ``latency``: tables of milliseconds measured on the model's own layers."""

import contextlib
import copy
import hashlib
import json
import logging
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from platformdirs import user_cache_path
from torch import nn

from fastprune import option, take_turns
from fastprune.calibration import frozen
from fastprune.data import Workload, check_length, inputs_for
from fastprune.errors import ModelError, TableError, UsageError
from fastprune.strategies import Conditions, Curve, MeasuredCost, MeasuredTable
from fastprune.units import Group, Groups
from fastprune_latency.conditions import conditions_of, shape_of, unpadded
from fastprune_latency.grid import bends, coarse_grid, rising
from fastprune_latency.modes import Mode, check_mode, in_mode, inputs_in
from fastprune_latency.probe import Maker, Probe, Timing

log = logging.getLogger("fastprune")

TILE = 64  # rows and columns of a matrix tile on an accelerator
VECTOR = 16  # numbers in a vector register of a processor
PASSES = 2  # refinements of a curve at most
COMPARED = 9  # rounds of a comparison, at least
SAME = ("device", "device_name", "dtype", "attention", "compiled", "float32_matmul")
"""Conditions that a comparison takes as they are; it sets threads and workload itself."""
NOISY = 0.15  # interquartile range, relative to the median, above which a warning is logged
TOLERANCE = 0.03  # deviation from a straight line that counts as a bend, relative to the curve's rise


@dataclass(frozen=True, kw_only=True)
class LatencyCost(MeasuredCost):
    """Milliseconds of a forward pass, measured on the model's own layers with units removed.

    Of a decoder it is the time to read a prompt (``mode=prefill``) or to decode a token behind it (``mode=decode``) as well.

    There is one curve for each distinct sublayer. It is measured on a coarse grid of widths and refined at bends; each point is
    the median of several rounds, in which all widths take turns. The fixed cost is the time of the whole model with every group
    empty. The table for a model, a machine and a workload is cached in the user's cache directory (Kwon et al., NeurIPS 2022,
    section 4.1; docs/method.md, section 2).
    """

    name: ClassVar[str] = "latency"
    searcher: ClassVar[str] = "knapsack"
    unit: ClassVar[str] = "ms"
    formula: ClassVar[str] = "T = T(every group empty) + sum_g t_g(k_g), each t_g measured and made non-decreasing"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, section 4.1: https://arxiv.org/abs/2204.09656"

    mode: Literal["pass", "prefill", "decode"] | None = option(
        None,
        help="What is measured: a forward pass (pass); of a decoder also the reading of a prompt of seq_len tokens (prefill), and "
        "one token behind it, with the cache (decode) [none: the table file's, else pass].",
    )
    batch_size: int | None = option(
        None,
        at_least=1,
        at_most=65536,
        help="Samples at once [none: the table file's, else 32; prefill and decode: 1].",
    )
    seq_len: int | None = option(
        None,
        at_least=1,
        at_most=10_000_000,
        help="Tokens per sample [none: the table file's, else the mean length in the calibration set].",
    )
    device: str | None = option(None, help="Device to measure on, such as cpu or cuda [none: the model's].")
    dtype: Literal["float32", "float16", "bfloat16"] | None = option(
        None, help="Data type of the weights [none: the model's]."
    )
    attention: str | None = option(None, help="Attention kernel, such as eager or sdpa [none: the model's].")
    threads: int | None = option(None, at_least=1, at_most=1024, help="CPU threads [none: torch's].")
    compile: bool = option(False, help="Compile the layers with torch.compile before measuring.")
    rounds: int = option(5, at_least=1, at_most=1000, help="Number of times each width is measured.")
    table_file: str | None = option(
        None, help="Table file measured earlier, on this or another machine, to use instead."
    )
    cache: bool = option(True, help="Read and store tables in the user's cache directory.")

    def table(self, model: nn.Module, groups: Groups, workload: Workload) -> MeasuredTable:
        """Read the table from ``table_file`` or the cache, or measure it.

        Raises:
            TableError: The file cannot be read, or its conditions differ from the options.
            ModelError: The device or the attention kernel is not available, or the length exceeds the model's limit.
        """
        if self.table_file is not None:
            table = MeasuredTable.read(self.table_file)
            table.require(self._required_conditions())
            return table
        mode: Mode = self.mode or "pass"
        batch_size, seq_len = self.batch_size or (32 if mode == "pass" else 1), self.seq_len or workload.seq_len
        check_mode(model, mode)
        check_length(model, seq_len + (mode == "decode"))
        served = self._served(model)
        with _cpu_threads(self.threads), frozen(served):
            conditions = conditions_of(
                served,
                batch_size=batch_size,
                seq_len=seq_len,
                threads=torch.get_num_threads(),
                compiled=self.compile,
                mode=mode,
            )
            file = cache_file(conditions, shape_of(served, groups))
            cached = _read_cached(file) if self.cache else None
            if cached is not None:
                return cached
            inputs = unpadded(workload.inputs(batch_size=batch_size, seq_len=seq_len), groups)
            inputs = inputs_in(mode, inputs_for(served, inputs))
            with in_mode(served, mode, seq_len):
                table = self._measure(served, groups.with_consumer, inputs, conditions)
            if self.cache:
                _store(table, file)
            return table

    def compare(
        self, dense: nn.Module, pruned: nn.Module, groups: Groups, workload: Workload, conditions: Conditions
    ) -> Mapping[str, list[float]]:
        """Milliseconds of both models, taking turns; empty if the table is of another machine, device, precision or kernel."""
        known: Mapping[str, Any] = conditions
        batch_size, seq_len, mode = known["batch_size"], known["seq_len"], known.get("mode", "pass")
        models = {"dense": self._served(dense), "pruned": self._served(pruned)}
        with contextlib.ExitStack() as stack:
            stack.enter_context(_cpu_threads(known.get("threads")))
            here = conditions_of(
                models["dense"],
                batch_size=batch_size,
                seq_len=seq_len,
                threads=torch.get_num_threads(),
                compiled=bool(conditions.get("compiled")),
                mode=mode,
            )
            if any(here[name] != conditions.get(name) for name in SAME):
                return {}
            for model in models.values():
                stack.enter_context(frozen(model))
                stack.enter_context(in_mode(model, mode, seq_len))
            stack.enter_context(torch.no_grad() if here["compiled"] else torch.inference_mode())
            inputs = unpadded(workload.inputs(batch_size=batch_size, seq_len=seq_len), groups)
            inputs = inputs_in(mode, inputs_for(models["dense"], inputs))
            if here["compiled"]:
                models = {name: torch.compile(model, dynamic=False) for name, model in models.items()}  # type: ignore[misc]
            makers = {name: lambda model=model: lambda: model(**inputs) for name, model in models.items()}
            return take_turns(makers, rounds=max(self.rounds, COMPARED), device=next(iter(inputs.values())).device)

    def _required_conditions(self) -> Conditions:
        """The conditions set by the options; a table from a file must have them."""
        required: dict[str, Any] = {"device": self.device and torch.device(self.device).type, "dtype": self.dtype}
        required |= {"batch_size": self.batch_size, "seq_len": self.seq_len, "attention": self.attention}
        required |= {"threads": self.threads, "compiled": self.compile or None, "mode": self.mode}
        return {name: value for name, value in required.items() if value is not None}

    def _served(self, model: nn.Module) -> nn.Module:
        """The model to measure: ``model`` itself, or a copy with the device, dtype and attention kernel of the options."""
        changes = (self.device, self.dtype, self.attention)
        if all(change is None for change in changes):
            return model
        try:
            served = copy.deepcopy(model)
            if self.attention is not None:
                served.set_attn_implementation(self.attention)  # type: ignore[operator]
            return served.to(device=self.device, dtype=getattr(torch, self.dtype) if self.dtype else None)
        except (RuntimeError, AssertionError, ValueError, ImportError) as error:  # torch without CUDA: AssertionError
            reason = str(error).partition("\n")[0]
            raise ModelError(f"The model cannot be run {_describe(changes)} here: {reason}") from error

    def _measure(
        self, model: nn.Module, groups: Groups, inputs: Mapping[str, torch.Tensor], conditions: Conditions
    ) -> MeasuredTable:
        with contextlib.ExitStack() as stack:
            if self.compile:
                from torch import _dynamo as dynamo

                limits: Any = {"recompile_limit": 10_000, "accumulated_recompile_limit": 100_000}
                stack.enter_context(dynamo.config.patch(**limits))
                stack.enter_context(torch.no_grad())
            else:
                stack.enter_context(torch.inference_mode())
            probe = Probe.of(model, groups, inputs, compiled=self.compile, rounds=self.rounds)
            shapes = same_shape(model, groups)
            half = {group.name: (group.units + 1) // 2 for group in groups}
            wholes = [{}, half, {group.name: 0 for group in groups}]
            (full, middle, empty), measured = _times(probe, shapes, wholes, str(conditions["device"]))
        curves = [_curve(shape) for shape in measured]
        rise = sum(curve.cost[-1] * len(curve.groups) for curve in curves)
        above = full.median - empty.median
        scale = above / rise if above > 0 and rise else 1.0
        table = MeasuredTable(
            measure=self.unit,
            fixed=empty.median,
            curves=tuple(_scaled(curve, scale) for curve in curves),
            conditions=conditions,
            model={"class": type(model).__name__, "shape": shape_of(model, groups)},
        )
        predicted = table.costs(groups).of(half)
        check = {"predicted": predicted, "measured": middle.median, "scale": scale}
        spread = statistics.median([value for curve in curves for value in curve.spread])
        if spread > NOISY:
            log.warning(
                "The latency measurements are noisy: repeated measurements have an interquartile range of %.0f %%. Measure "
                "again while no other program is running, or with more rounds.",
                100 * spread,
            )
        log.info("latency with half of the units: %.4g ms predicted, %.4g ms measured", predicted, middle.median)
        return replace(table, check=check)


@contextlib.contextmanager
def _cpu_threads(threads: int | None) -> Iterator[None]:
    """Within the context, torch uses this number of CPU threads; None: as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def same_shape(model: nn.Module, groups: Groups) -> list[list[Group]]:
    """Collect groups whose sublayers take the same time: those with the same module class, sizes and settings."""
    shapes: dict[str, list[Group]] = {}
    for group in groups:
        module = model.get_submodule(group.module)
        settings = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, int | float | str) and name not in ("layer_idx", "training")
        }
        key = [group.stack.layers, group.block.name, group.kind, group.units, group.width, group.hidden]
        shapes.setdefault(json.dumps([*key, type(module).__name__, settings], default=str), []).append(group)
    return list(shapes.values())


@dataclass(frozen=True)
class Measured:
    """Measurements of one shape of sublayer.

    Attributes:
        members: All groups of the shape.
        chain: The members whose layers were run one after another in a measurement.
        step: Granularity of the hardware in units; a width costs as much as the next multiple of it.
        times: Time of the whole chain, by the number of units in each of its groups.
    """

    members: list[Group]
    chain: list[Group]
    step: int
    times: dict[int, Timing]


WHOLE = -1  # index used for the whole model in place of the index of a shape


def _times(
    probe: Probe, shapes: list[list[Group]], wholes: list[dict[str, int]], device: str
) -> tuple[list[Timing], list[Measured]]:
    """Time whole models and every shape of sublayer, all in turns, on a coarse grid refined at bends.

    Later passes measure the ends of each refined curve again, to correct for a machine that became faster or slower.

    Args:
        probe: Runs the model.
        shapes: The groups of each shape of sublayer.
        wholes: Whole models to time, each as units kept by group name; groups not named keep all.
        device: Type of the device.

    Returns:
        The times of the whole models, and the measurements of each shape.
    """
    measured = [
        Measured(members, probe.chain(members) if members[0].units else [], step_of(members[0], device), {})
        for members in shapes
    ]

    def maker(key: tuple[int, int]) -> Maker:
        shape, number = key  # number: of a whole model, or of units kept
        return probe.whole(wholes[number]) if shape == WHOLE else probe.sublayers(measured[shape].chain, number)

    times: dict[tuple[int, int], Timing] = {}
    points = {(WHOLE, place) for place in range(len(wholes))}
    points |= {(i, kept) for i, s in enumerate(measured) if s.chain for kept in coarse_grid(s.members[0].units, s.step)}
    for _ in range(1 + PASSES):
        ends = {(shape, end) for shape, _ in points for end in (0, measured[shape].members[0].units) if times}
        new = probe.time({key: maker(key) for key in sorted(points | ends)})
        pace = statistics.median([times[key].median / new[key].median for key in ends if new[key].median] or [1.0])
        times = {key: replace(time, median=time.median * pace) for key, time in new.items()} | times
        for (shape, kept), time in times.items():
            if shape != WHOLE:
                measured[shape].times[kept] = time
        points = {(index, kept) for index, shape in enumerate(measured) for kept in _bends(shape)}
        if not points:
            break
    return [times[WHOLE, place] for place in range(len(wholes))], measured


def _bends(measured: Measured) -> list[int]:
    """Numbers of units to measure next for a shape; empty if its curve has no bend."""
    costs = {kept: time.median for kept, time in measured.times.items()}
    errors = {kept: time.error for kept, time in measured.times.items()}
    return bends(costs, errors, measured.step, tolerance=TOLERANCE) if costs else []


def _curve(measured: Measured) -> Curve:
    """The cost curve of a single group of the shape."""
    first, times = measured.members[0], measured.times
    kept = sorted(times) or [0]
    above = [(times[count].median - times[0].median) / len(measured.chain) for count in kept] if times else [0.0]
    return Curve(
        kind=first.kind,
        units=first.units,
        width=first.width,
        hidden=first.hidden,
        groups=tuple(group.name for group in measured.members),
        kept=tuple(kept),
        cost=tuple(rising(kept, above)),
        spread=tuple(times[count].spread for count in kept) if times else (0.0,),
        step=measured.step,
    )


def step_of(group: Group, device: str) -> int:
    """Granularity of the hardware in units: a width costs as much as the next multiple of it."""
    tile = (VECTOR if device == "cpu" else TILE) // group.width
    return max(1, min(tile, group.units // VECTOR))


def _scaled(curve: Curve, scale: float) -> Curve:
    """The curve with its costs multiplied by ``scale``, so that fixed cost plus sublayers equals the dense model's time."""
    return replace(curve, cost=tuple(cost * scale for cost in curve.cost))


def cache_file(conditions: Conditions, shape: str) -> Path:
    """Path of the cached table for these measurement conditions and this shape of model."""
    digest = hashlib.sha256(json.dumps([dict(conditions), shape], sort_keys=True).encode()).hexdigest()[:24]
    return user_cache_path("fastprune") / "latency" / f"{digest}.json"


def _read_cached(file: Path) -> MeasuredTable | None:
    """The cached table; None if there is none or it cannot be read."""
    if not file.is_file():
        return None
    try:
        table = MeasuredTable.read(file)
    except TableError as error:
        log.warning("%s The latency table is measured again.", error)
        return None
    log.info("latency table read from %s", file)
    return table


def _store(table: MeasuredTable, file: Path) -> None:
    """Write the table to the cache; a failure is logged, not raised."""
    try:
        if file.is_file():  # a broken one
            file.unlink()
        table.save(file)
    except (OSError, UsageError) as error:
        log.warning("The latency table is not kept for later runs: %s", error)


def _describe(changes: tuple[str | None, ...]) -> str:
    """The changes of device, dtype and attention kernel in words, for an error message."""
    names = ("on the device", "in", "with the attention")
    return " ".join(f"{name} {change}" for name, change in zip(names, changes, strict=True) if change)
