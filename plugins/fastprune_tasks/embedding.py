"""Text embeddings: one vector per text, compared by cosine similarity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune import Columns
from fastprune.data import Batch, Sample, Task, label_column, text_columns, token_mask
from fastprune.errors import DataError
from fastprune_tasks.labels import SCORES, numbers, read_labels
from fastprune_tasks.likelihood import draw_gaussian, full_precision, gaussian_loss
from fastprune_tasks.regression import correlations
from fastprune_tasks.texts import PAIRS, SINGLES, texts_of, tokenized

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

SENSES = ("vision_config", "image_size", "conv_kernel", "num_mel_bins")
"""Settings of configurations for image, waveform and spectrogram inputs."""
PROJECTED = ("text_embeds", "image_embeds")
"""Outputs of models that compute the embedding themselves; for other models, hidden states are pooled."""
COMPARED = 1_000
"""Maximum number of samples whose pairs are compared; the number of pairs grows with its square."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding(Task):
    """One vector per text, pooled from the last hidden states of an encoder without a head.

    Attributes:
        pooling: Pooling over the tokens without padding: their mean, the first (cls), the maximum, or the last token.
        normalize: Scale the vectors to length 1.
    """

    name: ClassVar[str] = "embedding"
    heads: ClassVar[tuple[str, ...]] = ("Model", "TextModelWithProjection")
    metrics_of_samples: ClassVar[bool] = True

    pooling: Literal["mean", "cls", "max", "lasttoken"] = "mean"
    normalize: bool = True

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Text encoders without a head; names such as ``GPT2LMHeadModel`` also end in ``Model`` but have one."""
        texts = not any(hasattr(config, name) for name in SENSES)
        return super().serves(config, class_name) and texts and not class_name.endswith(("HeadModel", "HeadsModel"))

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Use the default pooling; a configuration does not contain one."""
        return cls()

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode each text of a row as a separate sample, with ``row``, ``side`` and, if the data has one, ``score``."""
        names = text_columns(data, columns, (*PAIRS, *SINGLES))
        column = label_column(data, columns, SCORES) if len(names) == 2 else None
        labels = read_labels(data, column)
        scores = None if labels is None else numbers(str(column), labels)
        samples = []
        for side, name in enumerate(names):
            for row, sample in enumerate(tokenized(tokenizer, [texts_of(data, name)], max_length)):
                score = {} if scores is None else {"score": scores[row]}
                samples.append(sample | {"row": row, "side": side} | score)
        return samples

    def embed(self, outputs: Any, batch: Batch) -> Tensor:
        """The vectors of a batch, [samples, hidden]; differentiable."""
        projected = next((value for name in PROJECTED if (value := getattr(outputs, name, None)) is not None), None)
        vectors = full_precision(projected) if projected is not None else self._pooled(outputs, batch)
        return F.normalize(vectors, dim=1) if self.normalize else vectors

    def real(self, outputs: Any, batch: Batch) -> Tensor:
        """Mask of the last hidden states to pool over: [samples, tokens], bool."""
        return token_mask(batch)

    def _pooled(self, outputs: Any, batch: Batch) -> Tensor:
        """Pool the last hidden states of each sample: [samples, hidden]."""
        states = full_precision(outputs.last_hidden_state)  # [samples, tokens, hidden]
        mask = self.real(outputs, batch)
        if self.pooling == "mean":
            weights = mask.to(states.dtype)
            return torch.einsum("sth,st->sh", states, weights) / weights.sum(1, keepdim=True).clamp(min=1)
        if self.pooling == "max":
            return states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
        if self.pooling == "lasttoken":
            states, mask = states.flip(1), mask.flip(1)
        first = mask.int().argmax(1)  # [samples], the first token behind padding on the left
        return states[torch.arange(len(states), device=states.device), first]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Half the squared distance to the vectors in ``labels``, [samples]."""
        return gaussian_loss(self.embed(outputs, batch), batch["labels"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The vectors plus unit Gaussian noise, [samples, hidden]."""
        return {"labels": draw_gaussian(self.embed(outputs, batch), generator)}

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Pearson's and Spearman's correlation of the pairs' cosine similarities with their scores."""
        pairs: dict[int, dict[int, int]] = {}
        for index, sample in enumerate(samples):
            if "score" not in sample:
                raise DataError(
                    "Metrics of embeddings need pairs of texts with scores; name two text columns and a label column."
                )
            pairs.setdefault(sample["row"], {})[sample["side"]] = index
        if not pairs:
            raise DataError("Metrics of embeddings need the encoded samples with their pairing; use make_batches.")
        order, vectors = [], []
        for outputs, batch in results:
            order.append(batch["sample"])
            vectors.append(self.embed(outputs, batch))
        embedded = torch.cat(vectors)[torch.cat(order).argsort()]  # [samples, hidden], in the order of samples
        left = torch.tensor([pair[0] for pair in pairs.values()])  # [pairs]
        right = torch.tensor([pair[1] for pair in pairs.values()])
        scores = torch.tensor([samples[index]["score"] for index in left.tolist()]).to(embedded)
        return correlations(F.cosine_similarity(embedded[left], embedded[right]), scores)

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Mean cosine of the two models' vectors, and Spearman's correlation of their cosines of all pairs of texts.

        At most 1,000 texts are paired.
        """
        from torchmetrics.functional.regression import spearman_corrcoef  # imported here because it takes seconds

        one, other = [], []
        for left, right, batch in zip(teacher, student, batches, strict=True):
            one.append(self.embed(left, batch))
            other.append(self.embed(right, batch))
        ones, others = torch.cat(one), torch.cat(other)  # [samples, hidden]
        return {
            "cosine": float(F.cosine_similarity(ones, others).mean()),
            "spearman": float(spearman_corrcoef(_cosines(ones), _cosines(others))),
        }


def _cosines(vectors: Tensor) -> Tensor:
    """Cosine similarities of all pairs of at most 1,000 samples: [samples, hidden] -> [pairs]."""
    from torchmetrics.functional import pairwise_cosine_similarity  # imported here because it takes seconds

    # batches are sorted by length; evenly spaced samples compare short texts with long ones
    chosen = torch.linspace(0, len(vectors) - 1, min(COMPARED, len(vectors))).long()
    table = pairwise_cosine_similarity(vectors[chosen])  # [samples, samples]
    rows, columns = torch.triu_indices(len(table), len(table), offset=1)
    return table[rows, columns]
