"""The vocabulary of a run: reduced before anything else, so that all stages see the texts as the finished model will.

Texts with dropped tokens become other, longer sequences. So the calibration set is encoded by the smaller tokenizer, and the
teacher is the dense model with the smaller vocabulary: on texts of kept tokens it gives the dense model's outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from fastprune.data.batches import Batches
from fastprune.data.mixes import DataMix, is_source
from fastprune.data.rows import Rows
from fastprune.data.tasks import Batch
from fastprune.data.workload import Workload
from fastprune.errors import DataError, UsageError
from fastprune.models.forms import AnyModel, open_any
from fastprune.models.trimming import Trimming
from fastprune.pipeline.clock import timed
from fastprune.pipeline.subject import Subject
from fastprune.strategies.contracts import CostModel
from fastprune.strategies.costs import CostTable
from fastprune.strategies.vocabulary import VocabularyRequest
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups
from fastprune.vocabulary.trimming import trim_vocabulary


def trimmed(
    model: AnyModel,
    data: Batches | Iterable[Batch] | Rows | DataMix,
    request: VocabularyRequest | None,
    texts: Rows | DataMix | None,
    *,
    inplace: bool,
) -> AnyModel:
    """The model with the vocabulary that is asked for; the model itself if none is.

    Args:
        model: As for ``prune``.
        data: The calibration set.
        request: The vocabulary.
        texts: Texts to count tokens in; None: those of the calibration set.
        inplace: Whether the given model itself is to change.

    Raises:
        UsageError: The given model cannot be changed in place, or the data are encoded already.
        ModelError: The vocabulary cannot be reduced.
    """
    if request is None:
        if texts is not None:
            raise UsageError("Texts to count tokens in are for a vocabulary; give its size or its coverage, too.")
        return model
    if inplace:
        raise UsageError("A vocabulary is reduced in a copy of the model; leave out inplace.")
    opened = open_any(model)[1]
    if opened is not None and opened.trimming and opened.trimming.figures["request"] == request.to_dict():
        return opened  # already done
    if not is_source(data):
        raise DataError(
            "Batches are encoded with the whole vocabulary; give rows or their source, or reduce the vocabulary first: "
            "trim_vocabulary(model, texts, 0.3)."
        )
    with timed("trim"):
        return trim_vocabulary(
            model if opened is None else opened, cast("Any", data if texts is None else texts), request
        )


def dense_table(subject: Subject, cost: CostModel, table: CostTable, workload: Workload) -> CostTable:
    """The costs of the dense model with its whole vocabulary, on the same texts as that of the table, which become longer.

    A counted cost is counted again. A measured cost is assumed to be in proportion to the length.

    Args:
        subject: The model whose vocabulary may have been reduced; if not, the table itself is returned.
        cost: The cost model.
        table: The costs of the model with the smaller vocabulary.
        workload: What these are counted for.
    """
    trimming = trimming_of(subject)
    if trimming is None:
        return table
    length = dense_length(trimming, workload.seq_len)
    if not cost.counted:
        same = table.conditions.get("seq_len") == workload.seq_len
        ratio = length / workload.seq_len if same else 1.0
        groups = {name: ratio * costs for name, costs in table.groups.items()}
        return CostTable(measure=table.measure, groups=groups, fixed=ratio * table.fixed, conditions=table.conditions)
    dense = unfuse_experts(trimming.dense)
    shorter = Workload(example=workload.example, seq_len=length)
    return cost.measure(dense, resolve_groups(subject.architecture, dense), shorter)


def dense_length(trimming: Trimming | None, length: int) -> int:
    """The length that texts of this length had with the whole vocabulary."""
    if trimming is None:
        return length
    ratio = float(trimming.figures["held_out"]["length"]["ratio"])
    return max(1, round(length / ratio))


def trimming_of(subject: Subject) -> Trimming | None:
    """What the model was before its vocabulary was reduced; None: it is whole."""
    return subject.opened.trimming if subject.opened else None


def dense_of(subject: Subject) -> nn.Module:
    """The dense model with its whole vocabulary."""
    trimming = trimming_of(subject)
    return subject.teacher if trimming is None else trimming.dense
