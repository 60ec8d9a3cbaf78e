"""Pictures: those of a column, as the model's image processor takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastprune import DataError, Sample, part_of

if TYPE_CHECKING:
    from datasets import Dataset

PICTURES = ("image", "img", "picture", "pixel_values")


def encode_pictures(data: Dataset, asked: tuple[str, ...], processor: Any) -> list[Sample]:
    """Each row's picture as a tensor [channels, height, width].

    Args:
        data: With a column of pictures.
        asked: Its name; none: the first usual one.
        processor: The image processor, or a processor that holds it.

    Raises:
        DataError: There is no such column.
    """
    name = asked[0] if asked else next((each for each in PICTURES if each in data.column_names), None)
    if name not in data.column_names:
        raise DataError(f"There is no column of pictures; the data has {', '.join(data.column_names)}.")
    process = part_of(processor, "image_processor")
    samples: list[Sample] = []
    for picture in data[name]:
        colours = picture.convert("RGB") if hasattr(picture, "convert") else picture
        samples.append({"pixel_values": process(colours, return_tensors="pt")["pixel_values"][0]})
    return samples
