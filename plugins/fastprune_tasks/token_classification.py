"""Token classification: a class a word."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fastprune import Batch, Columns, DataError, Sample, Task, label_column, text_columns, token_mask
from fastprune_tasks.labels import class_names, class_reader, labels_of, read_labels
from fastprune_tasks.likelihood import NO_LABEL, categorical_loss, draw_at

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

TOKENS = (("tokens",), ("words",))
TAGS = ("ner_tags", "pos_tags", "chunk_tags", "tags", "labels", "label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification(Task):
    """A class for each word of a text that is split into words; the word's first token carries it.

    Attributes:
        classes: The model's names of its classes, in order.
    """

    name: ClassVar[str] = "token-classification"
    heads: ClassVar[tuple[str, ...]] = ("ForTokenClassification",)
    token_label_names: ClassVar[tuple[str, ...]] = ("labels",)

    classes: tuple[str, ...]

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """From the class names."""
        return cls(classes=class_names(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Words, and their labels at their first tokens."""
        if not tokenizer.is_fast:
            raise DataError("Token classification needs a tokenizer that tells words apart (a fast one).")
        (name,) = text_columns(data, columns, TOKENS)
        sentences = list(data[name])
        if not all(isinstance(words, list) for words in sentences):
            raise DataError(f"The column '{name}' must hold a list of words in each row.")
        encoded = tokenizer(sentences, is_split_into_words=True, truncation=True, max_length=max_length)
        samples = [{key: values[row] for key, values in encoded.items()} for row in range(len(data))]
        column = label_column(data, columns, TAGS)
        tags = read_labels(data, column)
        if tags is None:
            return samples
        read = class_reader(data, column, self.classes)
        for row, (sample, words, row_tags) in enumerate(zip(samples, sentences, tags, strict=True)):
            if not isinstance(row_tags, list) or len(row_tags) != len(words):
                raise DataError(f"Row {row} has {len(words)} words and the labels {row_tags!r}; give one a word.")
            sample["labels"] = _at_first_tokens([read(tag) for tag in row_tags], encoded.word_ids(row))
        return samples

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross-entropy summed over the labelled tokens, [samples]."""
        return categorical_loss(outputs.logits, batch["labels"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """From the softmax at the labelled tokens, or all real ones if none is; -100 elsewhere: [samples, tokens]."""
        where = batch["labels"] != NO_LABEL if "labels" in batch else token_mask(batch)
        return {"labels": draw_at(outputs.logits, where, generator)}

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Accuracy over labelled tokens, which is micro-averaged F1 as well, and macro-averaged F1."""
        from torchmetrics.functional import classification as measures  # takes seconds

        pairs = []
        for outputs, batch in results:
            labels = labels_of(batch)
            there = labels != NO_LABEL
            pairs.append((outputs.logits.argmax(-1)[there], labels[there]))
        predicted = torch.cat([prediction for prediction, _ in pairs])  # [words]
        expected = torch.cat([label for _, label in pairs])  # [words]
        count = len(self.classes)
        found = {
            "accuracy": measures.multiclass_accuracy(predicted, expected, count, average="micro"),
            "f1": measures.multiclass_f1_score(predicted, expected, count),
        }
        return {name: float(value) for name, value in found.items()}

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Agreement of the classes of all real tokens."""
        same = []
        for one, other, batch in zip(teacher, student, batches, strict=True):
            same.append((one.logits.argmax(-1) == other.logits.argmax(-1))[token_mask(batch)])
        return {"agreement": float(torch.cat(same).float().mean())}


def _at_first_tokens(labels: Sequence[int], word_ids: Sequence[int | None]) -> list[int]:
    """A label a word to a label a token: [tokens]."""
    before: list[int | None] = [None, *word_ids]
    return [
        NO_LABEL if word is None or word == previous else labels[word]
        for word, previous in zip(word_ids, before, strict=False)
    ]
