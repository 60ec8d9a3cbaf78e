"""Image classification: one class a picture, or several."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from fastprune import Columns, DataError, Sample, label_column
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.labels import LABELS, class_reader, read_labels

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
        column = label_column(data, columns, LABELS)
        labels = read_labels(data, column)
        read = class_reader(data, column, self.classes) if labels is not None and column else None
        samples: list[Sample] = []
        for row, picture in enumerate(data[name]):
            colours = picture.convert("RGB") if hasattr(picture, "convert") else picture
            samples.append({"pixel_values": process(colours, return_tensors="pt")["pixel_values"][0]})
            if labels is not None and read is not None:
                samples[-1]["labels"] = self._many_hot(labels[row], read) if self.multi_label else read(labels[row])
        return samples
