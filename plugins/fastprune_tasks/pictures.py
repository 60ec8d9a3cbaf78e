"""Images: reading them from a column and encoding them with the model's image processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastprune.data import Sample, part_of
from fastprune.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

PICTURES = ("image", "img", "picture", "pixel_values")


def encode_pictures(data: Dataset, columns: tuple[str, ...], processor: Any) -> list[Sample]:
    """Encode each row's image as a tensor [channels, height, width].

    Args:
        data: Has a column of images.
        columns: Column names; the first is that of the images. Empty: the first usual name in the data.
        processor: The image processor, or a processor that contains it.

    Raises:
        DataError: The data has no such column.
    """
    name = columns[0] if columns else next((each for each in PICTURES if each in data.column_names), None)
    if name not in data.column_names:
        raise DataError(f"The data has no column of images; its columns are {', '.join(data.column_names)}.")
    process = part_of(processor, "image_processor")
    samples: list[Sample] = []
    for picture in data[name]:
        colours = picture.convert("RGB") if hasattr(picture, "convert") else picture
        samples.append({"pixel_values": process(colours, return_tensors="pt")["pixel_values"][0]})
    return samples
