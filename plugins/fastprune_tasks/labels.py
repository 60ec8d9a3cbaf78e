"""Labels: reading them from data rows and from batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastprune.data import Batch
from fastprune.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PretrainedConfig

LABELS = ("label", "labels")
SCORES = ("score", "similarity", "similarity_score", "relatedness_score", "label", "labels")


def class_names(config: PretrainedConfig) -> tuple[str, ...]:
    """The model's class names, in order."""
    names: Any = config.id2label
    return tuple(str(names[index]) for index in sorted(names))


def read_labels(data: Dataset, column: str | None) -> list[Any] | None:
    """Read a label column.

    Returns:
        One value per row; None without a column, or if all values are None or -1 (unlabelled test sets).

    Raises:
        DataError: Some rows have a label and some have none.
    """
    values = [] if column is None else list(data[column])
    if all(value is None or value == -1 for value in values):
        return None
    if None in values:
        raise DataError(f"{values.count(None)} of {len(values)} rows have no label in '{column}'; remove these rows.")
    return values


def class_reader(data: Dataset, column: str | None, classes: tuple[str, ...]) -> Callable[[Any], int]:
    """Build a function that converts a label of this data, a number or a name, to the model's class index.

    If both the data set and the model name their classes, labels are matched by name, because data sets often order the same
    classes differently (MNLI).

    Args:
        data: The data set.
        column: The label column.
        classes: The model's class names, in order.

    Returns:
        A function from label to class index; it raises DataError for an unknown label.
    """
    by_name = {name.casefold(): index for index, name in enumerate(classes)}
    feature = data.features.get(column)
    feature = getattr(feature, "feature", feature)  # of the items, if rows are lists
    numbers = list(range(len(classes)))
    if hasattr(feature, "names") and {name.casefold() for name in feature.names} <= set(by_name):
        numbers = [by_name[name.casefold()] for name in feature.names]

    def read(value: Any) -> int:
        if isinstance(value, str) and value.casefold() in by_name:
            return by_name[value.casefold()]
        if isinstance(value, int) and 0 <= value < len(numbers):
            return numbers[value]
        raise DataError(
            f"The label {value!r} in '{column}' is not one of the model's {len(classes)} classes: "
            f"0 to {len(classes) - 1}, or {', '.join(classes)}."
        )

    return read


def labels_of(batch: Batch, name: str = "labels") -> Tensor:
    """The labels of a batch, for a metric.

    Raises:
        DataError: The batch has no labels.
    """
    if name not in batch:
        raise DataError(
            f"Metrics need labels, and the data has no '{name}'; name the label column, or use labelled data."
        )
    return batch[name]
