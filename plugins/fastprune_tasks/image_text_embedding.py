"""Embeddings of images and texts in one space, for retrieval between them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fastprune import Columns
from fastprune.data import CUT, Batch, Sample, Task, text_columns, tokenizer_of
from fastprune.errors import ModelError
from fastprune_tasks.likelihood import draw_gaussian, full_precision, gaussian_loss
from fastprune_tasks.pictures import PICTURES, encode_pictures
from fastprune_tasks.similarity import nearest
from fastprune_tasks.texts import texts_of, tokenized

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

CAPTIONS = (("text",), ("caption",), ("sentence",))
SIDES = ("text_embeds", "image_embeds")
TOPS = (1, 5, 10)
"""Numbers of nearest pictures or texts in the figures of recall."""


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
        """Recall at 1, 5 and 10 over the whole data set: from pictures to texts (``text_recall@1``) and back (``image_recall@1``).

        Equal pictures count once, and so do equal texts: a picture may have several texts, in a row each. At 5 and 10 only if there
        is more to choose from.
        """
        texts, pictures = _Found(), _Found()
        for outputs, batch in results:
            texts.read(_vectors(outputs, SIDES[0]), _rows_of(batch, "input_ids"))
            pictures.read(_vectors(outputs, SIDES[1]), _rows_of(batch, "pixel_values"))
        pairs = torch.tensor([pictures.places, texts.places])  # [2, rows]
        sides = {"text": _recalls(pictures, texts, pairs), "image": _recalls(texts, pictures, pairs.flip(0))}
        return {f"{side}_recall@{top}": each[top] for top in TOPS for side, each in sides.items() if top in each}

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


class _Found:
    """The distinct pictures or texts of a data set.

    Attributes:
        places: The place of each row's picture or text among the distinct ones.
    """

    def __init__(self) -> None:
        self.places: list[int] = []
        self._known: dict[bytes, int] = {}
        self._vectors: list[Tensor] = []

    def read(self, vectors: Tensor, inputs: Iterable[bytes]) -> None:
        """Add the vectors of a batch, [samples, hidden], and what was encoded."""
        for vector, key in zip(vectors.cpu(), inputs, strict=True):
            if key not in self._known:
                self._known[key] = len(self._known)
                self._vectors.append(vector)
            self.places.append(self._known[key])

    @property
    def vectors(self) -> Tensor:
        """One vector for each distinct picture or text: [distinct, hidden]."""
        return torch.stack(self._vectors)


def _rows_of(batch: Batch, name: str) -> Iterator[bytes]:
    """A digest of each sample's pixels or tokens, without padding."""
    kept = batch.get("attention_mask") if name == "input_ids" else None
    for row, values in enumerate(batch[name]):
        chosen = values if kept is None else values[kept[row].bool()]
        yield hashlib.blake2b(chosen.contiguous().cpu().view(torch.uint8).numpy().tobytes(), digest_size=16).digest()


def _recalls(asked: _Found, answers: _Found, pairs: Tensor) -> dict[int, float]:
    """Share of the pictures (texts) with one of their texts (pictures) among the nearest, by the number of these.

    Args:
        asked: Distinct pictures or texts.
        answers: The others, among which neighbours are found.
        pairs: Which belong together: places in ``asked`` and in ``answers``, [2, rows].
    """
    found = nearest(asked.vectors, answers.vectors, max(TOPS))  # [asked, neighbours]
    size = len(answers.vectors)
    right = torch.isin(torch.arange(len(found))[:, None] * size + found, pairs[0] * size + pairs[1])
    return {top: float(right[:, :top].any(1).float().mean()) for top in TOPS if top == 1 or top < size}


def _vectors(outputs: Any, side: str) -> Tensor:
    """The text or image vectors, scaled to length 1: [samples, hidden]."""
    return F.normalize(full_precision(getattr(outputs, side)), dim=1)
