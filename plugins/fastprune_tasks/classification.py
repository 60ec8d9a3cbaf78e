"""Sequence classification: one or several classes per text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune import Columns
from fastprune.data import Batch, Sample, Task, label_column
from fastprune.errors import RowError
from fastprune_tasks.boxes import reads_boxes
from fastprune_tasks.labels import LABELS, class_columns, class_names, labels_of, many_hot, one_class, read_labels
from fastprune_tasks.likelihood import categorical_divergence, categorical_loss, draw_categorical, full_precision
from fastprune_tasks.recordings import classifies_recordings
from fastprune_tasks.regression import is_regression
from fastprune_tasks.texts import PAIRS, SINGLES, encode_texts, end_of, ended

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceClassification(Task):
    """One class per text or pair of texts, or with ``multi_label`` any number of classes.

    Attributes:
        classes: The model's class names, in order.
        multi_label: Each class is an independent binary decision.
        boxes: The model reads the place of each word on the page.
        prompt: Text in front of each (first) text.
        end: Token that each text must end in, because its state is classified; None: none.
    """

    name: ClassVar[str] = "sequence-classification"
    heads: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    input_names: ClassVar[tuple[str, ...]] = ("bbox",)
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = (*PAIRS, *SINGLES)
    usual_labels: ClassVar[tuple[str, ...]] = LABELS
    label_form: ClassVar[str] = (
        "name or number of a class; for a model with several classes per row a list of these, or zeros and ones; "
        "or a column of zeros and ones for each class, with its name"
    )

    classes: tuple[str, ...]
    multi_label: bool = False
    boxes: bool = False
    prompt: str = ""
    end: int | None = None

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Heads for sequence classification, except regression heads and audio classifiers."""
        texts = super().serves(config, class_name) and not classifies_recordings(class_name)
        return texts and not is_regression(config)

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read the class names, the problem type, whether the model reads boxes, and the token that it classifies."""
        several = config.problem_type == "multi_label_classification"
        names, boxes = class_names(config), reads_boxes(config)
        return cls(classes=names, multi_label=several, boxes=boxes, end=end_of(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode texts, and labels as class numbers; with ``multi_label``, labels as 0.0 or 1.0 per class."""
        samples = encode_texts(
            data, tokenizer, columns=columns, max_length=max_length, boxes=self.boxes, prompt=self.prompt
        )
        return self.labelled(ended(samples, self.end, max_length), data, columns)

    def labelled(self, samples: list[Sample], data: Dataset, columns: Columns) -> list[Sample]:
        """Add the labels, if the data has any, to the samples, one per row."""
        column = label_column(data, columns, self.usual_labels)
        labels = read_labels(data, column)
        if column is None and (hot := class_columns(data, self.classes)) is not None:
            labels = hot if self.multi_label else [_only(row, values) for row, values in enumerate(hot)]
        if labels is None:
            return samples
        read = many_hot if self.multi_label else one_class
        for sample, label in zip(
            samples, read(data, column or "a column for each class", self.classes, labels), strict=True
        ):
            sample["labels"] = label
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

    def divergence(self, dense: Any, pruned: Any, batch: Batch) -> Tensor:
        """Kullback-Leibler divergence of the predicted distributions, with ``multi_label`` summed over the classes: [samples]."""
        if not self.multi_label:
            return categorical_divergence(dense.logits, pruned.logits)
        both = (torch.stack([logits, torch.zeros_like(logits)], -1) for logits in (dense.logits, pruned.logits))
        return categorical_divergence(*both)  # [samples, classes, yes and no]

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Accuracy, F1 (of class 1 for two classes, else macro-averaged) and Matthews' correlation."""
        from torchmetrics.functional import classification as measures  # imported here because it takes seconds

        pairs = [(full_precision(outputs.logits), labels_of(batch)) for outputs, batch in results]
        logits = torch.cat([logits for logits, _ in pairs])  # [samples, classes]
        labels = torch.cat([labels for _, labels in pairs]).long()  # [samples] or [samples, classes]
        count = len(self.classes)
        predicted = self._decide(logits).long()
        if count == 1:  # a single decision, yes or no
            predicted, labels, count = predicted.flatten(), labels.flatten(), 2
        elif self.multi_label:
            values = {
                "accuracy": measures.multilabel_accuracy(logits, labels, count, average="micro"),
                "f1": measures.multilabel_f1_score(logits, labels, count),
                "matthews": measures.multilabel_matthews_corrcoef(logits, labels, count),
            }
        if predicted.dim() == 1:
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


def _only(row: int, values: Sequence[Any]) -> int:
    """The class of a row with a zero or one for each class."""
    ones = [index for index, value in enumerate(values) if str(value) in ("1", "1.0", "True")]
    if len(ones) != 1:
        raise RowError(row, f"the columns of the classes must have a single 1 and else 0; got {values}.")
    return ones[0]
