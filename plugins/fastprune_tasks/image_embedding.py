"""Embeddings of pictures: a vector a picture, compared by cosine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fastprune import Batch, Columns, DataError, Sample, label_column
from fastprune_tasks.embedding import Embedding
from fastprune_tasks.labels import LABELS, read_labels
from fastprune_tasks.pictures import encode_pictures

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageEmbedding(Embedding):
    """A vector for each picture: the model's own, or the mean of the last hidden states of its patches."""

    name: ClassVar[str] = "image-embedding"
    heads: ClassVar[tuple[str, ...]] = ("Model", "VisionModelWithProjection")

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Plain encoders of pictures, and those that project them."""
        return class_name.endswith(cls.heads) and hasattr(config, "image_size")

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Pictures, as the image processor makes tensors of them, with their ``class`` where there is one.

        Args:
            data: With a column of pictures.
            tokenizer: The image processor, or a processor that holds it.
            columns: ``text`` names the column of pictures, where it has no usual name.
            max_length: Not used.
            seed: Not used.
        """
        samples = encode_pictures(data, columns.text, tokenizer)
        for sample, label in zip(samples, read_labels(data, label_column(data, columns, LABELS)) or [], strict=False):
            sample["class"] = label
        return samples

    def real(self, outputs: Any, batch: Batch) -> Tensor:
        """Every patch counts: [samples, tokens]."""
        return torch.ones_like(outputs.last_hidden_state[..., 0], dtype=torch.bool)

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """The share of pictures whose nearest other picture, by cosine, is of the same class."""
        if not samples or "class" not in samples[0]:
            raise DataError("Metrics of pictures' embeddings need their classes; name the label column.")
        pairs = [(batch["sample"], self.embed(outputs, batch)) for outputs, batch in results]
        vectors = torch.cat([vectors for _, vectors in pairs])  # [samples, hidden]
        vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
        classes = [samples[index]["class"] for index in torch.cat([order for order, _ in pairs]).tolist()]
        nearest = (vectors @ vectors.T).fill_diagonal_(-torch.inf).argmax(1).tolist()
        same = [classes[row] == classes[other] for row, other in enumerate(nearest)]
        return {"nearest_neighbour_accuracy": sum(same) / len(same)}
