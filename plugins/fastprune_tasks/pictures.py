"""Images: reading them from a column and encoding them with the model's image processor."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from fastprune import Columns
from fastprune.data import Later, Sample, label_column, part_of
from fastprune.errors import DataError, RowError

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

PICTURES = ("image", "img", "picture", "pixel_values")
KEPT = 4096
"""Number of images that are kept encoded, 2.5 GB at 224 x 224; of more, each is encoded whenever its batch is read."""
PICTURE_COLUMNS = tuple((name,) for name in PICTURES)


def encode_pictures(data: Dataset, columns: tuple[str, ...], processor: Any) -> list[Sample]:
    """Encode each row's image as a tensor [channels, height, width]; of many images, later (``Later``).

    Args:
        data: Has a column of images, or of paths of image files.
        columns: Column names; the first is that of the images. Empty: the first usual name in the data.
        processor: The image processor, or a processor that contains it.

    Raises:
        DataError: The data has no such column.
        RowError: A row has no image.
    """
    name = columns[0] if columns else label_column(data, Columns(), PICTURES)
    if name not in data.column_names:
        raise DataError(f"The data has no column of images; its columns are {', '.join(data.column_names)}.")
    process = part_of(processor, "image_processor")

    def pixels(row: int, picture: Any) -> Tensor:
        encoded: Tensor = process(_opened(row, picture, str(name)), return_tensors="pt")["pixel_values"][0]
        return encoded

    if len(data) > KEPT:
        later = (functools.partial(lambda row: pixels(row, data[row][name]), row) for row in range(len(data)))
        return [{"pixel_values": Later(each)} for each in later]
    return [{"pixel_values": pixels(row, picture)} for row, picture in enumerate(data[name])]


def _opened(row: int, picture: Any, column: str) -> Any:
    """The image of a row, in colours; arrays are left as they are."""
    from PIL import Image  # imported here: an optional part of datasets

    if picture is None or picture == "":
        raise RowError(row, f"there is no image in '{column}'; remove the row.")
    try:
        picture = Image.open(picture) if isinstance(picture, str) else picture
        return picture.convert("RGB") if isinstance(picture, Image.Image) else picture
    except OSError as error:
        raise RowError(row, f"the image in '{column}' cannot be read: {error}") from error
