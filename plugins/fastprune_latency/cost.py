"""Latency, measured on the model's own layers."""

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

from fastprune import (
    Conditions,
    Curve,
    Group,
    Groups,
    MeasuredCost,
    MeasuredTable,
    ModelError,
    OptionError,
    TableError,
    Workload,
    frozen,
    option,
)
from fastprune_latency.conditions import conditions_of, shape_of, unpadded
from fastprune_latency.grid import bends, coarse_grid, rising
from fastprune_latency.probe import Maker, Probe, Timing

log = logging.getLogger("fastprune")

TILE = 64  # rows and columns of a matrix that an accelerator works on at once
VECTOR = 16  # numbers that a processor works on at once
PASSES = 2  # refinements of a curve at most
RESTLESS = 0.15  # a spread from which on a table is in doubt
TOLERANCE = 0.03  # of a curve's rise: what counts as a bend


@dataclass(frozen=True, kw_only=True)
class LatencyCost(MeasuredCost):
    """Milliseconds of a forward pass, measured on the model's own layers with units taken out of them (METHOD 2).

    One curve for every distinct sublayer, on a coarse grid that is refined where it bends; the median of several turns,
    the widths taking turns. What cannot be pruned is the whole model with every group empty. The table of a model,
    machine and workload is kept in the user's cache directory.
    """

    name: ClassVar[str] = "latency"
    searcher: ClassVar[str] = "knapsack"
    formula: ClassVar[str] = "T = T(every group empty) + sum_g t_g(k_g), each t_g measured and made never to fall"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, section 4.1: https://arxiv.org/abs/2204.09656"

    batch_size: int | None = option(None, help="Samples at once; none: the table's, or 32.")
    seq_len: int | None = option(None, help="Tokens a sample; none: the table's, or the calibration set's mean.")
    device: str | None = option(None, help="What it will run on, such as cpu or cuda; none: where the model is.")
    dtype: Literal["float32", "float16", "bfloat16"] | None = option(None, help="None: the model's.")
    attention: str | None = option(None, help="Such as eager or sdpa; none: the model's.")
    threads: int | None = option(None, help="Of a CPU; none: torch's.")
    compile: bool = option(False, help="Measure what torch.compile makes of the layers.")
    rounds: int = option(5, help="Times that each width is measured.")
    table_file: str | None = option(None, help="A table measured before, here or elsewhere, instead of measuring.")
    cache: bool = option(True, help="Use and keep tables in the user's cache directory.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "seq_len", "threads", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"option '{name}' of 'latency' must be 1 or more; got {value}.")

    def table(self, model: nn.Module, groups: Groups, workload: Workload) -> MeasuredTable:
        """The table in the file that was named, in the cache, or else measured.

        Raises:
            TableError: The file is broken, or was measured for another model or other conditions than asked for.
            ModelError: There is no such device or attention kernel, or the length is more than the model takes.
        """
        if self.table_file is not None:
            table = MeasuredTable.read(self.table_file)
            table.require(self._asked())
            return table
        batch_size, seq_len = self.batch_size or 32, self.seq_len or workload.seq_len
        _check_length(model, seq_len)
        served = self._served(model)
        with self._threads(), frozen(served):
            conditions = conditions_of(
                served,
                batch_size=batch_size,
                seq_len=seq_len,
                threads=torch.get_num_threads(),
                compiled=self.compile,
            )
            file = cache_file(conditions, shape_of(served, groups))
            known = _known(file) if self.cache else None
            if known is None:
                inputs = unpadded(workload.inputs(batch_size=batch_size, seq_len=seq_len), groups)
                device = next(served.parameters()).device
                inputs = {name: value.to(device) for name, value in inputs.items()}
                known = self._measure(served, groups, inputs, conditions)
                if self.cache:
                    _keep(known, file)
        return known

    def _asked(self) -> Conditions:
        """The conditions that the options name."""
        asked: dict[str, Any] = {"device": self.device and torch.device(self.device).type, "dtype": self.dtype}
        asked |= {"batch_size": self.batch_size, "seq_len": self.seq_len, "attention": self.attention}
        asked |= {"threads": self.threads, "compiled": self.compile or None}
        return {name: value for name, value in asked.items() if value is not None}

    def _served(self, model: nn.Module) -> nn.Module:
        """The model as it will be served: itself, or a copy on another device, in another dtype or with another kernel."""
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
            raise ModelError(f"The model cannot be run on {_said(changes)} here: {reason}") from error

    @contextlib.contextmanager
    def _threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

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
            (full, middle, empty), found = _times(probe, shapes, wholes, str(conditions["device"]))
        curves = [_curve(each) for each in found]
        rise = sum(curve.cost[-1] * len(curve.groups) for curve in curves)
        above = full.median - empty.median
        scale = above / rise if above > 0 and rise else 1.0
        table = MeasuredTable(
            measure="ms",
            fixed=empty.median,
            curves=tuple(_scaled(curve, scale) for curve in curves),
            conditions=conditions,
            model={"class": type(model).__name__, "shape": shape_of(model, groups)},
        )
        predicted = table.costs(groups).of(half)
        check = {"predicted": predicted, "measured": middle.median, "scale": scale}
        apart = statistics.median([spread for curve in curves for spread in curve.spread])
        if apart > RESTLESS:
            log.warning(
                "The machine was restless: the middle half of the times of a width lie %.0f %% apart. Measure again where "
                "nothing else runs, or with more rounds.",
                100 * apart,
            )
        log.info("latency of half of the units: %.4g ms predicted, %.4g ms measured", predicted, middle.median)
        return replace(table, check=check)


def same_shape(model: nn.Module, groups: Groups) -> list[list[Group]]:
    """The groups whose sublayers take the same time: of the same module class, sizes and settings."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        module = model.get_submodule(group.module)
        settings = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, int | float | str) and name not in ("layer_idx", "training")
        }
        key = [group.stack.layers, group.block.name, group.kind, group.units, group.width, group.hidden]
        found.setdefault(json.dumps([*key, type(module).__name__, settings], default=str), []).append(group)
    return list(found.values())


@dataclass(frozen=True)
class Measured:
    """What was measured of one shape of sublayer.

    Attributes:
        members: The groups of the shape.
        chain: Those whose layers ran in a row.
        step: What the hardware rounds up to.
        times: Of the chain, by the number of units in each of its groups.
    """

    members: list[Group]
    chain: list[Group]
    step: int
    times: dict[int, Timing]


WHOLE = -1  # stands for a shape where the whole model is meant


def _times(
    probe: Probe, shapes: list[list[Group]], wholes: list[dict[str, int]], device: str
) -> tuple[list[Timing], list[Measured]]:
    """Time whole models, and every shape of sublayer on a grid that is refined where its curve bends, all in turns."""
    found = [
        Measured(members, probe.chain(members) if members[0].units else [], step_of(members[0], device), {})
        for members in shapes
    ]

    def maker(key: tuple[int, int]) -> Maker:
        shape, place = key
        return probe.whole(wholes[place]) if shape == WHOLE else probe.sublayers(found[shape].chain, place)

    times: dict[tuple[int, int], Timing] = {}
    wanted = {(WHOLE, place) for place in range(len(wholes))}
    wanted |= {(i, kept) for i, s in enumerate(found) if s.chain for kept in coarse_grid(s.members[0].units, s.step)}
    for _ in range(1 + PASSES):
        ends = {(shape, end) for shape, _ in wanted for end in (0, found[shape].members[0].units) if times}
        new = probe.time({key: maker(key) for key in sorted(wanted | ends)})
        pace = statistics.median([times[key].median / new[key].median for key in ends if new[key].median] or [1.0])
        times = {key: replace(time, median=time.median * pace) for key, time in new.items()} | times
        for (shape, kept), time in times.items():
            if shape != WHOLE:
                found[shape].times[kept] = time
        wanted = {(index, kept) for index, each in enumerate(found) for kept in _bends(each)}
        if not wanted:
            break
    return [times[WHOLE, place] for place in range(len(wholes))], found


def _bends(measured: Measured) -> list[int]:
    costs = {kept: time.median for kept, time in measured.times.items()}
    errors = {kept: time.error for kept, time in measured.times.items()}
    return bends(costs, errors, measured.step, tolerance=TOLERANCE) if costs else []


def _curve(measured: Measured) -> Curve:
    """The curve of one group of the shape."""
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
    """The number of units that the hardware rounds up to."""
    tile = (VECTOR if device == "cpu" else TILE) // group.width
    return max(1, min(tile, group.units // VECTOR))


def _scaled(curve: Curve, scale: float) -> Curve:
    """The curve with costs so much larger, so that the sublayers' sum is what the whole model's time says."""
    return replace(curve, cost=tuple(cost * scale for cost in curve.cost))


def cache_file(conditions: Conditions, shape: str) -> Path:
    """Where the table for these conditions of a model of this shape is kept."""
    digest = hashlib.sha256(json.dumps([dict(conditions), shape], sort_keys=True).encode()).hexdigest()[:24]
    return user_cache_path("fastprune") / "latency" / f"{digest}.json"


def _known(file: Path) -> MeasuredTable | None:
    if not file.is_file():
        return None
    try:
        table = MeasuredTable.read(file)
    except TableError as error:
        log.warning("%s It is measured again.", error)
        return None
    log.info("latency from %s", file)
    return table


def _keep(table: MeasuredTable, file: Path) -> None:
    try:
        table.save(file)
    except TableError as error:
        log.warning("%s", error)


def _check_length(model: nn.Module, seq_len: int) -> None:
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if limit is not None and seq_len > int(limit):
        raise ModelError(f"The model takes at most {limit} tokens; a latency of {seq_len} was asked for.")


def _said(changes: tuple[str | None, ...]) -> str:
    names = ("the device", "in", "with the attention")
    return " ".join(f"{name} {change}" for name, change in zip(names, changes, strict=True) if change)
