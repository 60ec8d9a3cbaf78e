"""Masked language modelling: predicting masked tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fastprune import Columns
from fastprune.data import NO_LABEL, Batch, Sample, Task, token_mask
from fastprune.errors import DataError
from fastprune_tasks.boxes import reads_boxes
from fastprune_tasks.labels import labels_of
from fastprune_tasks.likelihood import categorical_divergence, categorical_loss, draw_at
from fastprune_tasks.texts import PAIRS, SINGLES, encode_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

MASKED_SHARE = 0.15


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(Task):
    """Masked-token prediction as in BERT's training.

    15 % of the tokens are labelled; of these, 80 % are masked, 10 % replaced by random tokens and 10 % kept. The labels come
    from the text itself, so every encoded sample has them.

    Attributes:
        boxes: The model reads the place of each word on the page.
    """

    name: ClassVar[str] = "masked-lm"
    heads: ClassVar[tuple[str, ...]] = ("ForMaskedLM", "WithLMHeadModel")
    input_names: ClassVar[tuple[str, ...]] = ("bbox",)
    token_label_names: ClassVar[tuple[str, ...]] = ("labels",)
    label_form: ClassVar[str] = "the text itself"
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = (*PAIRS, *SINGLES)
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"perplexity"})

    boxes: bool = False

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Bidirectional models; ``XLMWithLMHeadModel`` has the setting ``causal`` in its configuration."""
        return super().serves(config, class_name) and not getattr(config, "causal", class_name.endswith("HeadModel"))

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read whether the model reads boxes."""
        return cls(boxes=reads_boxes(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode texts with masked tokens; ``labels`` has the original tokens, -100 elsewhere. Empty texts are left out."""
        if tokenizer.mask_token_id is None:
            raise DataError("Masked language modelling needs a tokenizer with a mask token.")
        generator = torch.Generator().manual_seed(seed)
        samples = encode_texts(data, tokenizer, columns=columns, max_length=max_length, boxes=self.boxes)
        special = set(tokenizer.all_special_ids)
        masked = []
        for sample in samples:
            words = [at for at, token in enumerate(sample["input_ids"]) if token not in special]
            if words:
                masked.append(sample | _mask_tokens(sample["input_ids"], words, tokenizer, generator))
        return masked

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross-entropy of the labelled tokens, summed over each sample: [samples]."""
        return categorical_loss(outputs.logits, batch["labels"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw tokens at the labelled positions (without labels, at all but padding): [samples, tokens], -100 elsewhere."""
        return {"labels": draw_at(outputs.logits, _compared(batch), generator)}

    def divergence(self, dense: Any, pruned: Any, batch: Batch) -> Tensor:
        """Kullback-Leibler divergence at the labelled tokens (without labels, at all but padding): [samples]."""
        return categorical_divergence(dense.logits, pruned.logits, _compared(batch))

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Accuracy and pseudo-perplexity (exp of the mean loss) over the labelled tokens."""
        from torchmetrics.functional.classification import multiclass_accuracy  # imported here because it takes seconds

        total = 0.0
        predicted, expected = [], []
        classes = 0
        for outputs, batch in results:
            labels = labels_of(batch)
            labelled = labels != NO_LABEL
            total += float(categorical_loss(outputs.logits, labels).sum())
            predicted.append(outputs.logits[labelled].argmax(-1))
            expected.append(labels[labelled])
            classes = outputs.logits.shape[-1]
        tokens = torch.cat(expected)  # [tokens]
        accuracy = multiclass_accuracy(torch.cat(predicted), tokens, classes, average="micro")
        return {"accuracy": float(accuracy), "perplexity": math.exp(total / len(tokens))}

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Agreement of the most likely tokens at the labelled tokens (without labels, at all but padding)."""
        same = []
        for one, other, batch in zip(teacher, student, batches, strict=True):
            same.append((one.logits.argmax(-1) == other.logits.argmax(-1))[_compared(batch)])
        return {"agreement": float(torch.cat(same).float().mean())}


def _compared(batch: Batch) -> Tensor:
    """Mask of the labelled tokens; without labels, of all but padding: [samples, tokens]."""
    return batch["labels"] != NO_LABEL if "labels" in batch else token_mask(batch)


def _mask_tokens(
    ids: Sequence[int], words: Sequence[int], tokenizer: PreTrainedTokenizerBase, generator: torch.Generator
) -> Sample:
    """New ``input_ids`` and ``labels``, each [tokens]; at least one token is labelled, as in BERT's code."""
    count = max(1, round(MASKED_SHARE * len(words)))
    input_ids, labels = list(ids), [NO_LABEL] * len(ids)
    chosen = torch.randperm(len(words), generator=generator)[:count].tolist()
    draws = torch.rand(count, generator=generator).tolist()
    replacements = torch.randint(len(tokenizer), (count,), generator=generator).tolist()
    for choice, draw, replacement in zip(chosen, draws, replacements, strict=True):
        at = words[choice]
        labels[at] = ids[at]
        if draw < 0.8:
            input_ids[at] = tokenizer.mask_token_id
        elif draw < 0.9:
            input_ids[at] = replacement
    return {"input_ids": input_ids, "labels": labels}
