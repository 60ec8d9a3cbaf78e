"""Sequence classification: one or several classes per text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune import Columns
from fastprune.data import Batch, Sample, Task, label_column
from fastprune.errors import DataError
from fastprune_tasks.labels import LABELS, class_names, class_reader, labels_of, read_labels
from fastprune_tasks.likelihood import categorical_loss, draw_categorical, full_precision
from fastprune_tasks.recordings import classifies_recordings
from fastprune_tasks.regression import is_regression
from fastprune_tasks.texts import encode_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceClassification(Task):
    """One class per text or pair of texts, or with ``multi_label`` any number of classes.

    Attributes:
        classes: The model's class names, in order.
        multi_label: Each class is an independent binary decision.
    """

    name: ClassVar[str] = "sequence-classification"
    heads: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)

    classes: tuple[str, ...]
    multi_label: bool = False

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Heads for sequence classification, except regression heads and audio classifiers."""
        texts = super().serves(config, class_name) and not classifies_recordings(class_name)
        return texts and not is_regression(config)

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read the class names and the problem type."""
        return cls(classes=class_names(config), multi_label=config.problem_type == "multi_label_classification")

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode texts, and labels as class numbers; with ``multi_label``, labels as 0.0 or 1.0 per class."""
        return self.labelled(encode_texts(data, tokenizer, columns=columns, max_length=max_length), data, columns)

    def labelled(self, samples: list[Sample], data: Dataset, columns: Columns) -> list[Sample]:
        """Add the labels, if the data has any, to the samples, one per row."""
        column = label_column(data, columns, LABELS)
        labels = read_labels(data, column)
        if labels is None:
            return samples
        read = class_reader(data, column, self.classes)
        for sample, label in zip(samples, labels, strict=True):
            sample["labels"] = self._many_hot(label, read) if self.multi_label else read(label)
        return samples

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross-entropy, [samples]; with ``multi_label``, the sum of the binary cross-entropies of all classes."""
        labels = batch["labels"]
        if not self.multi_label:
            return categorical_loss(outputs.logits, labels)
        logits = full_precision(outputs.logits)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").sum(1)

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw labels from the softmax, [samples]; with ``multi_label`` from each class's sigmoid, [samples, classes]."""
        if not self.multi_label:
            return {"labels": draw_categorical(outputs.logits, generator)}
        probabilities = full_precision(outputs.logits.detach()).sigmoid().cpu()
        return {"labels": torch.bernoulli(probabilities, generator=generator).to(outputs.logits.device)}

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Accuracy, F1 (of class 1 for two classes, else macro-averaged) and Matthews' correlation."""
        from torchmetrics.functional import classification as measures  # imported here because it takes seconds

        pairs = [(full_precision(outputs.logits), labels_of(batch)) for outputs, batch in results]
        logits = torch.cat([logits for logits, _ in pairs])  # [samples, classes]
        labels = torch.cat([labels for _, labels in pairs]).long()  # [samples] or [samples, classes]
        count = len(self.classes)
        if self.multi_label:
            values = {
                "accuracy": measures.multilabel_accuracy(logits, labels, count, average="micro"),
                "f1": measures.multilabel_f1_score(logits, labels, count),
                "matthews": measures.multilabel_matthews_corrcoef(logits, labels, count),
            }
            predicted = self._decide(logits)
        else:
            predicted = logits.argmax(1)
            f1 = (
                measures.binary_f1_score(predicted, labels)
                if count == 2
                else measures.multiclass_f1_score(predicted, labels, count)
            )
            values = {
                "accuracy": measures.multiclass_accuracy(predicted, labels, count, average="micro"),
                "f1": f1,
                "matthews": measures.multiclass_matthews_corrcoef(predicted, labels, count),
            }
        if any(torch.equal(each.min(), each.max()) for each in (predicted, labels)):
            # torchmetrics smooths 0/0 and gives 0.58 for constant predictions; scikit-learn gives 0
            values["matthews"] = torch.tensor(0.0)
        return {name: float(value) for name, value in values.items()}

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Agreement of the decisions, and overlap of the predicted distributions (1 - total variation distance)."""
        agreement, overlap = [], []
        for one, other, _ in zip(teacher, student, batches, strict=True):
            agreement.append((self._decide(one.logits) == self._decide(other.logits)).float().flatten())
            distance = (self._probabilities(one.logits) - self._probabilities(other.logits)).abs()  # [samples, classes]
            # a class of multi_label has one probability, so its total variation is the difference, without halving
            overlap.append(1 - (distance.mean(1) if self.multi_label else distance.sum(1) / 2))
        return {"agreement": float(torch.cat(agreement).mean()), "overlap": float(torch.cat(overlap).mean())}

    def _decide(self, logits: Tensor) -> Tensor:
        return logits > 0 if self.multi_label else logits.argmax(1)

    def _probabilities(self, logits: Tensor) -> Tensor:
        logits = full_precision(logits)
        return logits.sigmoid() if self.multi_label else logits.softmax(1)

    def _many_hot(self, label: Any, read: Callable[[Any], int]) -> list[float]:
        """A row's labels as 0.0 or 1.0 per class: [classes]."""
        count = len(self.classes)
        if not isinstance(label, list):
            raise DataError(f"A multi-label model needs a list of labels in each row; got {label!r}.")
        if any(isinstance(value, str) for value in label):
            chosen = {read(value) for value in label}
            return [float(index in chosen) for index in range(count)]
        if len(label) != count or not set(label) <= {0, 1}:
            raise DataError(
                f"A row's labels must be class names, or {count} zeros and ones, one per class; got {label!r}."
            )
        return [float(value) for value in label]
