"""Causal language modelling: predicting the next token."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fastprune import Columns
from fastprune.data import NO_LABEL, Batch, Sample, Task, token_mask
from fastprune.errors import OptionError
from fastprune_tasks.labels import labels_of
from fastprune_tasks.likelihood import categorical_divergence, categorical_loss, draw_at
from fastprune_tasks.texts import SINGLES
from fastprune_tasks.windows import CHATS, packed_tokens, sliding_windows, windows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM(Task):
    """Next-token prediction on texts and chats cut into windows of equal length. The labels are the text itself.

    Attributes:
        sliding: Windows for evaluation: they slide over the whole text, and each token is scored once at most.
        stride: Tokens from one of these windows to the next; None: the length of a window, so that none overlap.
    """

    sliding: bool = False
    stride: int | None = None

    name: ClassVar[str] = "causal-lm"
    heads: ClassVar[tuple[str, ...]] = ("ForCausalLM", "LMHeadModel")
    token_label_names: ClassVar[tuple[str, ...]] = ("labels",)
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"perplexity"})
    running_text: ClassVar[bool] = True
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = (*SINGLES, *CHATS)
    label_form: ClassVar[str] = "the text itself"
    usual_samples: ClassVar[int] = 128
    usual_tokens: ClassVar[int | None] = 4096

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Causal models; ``XLMWithLMHeadModel`` has the setting ``causal`` in its configuration."""
        return super().serves(config, class_name) and bool(getattr(config, "causal", True))

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Needs nothing from the configuration."""
        return cls()

    def for_evaluation(self, *, stride: int | None = None) -> Self:
        """The task with sliding windows [stride: the length of a window]."""
        if stride is not None and stride < 1:
            raise OptionError(f"stride takes an integer, 1 or more; got {stride}.")
        return dataclasses.replace(self, sliding=True, stride=stride)

    def conditions(self, longest: int) -> dict[str, int]:
        """The tokens of a window and those from one window to the next: a perplexity depends on both."""
        return {"context": longest, "stride": min(longest, self.stride or longest)}

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Pack all rows into one sequence of tokens (``packed_tokens``) and cut it into windows of ``max_length`` tokens.

        Each window starts with the tokenizer's BOS token, if it adds one. The last, shorter window is left out if the tokenizer has
        no padding token and there are others. Sliding windows (``sliding_windows``) have a label at each token that they score.
        """
        ids = packed_tokens(data, tokenizer, columns)
        if self.sliding:
            return [
                {
                    "input_ids": window,
                    "attention_mask": [1] * len(window),
                    "labels": [NO_LABEL] * (len(window) - new) + window[len(window) - new :],
                }
                for window, new in sliding_windows(ids, tokenizer, max_length, self.stride or max_length)
            ]
        found = windows(ids, tokenizer, max_length)
        if len(found) > 1 and tokenizer.pad_token_id is None and len(found[-1]) < max_length:
            found.pop()
        return [
            {"input_ids": window, "attention_mask": [1] * len(window), "labels": list(window)}
            for window in found
            if len(window) > 1
        ]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross-entropy of the next tokens, summed over each sample: [samples]."""
        return categorical_loss(outputs.logits[:, :-1], _next(batch, labels_of(batch)))

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw next tokens from the softmax wherever the next token is not padding: [samples, tokens], -100 elsewhere."""
        mask = token_mask(batch)
        drawn = draw_at(outputs.logits[:, :-1], mask[:, :-1] & mask[:, 1:], generator)  # [samples, tokens - 1]
        return {"labels": torch.cat([torch.full_like(drawn[:, :1], NO_LABEL), drawn], 1)}

    def divergence(self, dense: Any, pruned: Any, batch: Batch) -> Tensor:
        """Kullback-Leibler divergence of the next tokens' distributions, at all tokens but padding: [samples]."""
        return categorical_divergence(dense.logits, pruned.logits, token_mask(batch))

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Perplexity: exp of the mean loss per next token."""
        total, tokens = 0.0, 0
        for outputs, batch in results:
            total += float(self.loss(outputs, batch).double().sum())
            tokens += int((_next(batch, labels_of(batch)) != NO_LABEL).sum())
        return {"perplexity": math.exp(total / tokens)}

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Agreement of the most likely next tokens, at all tokens but padding."""
        same = [
            (one.logits.argmax(-1) == other.logits.argmax(-1))[token_mask(batch)]
            for one, other, batch in zip(teacher, student, batches, strict=True)
        ]
        return {"agreement": float(torch.cat(same).float().mean())}


def _next(batch: Batch, labels: Tensor) -> Tensor:
    """Shift the labels by one token, with -100 at padding: [samples, tokens] -> [samples, tokens - 1]."""
    return labels[:, 1:].masked_fill(~token_mask(batch)[:, :-1], NO_LABEL)
