"""The contract of a task: what a model is for, hence its loss, its labels and its metrics."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Batch = Mapping[str, Tensor]
Sample = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a data set hold what; None or empty means: guess from the usual names.

    Attributes:
        text: One or two columns of text (two for sentence pairs; question and context for question answering).
        label: The column of labels.
    """

    text: tuple[str, ...] = ()
    label: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What a model is for. One per kind of head; fields are what the model or the data say about it.

    A task never runs the model: it encodes rows into samples, and turns the model's outputs into
    per-sample losses, labels and metrics. All of it is label-optional: a batch without the tensors
    named in ``label_names`` is one without labels.
    """

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]]
    """Endings of the model class names that this task serves, such as ``ForSequenceClassification``."""
    label_names: ClassVar[tuple[str, ...]] = ("labels",)
    """The tensors of a batch that are labels; they are taken out before the model is called."""
    input_names: ClassVar[tuple[str, ...]] = ()
    """Inputs of the model beside the tokenizer's ``model_input_names`` that ``encode`` fills, one entry a token each."""
    token_label_names: ClassVar[tuple[str, ...]] = ()
    """Those of ``label_names`` that have one entry a token; -100 means none, and is what they are padded with."""

    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    """The metrics of which less is better."""

    metrics_of_samples: ClassVar[bool] = False
    """The metrics read what the samples say, and need none of ``label_names``."""

    running_text: ClassVar[bool] = False
    """The rows are one text after another that ``encode`` cuts anew: samples are drawn from its blocks, not its rows."""

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Whether a model of this class and configuration is for this task. No two tasks may serve the same one."""
        return class_name.endswith(cls.heads)

    @classmethod
    @abstractmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """The task of a model with this configuration (number of labels, problem type)."""

    @abstractmethod
    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Rows to samples: unpadded lists of numbers by the model's argument names, and labels where there are any.

        A row may give several samples (windows of a long text, the two sides of a pair) or none. Of a sample, the
        tokenizer's ``model_input_names``, ``input_names`` and ``label_names`` become tensors; anything else is kept for the
        metrics.

        Raises:
            DataError: A column is missing, or a label is not one of the model's.
        """

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Negative log-likelihood of the batch's labels, one a sample: [samples]. The batch has labels."""

    @abstractmethod
    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Labels drawn from the model's own predictive distribution, by ``label_names`` (METHOD 1).

        ``outputs`` are the model's for this batch; no gradient flows into what is returned.
        """

    @abstractmethod
    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """The task's own metrics over the whole set.

        Args:
            results: Pairs of outputs and batch, one a batch; batch["sample"] [samples] holds each row's index
                into ``samples``.
            samples: What was encoded, with what metrics need beyond the tensors (offsets, answers).

        Raises:
            DataError: The samples have no labels.
        """

    @abstractmethod
    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """How far two models agree on the same batches, without labels: named fidelity figures, 1.0 is the same.

        The three iterables run side by side, one item a batch, and may be read only once and only together.
        """
