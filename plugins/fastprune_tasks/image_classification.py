"""Image classification: one class a picture, or several."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from fastprune import Columns, Sample
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.pictures import encode_pictures

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageClassification(SequenceClassification):
    """One class a picture, or with ``multi_label`` any number of them."""

    name: ClassVar[str] = "image-classification"
    heads: ClassVar[tuple[str, ...]] = ("ForImageClassification",)

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Pictures, as the model's image processor makes tensors [channels, height, width] of them, and class numbers.

        Args:
            data: With a column of pictures.
            tokenizer: The image processor.
            columns: ``text`` names the column of pictures, where it has no usual name.
            max_length: Not used.
            seed: Not used.
        """
        return self.labelled(encode_pictures(data, columns.text, tokenizer), data, columns)
