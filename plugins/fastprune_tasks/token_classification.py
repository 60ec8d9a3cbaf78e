"""Token classification: one class per word."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fastprune import Columns
from fastprune.data import NO_LABEL, Batch, Sample, Task, label_column, text_columns, token_mask
from fastprune.errors import DataError, RowError
from fastprune_tasks.boxes import reads_boxes
from fastprune_tasks.entities import entity_scores, marks_entities
from fastprune_tasks.labels import ClassReader, as_list, class_names, in_row, labels_of, read_labels
from fastprune_tasks.likelihood import categorical_divergence, categorical_loss, draw_at
from fastprune_tasks.texts import TOKENS, encode_words, words_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

TAGS = ("ner_tags", "pos_tags", "chunk_tags", "tags", "labels", "label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification(Task):
    """One class per word of a text split into words; the label is at the word's first token.

    Attributes:
        classes: The model's class names, in order.
        boxes: The model reads the place of each word on the page.
    """

    name: ClassVar[str] = "token-classification"
    heads: ClassVar[tuple[str, ...]] = ("ForTokenClassification",)
    input_names: ClassVar[tuple[str, ...]] = ("bbox",)
    token_label_names: ClassVar[tuple[str, ...]] = ("labels",)
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = TOKENS
    usual_labels: ClassVar[tuple[str, ...]] = TAGS
    label_form: ClassVar[str] = "list with the name or number of a class for each word"

    classes: tuple[str, ...]
    boxes: bool = False

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read the class names, and whether the model reads boxes."""
        return cls(classes=class_names(config), boxes=reads_boxes(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode words, with their labels at their first tokens.

        A column of boxes, one ``[left, top, right, bottom]`` from 0 to 1000 per word, becomes the input ``bbox`` of models that
        read the layout of a page.
        """
        if not tokenizer.is_fast:
            raise DataError("Token classification needs a fast tokenizer, which maps tokens to words.")
        (name,) = text_columns(data, columns, self.usual_inputs)
        sentences = [words_of(row, value, name) for row, value in enumerate(data[name])]
        samples, places = encode_words(data, tokenizer, sentences, max_length, boxes=self.boxes)
        column = label_column(data, columns, self.usual_labels)
        tags = self._tags(data, column, sentences)
        for sample, words, classes in zip(samples, places, tags or [], strict=False):
            sample["labels"] = _at_first_tokens(classes, words)
        return samples

    def _tags(self, data: Dataset, column: str | None, sentences: Sequence[Sequence[str]]) -> list[list[int]] | None:
        """The class of each word: [rows][words]; None without labels."""
        tags = read_labels(data, column)
        if tags is None or column is None:
            return None
        tags = [as_list(value) for value in tags]
        for row, (value, words) in enumerate(zip(tags, sentences, strict=True)):
            if not isinstance(value, list) or len(value) != len(words):
                raise RowError(row, f"it has {len(words)} words and the labels {value!r}; give one label per word.")
        read = ClassReader.of(data, column, self.classes, [tag for row in tags for tag in row])
        return [[in_row(row, read, tag) for tag in value] for row, value in enumerate(tags)]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross-entropy of the labelled tokens, summed over each sample: [samples]."""
        return categorical_loss(outputs.logits, batch["labels"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw classes at the labelled tokens (without labels, at all but padding): [samples, tokens], -100 elsewhere."""
        where = batch["labels"] != NO_LABEL if "labels" in batch else token_mask(batch)
        return {"labels": draw_at(outputs.logits, where, generator)}

    def divergence(self, dense: Any, pruned: Any, batch: Batch) -> Tensor:
        """Kullback-Leibler divergence of the classes' distributions, at all tokens but padding: [samples]."""
        return categorical_divergence(dense.logits, pruned.logits, token_mask(batch))

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Accuracy over the labelled words, and F1: of entities for tags such as ``B-PER``, else macro-averaged over the classes.

        Words that are cut off count for nothing.
        """
        from torchmetrics.functional import classification as measures  # imported here because it takes seconds

        pairs = []
        sentences: list[tuple[list[str], list[str]]] = []
        for outputs, batch in results:
            labels = labels_of(batch)
            labelled = labels != NO_LABEL
            decided = outputs.logits.argmax(-1)
            pairs.append((decided[labelled], labels[labelled]))
            for found, known, words in zip(decided, labels, labelled, strict=True):
                sentences.append((self._names(found[words]), self._names(known[words])))
        predicted = torch.cat([prediction for prediction, _ in pairs])  # [words]
        expected = torch.cat([label for _, label in pairs])  # [words]
        count = len(self.classes)
        accuracy = float(measures.multiclass_accuracy(predicted, expected, count, average="micro"))
        if not marks_entities(self.classes):
            return {"accuracy": accuracy, "f1": float(measures.multiclass_f1_score(predicted, expected, count))}
        return {**entity_scores(*zip(*sentences, strict=True)), "accuracy": accuracy}

    def _names(self, numbers: Tensor) -> list[str]:
        """Class names for class numbers: [words]."""
        return [self.classes[number] for number in numbers.tolist()]

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
