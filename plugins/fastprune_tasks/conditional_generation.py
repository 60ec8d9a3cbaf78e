"""Conditional generation: a target text for a source text, as in summarisation and translation."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fastprune import Columns
from fastprune.data import CUT, NO_LABEL, Batch, Sample, Task, label_column, marked_tokens, text_columns
from fastprune.errors import DataError
from fastprune_tasks.labels import labels_of
from fastprune_tasks.likelihood import categorical_divergence, categorical_loss, draw_at
from fastprune_tasks.texts import SINGLES, texts_of, tokenized

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

SOURCES = (("article",), ("dialogue",), ("source",), ("src",), ("input",), ("inputs",), ("question",), *SINGLES)
TARGETS = ("summary", "highlights", "target", "targets", "tgt", "output", "answer", "translation", "label")
PAIRED = (("source", "target"), ("src", "tgt"), ("input", "output"))
"""Usual names of source and target together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionalGeneration(Task):
    """Generate a target text for each source text with an encoder-decoder, under teacher forcing.

    Attributes:
        start: The decoder's start token; None: the last token of the target, as in mBART.
    """

    name: ClassVar[str] = "conditional-generation"
    heads: ClassVar[tuple[str, ...]] = ("ForConditionalGeneration", "MTModel")
    input_names: ClassVar[tuple[str, ...]] = ("decoder_input_ids", "decoder_attention_mask")
    token_label_names: ClassVar[tuple[str, ...]] = ("labels",)
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"perplexity"})
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = SOURCES
    usual_labels: ClassVar[tuple[str, ...]] = TARGETS
    label_form: ClassVar[str] = "target text"

    start: int | None

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Encoder-decoders of text; no speech encoders and no decoders with image inputs."""
        reads = not hasattr(config, "num_mel_bins")
        return super().serves(config, class_name) and bool(config.is_encoder_decoder) and reads

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read the decoder's start token, or the padding token, which T5 starts with; none if the class wraps the last token."""
        if _wraps(config):
            return cls(start=None)
        first = getattr(config, "decoder_start_token_id", None)
        return cls(start=int(getattr(config, "pad_token_id", None) or 0) if first is None else int(first))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode the source and target of each row, both truncated to ``max_length`` tokens.

        The decoder's inputs are the target shifted right by one token. The target is the second text column if one is named,
        else the label column.
        """
        source, *more = text_columns(data, columns, (*self.usual_inputs, *PAIRED))
        target = more[0] if more else label_column(data, columns, self.usual_labels)
        if target is None:
            raise DataError(
                f"Conditional generation needs a source and a target text; the data has {', '.join(data.column_names)}. "
                "Name two text columns (--text-columns), or the target as the label column (--label-column)."
            )
        sources = tokenized(tokenizer, [texts_of(data, source)], max_length)
        targets = tokenized(tokenizer, [texts_of(data, target)], max_length, target=True)
        samples = []
        for sample, expected in zip(sources, targets, strict=True):
            inputs = {name: sample[name] for name in tokenizer.model_input_names if name in sample}
            samples.append(inputs | decoded(expected["input_ids"], self.start) | _cut(sample, expected))
        return samples

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross-entropy of the target's tokens, summed over each sample: [samples]."""
        return categorical_loss(outputs.logits, batch["labels"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw tokens from the softmax at the decoder's tokens: [samples, tokens], -100 at padding."""
        return {"labels": draw_at(outputs.logits, _real(batch), generator)}

    def divergence(self, dense: Any, pruned: Any, batch: Batch) -> Tensor:
        """Kullback-Leibler divergence of the next tokens' distributions, at all of the decoder's tokens but padding: [samples]."""
        return categorical_divergence(dense.logits, pruned.logits, _real(batch))

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Perplexity and accuracy of the target's tokens, each predicted from the true tokens before it (teacher forcing)."""
        total, tokens, right = 0.0, 0, 0
        for outputs, batch in results:
            labels = labels_of(batch)
            labelled = labels != NO_LABEL
            total += float(categorical_loss(outputs.logits, labels).double().sum())
            tokens += int(labelled.sum())
            right += int((outputs.logits.argmax(-1) == labels)[labelled].sum())
        return {"perplexity": math.exp(total / tokens), "token_accuracy": right / tokens}

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Agreement of the most likely next tokens, at all of the decoder's tokens but padding."""
        same = [
            (one.logits.argmax(-1) == other.logits.argmax(-1))[_real(batch)]
            for one, other, batch in zip(teacher, student, batches, strict=True)
        ]
        return {"agreement": float(torch.cat(same).float().mean())}


def decoded(labels: Sequence[int], start: int | None) -> Sample:
    """The decoder's inputs and the labels of a text.

    Args:
        labels: The tokens of the text.
        start: First token of the decoder, in front of ``labels`` without their last one; None: that last token.
    """
    first = labels[-1] if start is None else start
    inputs = {"decoder_input_ids": [first, *labels[:-1]], "decoder_attention_mask": [1] * len(labels)}
    return {**inputs, "labels": list(labels)}


def _wraps(config: PretrainedConfig) -> bool:
    """Whether the decoder of a model class starts with the last token of its text, such as the language in mBART.

    The function that shifts labels in the class's module then takes no start token.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING as CLASSES

    model_class = CLASSES.get(type(config), None)
    shift = model_class and getattr(inspect.getmodule(model_class), "shift_tokens_right", None)
    return shift is not None and "decoder_start_token_id" not in inspect.signature(shift).parameters


def _cut(*parts: Sample) -> Sample:
    """What was cut off source and target together."""
    cut = sum((Counter(part.get(CUT, {})) for part in parts), Counter[str]())
    return {CUT: dict(cut)} if cut else {}


def _real(batch: Batch) -> Tensor:
    """Mask of the decoder's tokens without padding: [samples, tokens], bool."""
    mask = marked_tokens(batch, "decoder_attention_mask")
    return torch.ones_like(batch["decoder_input_ids"]).bool() if mask is None else mask
