"""The interface of a task: encoding, loss, drawn labels and metrics of a kind of model head."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fastprune.errors import OptionError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Batch = Mapping[str, Tensor]
Sample = dict[str, Any]
CUT = "cut"
"""Entry of a sample that was truncated: the amount that was cut off, by its unit, such as ``{"tokens": 12}``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of a data set's columns.

    Attributes:
        text: One or two text columns (two for sentence pairs; question and context for question answering) [empty: guess from
            usual names].
        label: The label column [None: guess from usual names].
    """

    text: tuple[str, ...] = ()
    label: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """The purpose of a model. There is one subclass per kind of head; its fields come from the model's configuration.

    A task does not run the model, except for ``written``: it encodes rows into samples and converts the model's outputs to
    per-sample losses, drawn labels and metrics. Labels are optional: a batch without the tensors in ``label_names`` is unlabelled.

    Attributes:
        usual_length: Maximum number of tokens per sample, unless set otherwise or the model takes fewer.
    """

    usual_length: int = 512

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]]
    """Suffixes of the class names of this task's models, such as ``ForSequenceClassification``."""
    label_names: ClassVar[tuple[str, ...]] = ("labels",)
    """Names of the label tensors in a batch; they are removed before the model is called."""
    input_names: ClassVar[tuple[str, ...]] = ()
    """Names of inputs that ``encode`` adds to the tokenizer's ``model_input_names``, with one entry per token."""
    token_label_names: ClassVar[tuple[str, ...]] = ()
    """The ``label_names`` with one entry per token; -100 means no label and is their padding value."""

    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Usual names of the input columns, in order of preference; columns of one tuple belong together."""
    usual_labels: ClassVar[tuple[str, ...]] = ()
    """Usual names of the label column, in order of preference; empty: the labels come from the inputs, or there are none."""
    label_form: ClassVar[str] = "none"
    """Forms of the labels, for the documentation."""

    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    """Names of the metrics for which a lower value is better."""

    note_names: ClassVar[tuple[str, ...]] = ()
    """Names of tensors [samples] that ``encode`` may add for loss and metrics; they are removed before the model is called."""

    running_text: ClassVar[bool] = False
    """The rows are joined to one text that ``encode`` cuts into blocks; samples are drawn from the blocks, not from the rows. Lines
    of text files keep their line breaks, and empty lines are not left out."""

    usual_samples: ClassVar[int] = 2048
    """Number of samples of a calibration set, unless set otherwise."""
    usual_tokens: ClassVar[int | None] = None
    """Approximate number of tokens in a batch, unless its number of samples is set; None: 32 samples of any length."""

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Whether this task is the task of a model with this class and configuration. At most one task may return True."""
        return class_name.endswith(cls.heads)

    @classmethod
    @abstractmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Create the task for a model with this configuration (number of labels, problem type)."""

    @abstractmethod
    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode rows as samples: unpadded lists of numbers by the model's argument names, with labels if the data has any.

        A row may give several samples (windows of a long text, both texts of a pair) or none. The entries of a sample in the
        tokenizer's ``model_input_names``, ``input_names`` and ``label_names`` become tensors; other entries are kept for the
        metrics. A truncated sample says in ``CUT`` what was cut off.

        Args:
            data: The rows.
            tokenizer: The model's tokenizer or processor.
            columns: Names of the text and label columns.
            max_length: Maximum number of tokens per sample.
            seed: Seed of random choices.

        Raises:
            DataError: A column is missing, or a label is unknown to the model (``RowError`` if one row is to blame).
        """

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Negative log-likelihood of the labels, one per sample: [samples]. The batch must have labels."""

    @abstractmethod
    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw labels from the model's own predictive distribution (docs/method.md, section 4.1).

        Args:
            outputs: The model's outputs for the batch; no gradient flows through the draw.
            batch: The batch.
            generator: Source of randomness, on the CPU.

        Returns:
            Label tensors by ``label_names``.
        """

    def divergence(self, dense: Any, pruned: Any, batch: Batch) -> Tensor:
        """How far the pruned model's predictive distribution is from the dense model's, in nats: [samples].

        That is the Kullback-Leibler divergence, summed over a sample's tokens; its expectation is 0 for equal outputs, and positive
        for others [estimated by labels that are drawn from the dense model, the same for all pruned models].

        Args:
            dense: The dense model's outputs for the batch.
            pruned: The pruned model's.
            batch: The batch; labels are not needed.
        """
        drawn = {**batch, **self.draw_labels(dense, batch, torch.Generator().manual_seed(0))}
        return self.loss(pruned, drawn) - self.loss(dense, drawn)

    def for_evaluation(self, *, stride: int | None = None) -> Self:
        """The task as it encodes evaluation data [itself].

        Args:
            stride: Tokens from one window of a running text to the next [None: the task's own].

        Raises:
            OptionError: The stride does not fit the task [every stride].
        """
        if stride is not None:
            raise OptionError(f"A stride is for the windows of language models; the model is one for {self.name}.")
        return self

    def conditions(self, longest: int) -> dict[str, int]:
        """What the metrics depend on besides model and data, by name, such as the context of a perplexity [nothing].

        Args:
            longest: Tokens of the longest sample.
        """
        return {}

    def written(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """What the metrics need besides the outputs of a forward pass, such as generated texts: tensors [samples, ...] by name.

        They are added to the batch that ``metrics`` reads [none].

        Args:
            model: The model that is evaluated, in evaluation mode.
            batch: The batch, on the model's device.
        """
        return {}

    def missing(self, samples: Sequence[Mapping[str, Any]]) -> str:
        """What is missing for the metrics, and what to do, in a sentence; empty if they can be computed [the labels].

        Args:
            samples: The encoded samples; the batches where there are none.
        """
        if all(name in sample for sample in samples for name in self.label_names):
            return ""
        usual = f" if it is none of: {', '.join(self.usual_labels)}" if self.usual_labels else ""
        return f"Metrics need labels, and the data has none; use labelled data, or name the label column{usual}."

    @abstractmethod
    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Compute the task's metrics over a whole data set.

        Args:
            results: Pairs of outputs and batch; batch["sample"] [samples] is each row's index into ``samples``.
            samples: The encoded samples, with additional data for metrics (offsets, answers).

        Raises:
            DataError: The samples have no labels.
        """

    @abstractmethod
    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Compare the outputs of two models without labels.

        Args:
            teacher: The dense model's outputs, one item per batch.
            student: The pruned model's outputs, one item per batch.
            batches: The batches. The three iterables can be read only once and only in parallel.

        Returns:
            Fidelity figures by name; 1.0 means identical.
        """
