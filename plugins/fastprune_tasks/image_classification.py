"""Image classification: one or several classes per image."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from fastprune import Columns
from fastprune.data import Sample
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.pictures import PICTURE_COLUMNS, encode_pictures

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageClassification(SequenceClassification):
    """One class per image, or with ``multi_label`` any number of classes."""

    name: ClassVar[str] = "image-classification"
    heads: ClassVar[tuple[str, ...]] = ("ForImageClassification",)
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = PICTURE_COLUMNS

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode images with the image processor as [channels, height, width], and labels as class numbers.

        Args:
            data: Has a column of images.
            tokenizer: The image processor.
            columns: ``text`` names the column of images [default: the first usual name].
            max_length: Not used.
            seed: Not used.
        """
        return self.labelled(encode_pictures(data, columns.text, tokenizer), data, columns)
