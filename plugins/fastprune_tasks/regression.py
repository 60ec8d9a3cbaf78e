"""Regression: one number per text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fastprune import Columns
from fastprune.data import Batch, Sample, Task, label_column
from fastprune.errors import ModelError
from fastprune_tasks.labels import SCORES, labels_of, numbers, read_labels
from fastprune_tasks.likelihood import draw_gaussian, full_precision, gaussian_loss
from fastprune_tasks.recordings import classifies_recordings
from fastprune_tasks.texts import PAIRS, SINGLES, encode_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def is_regression(config: PretrainedConfig) -> bool:
    """Whether a sequence classification head is used for regression, by transformers' own rule."""
    return config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """One number per text or pair of texts, the mean of a unit Gaussian."""

    name: ClassVar[str] = "regression"
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"mse"})
    heads: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = (*PAIRS, *SINGLES)
    usual_labels: ClassVar[tuple[str, ...]] = SCORES
    label_form: ClassVar[str] = "number"

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Heads for sequence classification of texts that are used for regression."""
        texts = super().serves(config, class_name) and not classifies_recordings(class_name)
        return texts and is_regression(config)

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Check that the model has one output.

        Raises:
            ModelError: It has several.
        """
        if config.num_labels != 1:
            raise ModelError(f"Regression is for models with one output; this one has {config.num_labels}.")
        return cls()

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode texts, and labels as floats."""
        samples = encode_texts(data, tokenizer, columns=columns, max_length=max_length)
        column = label_column(data, columns, self.usual_labels)
        labels = read_labels(data, column)
        if labels is None:
            return samples
        for sample, label in zip(samples, numbers(str(column), labels), strict=True):
            sample["labels"] = label
        return samples

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Half the squared error, [samples]."""
        return gaussian_loss(outputs.logits, batch["labels"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The output plus unit Gaussian noise, [samples]."""
        return {"labels": draw_gaussian(outputs.logits, generator).squeeze(1)}

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Pearson's and Spearman's correlation, and the mean squared error."""
        from torchmetrics.functional.regression import mean_squared_error  # imported here because it takes seconds

        pairs = [(full_precision(outputs.logits).squeeze(1), labels_of(batch)) for outputs, batch in results]
        predicted = torch.cat([prediction for prediction, _ in pairs])  # [samples]
        labels = torch.cat([label for _, label in pairs]).to(predicted)  # [samples]
        return {**correlations(predicted, labels), "mse": float(mean_squared_error(predicted, labels))}

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Pearson's and Spearman's correlation of the two models' outputs."""
        pairs = [
            (full_precision(one.logits).squeeze(1), full_precision(other.logits).squeeze(1))
            for one, other, _ in zip(teacher, student, batches, strict=True)
        ]
        return correlations(torch.cat([one for one, _ in pairs]), torch.cat([other for _, other in pairs]))


def correlations(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Pearson's and Spearman's correlation of two tensors [samples]; NaN if one of them is constant."""
    from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef  # imported here: takes seconds

    return {
        "pearson": float(pearson_corrcoef(predicted, labels)),
        "spearman": float(spearman_corrcoef(predicted, labels)),
    }
