"""Embeddings of images and texts in one space, for retrieval between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune import Columns
from fastprune.data import CUT, Batch, Sample, Task, text_columns, tokenizer_of
from fastprune.errors import ModelError
from fastprune_tasks.likelihood import draw_gaussian, full_precision, gaussian_loss
from fastprune_tasks.pictures import PICTURES, encode_pictures
from fastprune_tasks.texts import texts_of, tokenized

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

CAPTIONS = (("text",), ("caption",), ("sentence",))
SIDES = ("text_embeds", "image_embeds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTextEmbedding(Task):
    """One vector per image and one per text, each the mean of a unit Gaussian.

    The contrastive loss these models are trained with couples the samples of a batch, so it has no per-sample gradients
    (docs/method.md, section 4.1). Instead, the loss is the squared distance of both vectors from the dense model's.

    Attributes:
        filled: Fixed length in tokens that every text is padded to, for models that read the padding (SigLIP); 0: not padded.
    """

    name: ClassVar[str] = "image-text-embedding"
    heads: ClassVar[tuple[str, ...]] = ("Model",)
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = tuple(
        (picture, caption) for picture in PICTURES for (caption,) in CAPTIONS
    )
    label_names: ClassVar[tuple[str, ...]] = ("text_vectors", "image_vectors")

    filled: int = 0

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """CLIP and SigLIP models with an image and a text tower."""
        towers = all(hasattr(config, f"{part}_config") for part in ("text", "vision"))
        return class_name.endswith(("CLIPModel", "SiglipModel")) and towers

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read the fixed text length of SigLIP (it has a ``projection_size``), which pools the last position even if padded."""
        text: Any = config.text_config
        return cls(filled=int(text.max_position_embeddings) if hasattr(text, "projection_size") else 0)

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode images with the image processor, and their texts as tokens.

        Args:
            data: Has a column of images and one of texts.
            tokenizer: The processor: an image processor and a tokenizer.
            columns: ``text`` names the columns of images and texts, or that of images only.
            max_length: Maximum number of tokens of a text.
            seed: Not used.
        """
        text: Any = tokenizer_of(tokenizer)
        if text is None:
            raise ModelError("Images with texts need the model's processor: an image processor and a tokenizer.")
        samples = encode_pictures(data, columns.text, tokenizer)
        (name,) = text_columns(data, Columns(text=columns.text[1:2]), CAPTIONS)
        texts = texts_of(data, name)
        spelt = tokenized(text, [texts], self.filled or max_length)
        fill = {"padding": "max_length", "max_length": self.filled, "truncation": True}
        names = ["input_ids"] if self.filled else [each for each in text.model_input_names if each in spelt[0]]
        encoded = text(texts, **fill)["input_ids"] if self.filled else []
        for row, (sample, short) in enumerate(zip(samples, spelt, strict=True)):
            sample |= {each: short[each] for each in (*names, CUT) if each in short}
            if self.filled:
                sample["input_ids"] = encoded[row]
        return samples

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Half the squared distance of both vectors to those in the labels, [samples]."""
        texts, pictures = (_vectors(outputs, side) for side in SIDES)
        return gaussian_loss(texts, batch["text_vectors"]) + gaussian_loss(pictures, batch["image_vectors"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Both vectors plus unit Gaussian noise, [samples, hidden]."""
        return {
            name: draw_gaussian(_vectors(outputs, side), generator)
            for name, side in zip(self.label_names, SIDES, strict=True)
        }

    def missing(self, samples: Sequence[Mapping[str, Any]]) -> str:
        """Nothing: each image belongs to its text."""
        return ""

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Recall at 1 over the whole data set, from image to text (``text_recall``) and from text to image (``image_recall``)."""
        texts, pictures = [], []
        for outputs, _ in results:
            texts.append(_vectors(outputs, SIDES[0]))
            pictures.append(_vectors(outputs, SIDES[1]))
        table = torch.cat(pictures) @ torch.cat(texts).T  # [images, texts]
        matching = torch.arange(len(table), device=table.device)
        return {
            "text_recall": float((table.argmax(1) == matching).float().mean()),
            "image_recall": float((table.argmax(0) == matching).float().mean()),
        }

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Mean cosine of the two models' text and image vectors, and agreement of the best text per image within a batch."""
        cosines: dict[str, list[Tensor]] = {side: [] for side in SIDES}
        same = []
        for one, other, _ in zip(teacher, student, batches, strict=True):
            for side in SIDES:
                cosines[side].append(F.cosine_similarity(_vectors(one, side), _vectors(other, side)))
            chosen = [(_vectors(each, SIDES[1]) @ _vectors(each, SIDES[0]).T).argmax(1) for each in (one, other)]
            same.append(chosen[0] == chosen[1])
        means = {f"{side.partition('_')[0]}_cosine": float(torch.cat(cosines[side]).mean()) for side in SIDES}
        return {**means, "agreement": float(torch.cat(same).float().mean())}


def _vectors(outputs: Any, side: str) -> Tensor:
    """The text or image vectors, scaled to length 1: [samples, hidden]."""
    return F.normalize(full_precision(getattr(outputs, side)), dim=1)
