"""Cost by bytes on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastprune import option
from fastprune.data import Workload
from fastprune.strategies import CostModel, CostTable
from fastprune.units import Group, Groups, sharing_copy

FLOATS = ("float64", "float32", "float16", "bfloat16")
BITS = {"int8": 8, "int4": 4}
BLOCK = 32  # weights of 4 bits with one scale
SCALE = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class SizeCost(CostModel):
    """Bytes of the weights in the saved directory; the pipeline adds those of the tokenizer and of all other files.

    With quantised weights, it counts the weights of the export that ``prune --quantize`` writes beside the model: products and
    tables in 8 or 4 bits with their scales, all else in float32. Budgets below 1 are then still shares of the dense model's
    directory (docs/quantisation.md).
    """

    name: ClassVar[str] = "size"
    counted: ClassVar[bool] = True
    of_files: ClassVar[bool] = True
    unit: ClassVar[str] = "bytes"
    formula: ClassVar[str] = "bytes = fixed + sum_g k_g b_g, b_g of one unit: its rows with biases and its columns"
    paper: ClassVar[str] = "Kwon et al., NeurIPS 2022, https://arxiv.org/abs/2204.09656"
    weights: Literal["auto", "float64", "float32", "float16", "bfloat16", "int8", "int4"] = option(
        "auto", help="Type of the weights in the file; auto: as in the dense model's file. prune --quantize sets it."
    )
    tables: Literal["auto", "int8", "int4"] = option(
        "auto", help="Type of the embedding tables of quantised weights; auto: that of the weights."
    )

    def stored_as(self, dtype: torch.dtype) -> CostModel:
        name = str(dtype).removeprefix("torch.")
        fits = self.weights == "auto" and name in FLOATS
        return dataclasses.replace(self, weights=name) if fits else self  # type: ignore[arg-type]

    def of_dense(self) -> CostModel:
        return dataclasses.replace(self, weights="auto", tables="auto") if self.weights in BITS else self

    def variants(self) -> Sequence[CostModel]:
        free = self.weights == "int8" and self.tables == "auto"
        return [dataclasses.replace(self, tables=each) for each in ("int8", "int4")] if free else [self]

    @property
    def told(self) -> str:
        return "" if self.tables == "auto" else f", tables in {BITS[self.tables]} bits"

    def rounded(self, model: nn.Module) -> nn.Module:
        if self.weights not in BITS:
            return model
        bits = BITS[self.weights if self.tables == "auto" else self.tables]
        copy = sharing_copy(model)
        for module in copy.modules():
            if isinstance(module, nn.Embedding):
                rows = module.weight.detach()
                module.weight = nn.Parameter(_rounded(rows, bits, BLOCK if bits == 4 else rows.shape[1]))
        return copy

    def measure(self, model: nn.Module, groups: Groups, workload: Workload) -> CostTable:
        own = next(model.parameters()).dtype
        stored = [self._stored(*each, own) for each in _tensors(model, apart=self.weights in BITS)]
        costs = {g.name: torch.arange(g.units + 1, dtype=torch.float64) * _of_a_unit(model, g, stored) for g in groups}
        fixed = sum(each.nbytes for each in stored) - sum(float(each[-1]) for each in costs.values())
        return CostTable(measure=self.unit, groups=costs, fixed=fixed)

    def _stored(self, module: nn.Module, tensor: Tensor, own: torch.dtype) -> Stored:
        """A tensor as the file holds it."""
        if self.weights not in BITS:
            named = self.weights in FLOATS and tensor.dtype == own
            return Stored(tensor, (getattr(torch, self.weights) if named else tensor.dtype).itemsize)
        if tensor.ndim < 2:
            return Stored(tensor, SCALE)
        table = isinstance(module, nn.Embedding) and self.tables != "auto"
        if BITS[self.tables if table else self.weights] == 4:
            return Stored(tensor, 0.5 + SCALE / BLOCK)
        return Stored(tensor, 1, scales_along=1 if isinstance(module, Conv1D) else 0)


def _rounded(rows: Tensor, bits: int, block: int) -> Tensor:
    """Numbers of so many bits, with a scale for each block of a row: [rows, features]."""
    found = []
    for part in rows.split(block, dim=1):
        scale = part.abs().amax(1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
        found.append((part / scale).round() * scale)
    return torch.cat(found, dim=1)


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        tensor: The tensor.
        rate: Bytes of one of its numbers.
        scales_along: The dimension each of whose positions has a scale; None: none has.
    """

    tensor: Tensor
    rate: float
    scales_along: int | None = None

    @property
    def nbytes(self) -> float:
        """Bytes of the tensor."""
        scales = 0 if self.scales_along is None else SCALE * self.tensor.shape[self.scales_along]
        return self.rate * self.tensor.numel() + scales

    def along(self, dimension: int) -> float:
        """Bytes of one position of a dimension."""
        scale = SCALE if dimension == self.scales_along else 0
        return self.rate * self.tensor.numel() / self.tensor.shape[dimension] + scale


def _tensors(model: nn.Module, *, apart: bool) -> list[tuple[nn.Module, Tensor]]:
    """The tensors of the file with their modules, tied ones once; ``apart``: a tied table and head are two tensors."""
    names = model.state_dict().keys()
    found: dict[tuple[int, bool], tuple[nn.Module, Tensor]] = {}
    for path, module in model.named_modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if f"{path}.{name}".lstrip(".") in names:
                found.setdefault((id(tensor), apart and isinstance(module, nn.Embedding)), (module, tensor))
    return list(found.values())


def _of_a_unit(model: nn.Module, group: Group, stored: Sequence[Stored]) -> float:
    """Bytes of one unit: its positions in every tensor that the group cuts."""
    owned: dict[int, float] = {}
    for cut in group.cuts:
        tensor = cut.tensor(model)
        if tensor.shape[cut.dimension]:
            each = sum(one.along(cut.dimension) for one in stored if one.tensor is tensor)
            owned[id(tensor)] = cut.positions.per_unit * each
    return sum(owned.values())
