"""Embeddings of pictures and texts in one space: which text goes with which picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune import Batch, Columns, ModelError, Sample, Task, text_columns, tokenizer_of
from fastprune_tasks.likelihood import draw_gaussian, full_precision, gaussian_loss
from fastprune_tasks.pictures import encode_pictures

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

CAPTIONS = (("text",), ("caption",), ("sentence",))
SIDES = ("text_embeds", "image_embeds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTextEmbedding(Task):
    """A vector for each picture and one for its text, each taken as the mean of a unit Gaussian.

    The contrastive loss that such models are trained with makes a sample's loss depend on the others of its batch, so that
    there is no gradient of one sample (METHOD 1); both towers' vectors are held where they are instead.

    Attributes:
        filled: To how many tokens every text is filled up, where the model reads its filling as well (SigLIP); 0: it does not.
    """

    name: ClassVar[str] = "image-text-embedding"
    heads: ClassVar[tuple[str, ...]] = ("Model",)
    label_names: ClassVar[tuple[str, ...]] = ("text_vectors", "image_vectors")
    metrics_of_samples: ClassVar[bool] = True

    filled: int = 0

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Models of two towers, which share no layers."""
        towers = all(hasattr(config, f"{part}_config") for part in ("text", "vision"))
        return class_name.endswith(("CLIPModel", "SiglipModel")) and towers

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """SigLIP's projections have sizes, and it pools the last position, filling or not."""
        text: Any = config.text_config
        return cls(filled=int(text.max_position_embeddings) if hasattr(text, "projection_size") else 0)

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Pictures, as the image processor makes tensors of them, and the tokens of their texts.

        Args:
            data: With a column of pictures and one of texts.
            tokenizer: The processor: an image processor and a tokenizer.
            columns: ``text`` names pictures and texts, or the pictures alone.
            max_length: Tokens of a text, at most.
            seed: Not used.
        """
        text: Any = tokenizer_of(tokenizer)
        if text is None:
            raise ModelError("Pictures with texts need the model's processor: an image processor and a tokenizer.")
        samples = encode_pictures(data, columns.text, tokenizer)
        (name,) = text_columns(data, Columns(text=columns.text[1:2]), CAPTIONS)
        options = {"padding": "max_length", "max_length": self.filled} if self.filled else {"max_length": max_length}
        encoded = text([str(each) for each in data[name]], truncation=True, **options)
        names = ["input_ids"] if self.filled else [each for each in text.model_input_names if each in encoded]
        for row, sample in enumerate(samples):
            sample |= {each: encoded[each][row] for each in names}
        return samples

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Half the squared distance of both vectors from those in the labels, [samples]."""
        texts, pictures = (_vectors(outputs, side) for side in SIDES)
        return gaussian_loss(texts, batch["text_vectors"]) + gaussian_loss(pictures, batch["image_vectors"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Both vectors plus unit Gaussian noise, [samples, hidden]."""
        return {
            name: draw_gaussian(_vectors(outputs, side), generator)
            for name, side in zip(self.label_names, SIDES, strict=True)
        }

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Recall at 1 over the whole set: how often the nearest text of a picture is its own, and the other way round."""
        texts, pictures = [], []
        for outputs, _ in results:
            texts.append(_vectors(outputs, SIDES[0]))
            pictures.append(_vectors(outputs, SIDES[1]))
        table = torch.cat(pictures) @ torch.cat(texts).T  # [pictures, texts]
        own = torch.arange(len(table), device=table.device)
        return {
            "text_recall": float((table.argmax(1) == own).float().mean()),
            "image_recall": float((table.argmax(0) == own).float().mean()),
        }

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """The mean cosine of the two models' vectors of texts and of pictures, and how often both choose the same text of a
        batch for a picture."""
        cosines: dict[str, list[Tensor]] = {side: [] for side in SIDES}
        same = []
        for one, other, _ in zip(teacher, student, batches, strict=True):
            for side in SIDES:
                cosines[side].append(F.cosine_similarity(_vectors(one, side), _vectors(other, side)))
            chosen = [(_vectors(each, SIDES[1]) @ _vectors(each, SIDES[0]).T).argmax(1) for each in (one, other)]
            same.append(chosen[0] == chosen[1])
        found = {f"{side.partition('_')[0]}_cosine": float(torch.cat(cosines[side]).mean()) for side in SIDES}
        return {**found, "agreement": float(torch.cat(same).float().mean())}


def _vectors(outputs: Any, side: str) -> Tensor:
    """The texts' or the pictures' vectors, of length 1: [samples, hidden]."""
    return F.normalize(full_precision(getattr(outputs, side)), dim=1)
