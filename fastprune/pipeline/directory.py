"""The size of a directory: of a written one, and of what lies beside the weights, before it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fastprune.models.checkpoint import files_of
from fastprune.models.pretrained import Pretrained
from fastprune.pipeline.subject import Subject
from fastprune.pipeline.trimming import dense_of, trimming_of
from fastprune.strategies.contracts import CostModel
from fastprune.strategies.costs import CostTable
from fastprune.units.groups import Group, Groups

CONFIG = 8_000
TENSOR = 110
"""Bytes of the configuration, and of a tensor's entry in the weights' file besides its name."""
PAGES, PAGES_OF_A_GROUP = 120_000, 10_000
"""Most bytes of the manifest, the report, the card with its picture, and the code that builds narrower layers."""
UNIT = 14
"""Bytes of the number of a kept unit in the manifest."""
GRAPH, GRAPH_OF_A_GROUP = 40_000, 9_000
"""Usual bytes of an export's nodes."""
APART = 8 * 4
"""Bytes of the numbers of the filters of an FFN that an export may keep in float32: eight of them."""


def directory_size(directory: str | Path) -> int:
    """Bytes of all files of a directory."""
    return sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file())


def beside_weights(model: nn.Module, groups: Groups, spelled: int, cost: CostModel) -> int:
    """Bytes of the finished directory without the weights, at most; of an export, about.

    Args:
        model: The model before it is pruned.
        groups: Its groups.
        spelled: Bytes of the tokenizer and of other files that are saved as they are.
        cost: A cost of files; one that measures the dense model by another cost is that of an export.
    """
    if cost.of_dense() != cost:
        apart = sum(APART * _numbers(model, group) for group in groups if group.kind != "attention")
        return spelled + CONFIG + GRAPH + GRAPH_OF_A_GROUP * len(groups.items) + apart
    units = sum(group.units for group in groups)
    return spelled + CONFIG + _header(model) + PAGES + PAGES_OF_A_GROUP * len(groups.items) + UNIT * units


def with_files(table: CostTable, cost: CostModel, subject: Subject) -> CostTable:
    """The table with the files beside the weights in the fixed cost; other costs than those of files are unchanged."""
    if not cost.of_files:
        return table
    beside = beside_weights(subject.teacher, subject.groups, subject.companions_size, cost)
    return replace(table, fixed=table.fixed + beside)


def dense_files(subject: Subject) -> int:
    """Bytes of the dense model's directory without the weights."""
    opened, trimming = subject.opened, trimming_of(subject)
    if opened is None:
        return 0
    return dense_directory(opened, dense_of(subject), trimming.tokenizer if trimming else opened.tokenizer)


def dense_directory(opened: Pretrained, model: nn.Module, tokenizer: Any) -> int:
    """Bytes of a dense model's directory without the weights."""
    return CONFIG + _header(model) + spelled(opened, tokenizer)


def spelled(opened: Pretrained, tokenizer: Any) -> int:
    """Bytes of a tokenizer's files and of the other files beside a model."""
    return sum(map(len, {**files_of(tokenizer), **opened.companions}.values()))


def _numbers(model: nn.Module, group: Group) -> int:
    """Weights and biases of one unit."""
    tensors = [(cut, cut.tensor(model)) for cut in group.cuts]
    return sum(cut.positions.per_unit * one.numel() // max(one.shape[cut.dimension], 1) for cut, one in tensors)


def _header(model: nn.Module) -> int:
    return sum(len(name) + TENSOR for name in model.state_dict())
