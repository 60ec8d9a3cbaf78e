"""Token classification: one class per word."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fastprune import Columns
from fastprune.data import NO_LABEL, Batch, Sample, Task, label_column, text_columns, token_mask
from fastprune.errors import DataError
from fastprune_tasks.labels import class_names, class_reader, labels_of, read_labels
from fastprune_tasks.likelihood import categorical_loss, draw_at

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

TOKENS = (("tokens",), ("words",))
TAGS = ("ner_tags", "pos_tags", "chunk_tags", "tags", "labels", "label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification(Task):
    """One class per word of a text split into words; the label is at the word's first token.

    Attributes:
        classes: The model's class names, in order.
    """

    name: ClassVar[str] = "token-classification"
    heads: ClassVar[tuple[str, ...]] = ("ForTokenClassification",)
    token_label_names: ClassVar[tuple[str, ...]] = ("labels",)

    classes: tuple[str, ...]

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read the class names."""
        return cls(classes=class_names(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode words, with their labels at their first tokens."""
        if not tokenizer.is_fast:
            raise DataError("Token classification needs a fast tokenizer, which maps tokens to words.")
        (name,) = text_columns(data, columns, TOKENS)
        sentences = list(data[name])
        if not all(isinstance(words, list) for words in sentences):
            raise DataError(f"The column '{name}' must have a list of words in each row.")
        encoded = tokenizer(sentences, is_split_into_words=True, truncation=True, max_length=max_length)
        samples = [{key: values[row] for key, values in encoded.items()} for row in range(len(data))]
        column = label_column(data, columns, TAGS)
        tags = read_labels(data, column)
        if tags is None:
            return samples
        read = class_reader(data, column, self.classes)
        for row, (sample, words, row_tags) in enumerate(zip(samples, sentences, tags, strict=True)):
            if not isinstance(row_tags, list) or len(row_tags) != len(words):
                raise DataError(
                    f"Row {row} has {len(words)} words and the labels {row_tags!r}; give one label per word."
                )
            sample["labels"] = _at_first_tokens([read(tag) for tag in row_tags], encoded.word_ids(row))
        return samples

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross-entropy of the labelled tokens, summed over each sample: [samples]."""
        return categorical_loss(outputs.logits, batch["labels"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw classes at the labelled tokens (without labels, at all but padding): [samples, tokens], -100 elsewhere."""
        where = batch["labels"] != NO_LABEL if "labels" in batch else token_mask(batch)
        return {"labels": draw_at(outputs.logits, where, generator)}

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Accuracy (equal to micro-averaged F1) and macro-averaged F1 over the labelled tokens."""
        from torchmetrics.functional import classification as measures  # imported here because it takes seconds

        pairs = []
        for outputs, batch in results:
            labels = labels_of(batch)
            labelled = labels != NO_LABEL
            pairs.append((outputs.logits.argmax(-1)[labelled], labels[labelled]))
        predicted = torch.cat([prediction for prediction, _ in pairs])  # [words]
        expected = torch.cat([label for _, label in pairs])  # [words]
        count = len(self.classes)
        values = {
            "accuracy": measures.multiclass_accuracy(predicted, expected, count, average="micro"),
            "f1": measures.multiclass_f1_score(predicted, expected, count),
        }
        return {name: float(value) for name, value in values.items()}

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Agreement of the predicted classes at all tokens but padding."""
        same = []
        for one, other, batch in zip(teacher, student, batches, strict=True):
            same.append((one.logits.argmax(-1) == other.logits.argmax(-1))[token_mask(batch)])
        return {"agreement": float(torch.cat(same).float().mean())}


def _at_first_tokens(labels: Sequence[int], word_ids: Sequence[int | None]) -> list[int]:
    """Expand one label per word to one per token, with the label at the word's first token and -100 elsewhere: [tokens]."""
    before: list[int | None] = [None, *word_ids]
    return [
        NO_LABEL if word is None or word == previous else labels[word]
        for word, previous in zip(word_ids, before, strict=False)
    ]
