"""Embeddings of images: one vector per image, compared by cosine similarity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fastprune import Columns
from fastprune.data import Batch, Sample, label_column
from fastprune.errors import DataError
from fastprune_tasks.embedding import Embedding
from fastprune_tasks.labels import LABELS, read_labels
from fastprune_tasks.pictures import PICTURE_COLUMNS, encode_pictures
from fastprune_tasks.similarity import nearest

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageEmbedding(Embedding):
    """One vector per image: the model's projected embedding, or the mean over the patches of the last hidden states."""

    name: ClassVar[str] = "image-embedding"
    heads: ClassVar[tuple[str, ...]] = ("Model", "VisionModelWithProjection")
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = PICTURE_COLUMNS
    usual_labels: ClassVar[tuple[str, ...]] = LABELS
    label_form: ClassVar[str] = "class, any value"

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Image encoders without a head, and vision models with a projection."""
        return class_name.endswith(cls.heads) and hasattr(config, "image_size")

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode images with the image processor; a label, if the data has one, becomes the sample's ``class``.

        Args:
            data: Has a column of images.
            tokenizer: The image processor, or a processor that contains it.
            columns: ``text`` names the column of images [default: the first usual name].
            max_length: Not used.
            seed: Not used.
        """
        samples = encode_pictures(data, columns.text, tokenizer)
        for sample, label in zip(samples, read_labels(data, label_column(data, columns, LABELS)) or [], strict=False):
            sample["class"] = label
        return samples

    def real(self, outputs: Any, batch: Batch) -> Tensor:
        """All patches are pooled, images have no padding: [samples, tokens], bool."""
        return torch.ones_like(outputs.last_hidden_state[..., 0], dtype=torch.bool)

    def missing(self, samples: Sequence[Mapping[str, Any]]) -> str:
        """What the metrics need: classes."""
        if len(samples) > 1 and all("class" in sample for sample in samples):
            return ""
        return "Metrics of image and audio embeddings need two samples or more with classes; name the label column."

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Share of samples whose nearest neighbour by cosine similarity has the same class."""
        if self.missing(samples):
            raise DataError(self.missing(samples))
        pairs = [(batch["sample"], self.embed(outputs, batch)) for outputs, batch in results]
        vectors = torch.cat([vectors for _, vectors in pairs])  # [samples, hidden]
        classes = [samples[index]["class"] for index in torch.cat([order for order, _ in pairs]).tolist()]
        neighbours = nearest(vectors, vectors, 1, itself=False)[:, 0].tolist()
        same = [classes[row] == classes[other] for row, other in enumerate(neighbours)]
        return {"nearest_neighbour_accuracy": sum(same) / len(same)}
