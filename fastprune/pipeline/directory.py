"""The size of a directory: what lies beside the weights, before it is written."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from fastprune.models.checkpoint import files_of
from fastprune.pipeline.subject import Subject
from fastprune.pipeline.trimming import dense_of, trimming_of
from fastprune.strategies.contracts import CostModel
from fastprune.strategies.costs import CostTable

CONFIG = 8_000
TENSOR = 110
"""Bytes of the configuration, and of a tensor's entry in the weights' file besides its name."""
PAGES, PAGES_OF_A_GROUP = 120_000, 10_000
"""Most bytes of the manifest, the report, the card with its picture, and the code that builds narrower layers."""
UNIT = 14
"""Bytes of the number of a kept unit in the manifest."""
GRAPH, GRAPH_OF_A_GROUP = 40_000, 9_000
"""Usual bytes of an export's nodes."""


def beside_weights(subject: Subject, cost: CostModel) -> int:
    """Bytes of the finished directory without the weights, at most; of an export, about.

    Args:
        subject: The subject, with the tokenizer that will be saved.
        cost: A cost of files; one that measures the dense model by another cost is that of an export.
    """
    groups = subject.groups.items
    if cost.of_dense() != cost:
        return subject.companions_size + CONFIG + GRAPH + GRAPH_OF_A_GROUP * len(groups)
    pages = PAGES + PAGES_OF_A_GROUP * len(groups) + UNIT * sum(group.units for group in groups)
    return subject.companions_size + CONFIG + _header(subject.teacher) + pages


def with_files(table: CostTable, cost: CostModel, subject: Subject) -> CostTable:
    """The table with the files beside the weights in the fixed cost; other costs than those of files are unchanged."""
    return replace(table, fixed=table.fixed + beside_weights(subject, cost)) if cost.of_files else table


def dense_files(subject: Subject) -> int:
    """Bytes of the dense model's directory without the weights."""
    opened, trimming = subject.opened, trimming_of(subject)
    if opened is None:
        return 0
    spelling = files_of(trimming.tokenizer if trimming else opened.tokenizer)
    return CONFIG + _header(dense_of(subject)) + sum(map(len, {**spelling, **opened.companions}.values()))


def _header(model: nn.Module) -> int:
    return sum(len(name) + TENSOR for name in model.state_dict())
