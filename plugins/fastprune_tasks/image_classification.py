"""Image classification: one class a picture, or several."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from fastprune import Columns, DataError, Sample
from fastprune_tasks.classification import SequenceClassification

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

PICTURES = ("image", "img", "picture", "pixel_values")


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
        name = columns.text[0] if columns.text else next((n for n in PICTURES if n in data.column_names), None)
        if name not in data.column_names:
            raise DataError(f"There is no column of pictures; the data has {', '.join(data.column_names)}.")
        process: Any = tokenizer
        samples: list[Sample] = []
        for picture in data[name]:
            colours = picture.convert("RGB") if hasattr(picture, "convert") else picture
            samples.append({"pixel_values": process(colours, return_tensors="pt")["pixel_values"][0]})
        return self.labelled(samples, data, columns)
