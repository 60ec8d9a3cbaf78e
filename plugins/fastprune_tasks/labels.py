"""Labels: the one rule by which the labels of data become classes or numbers, and reading them from batches.

A label, as text, that is the name of a class is that class; upper and lower case count only if class names differ in nothing
else. Any other label is the number of a class, counted from 0. Labels of a data set that names its own classes are names.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastprune.data import Batch
from fastprune.errors import DataError, ModelError, RowError

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PretrainedConfig

LABELS = ("label", "labels", "target", "targets", "class", "category")
SCORES = ("score", "similarity", "similarity_score", "relatedness_score", "label", "labels", "target")
SHOWN = 20
"""Maximum number of class names in a message."""


def class_names(config: PretrainedConfig) -> tuple[str, ...]:
    """The model's class names, by increasing class number; the numbers may be texts, in any order.

    Raises:
        ModelError: A key of ``id2label`` is not a number.
    """
    names: Mapping[Any, Any] = config.id2label or {}
    try:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    except ValueError as error:
        raise ModelError(
            f"The keys of id2label in config.json must be numbers; got {', '.join(map(str, names))}."
        ) from error


def read_labels(data: Dataset, column: str | None) -> list[Any] | None:
    """Read a label column.

    Returns:
        One value per row; None without a column, or if all values are missing or -1 (unlabelled test sets).

    Raises:
        RowError: A row has no label, and others have one.
    """
    values = [] if column is None else list(data[column])
    missing = [row for row, value in enumerate(values) if _missing(value)]
    if len(missing) == len(values) or all(value == -1 for value in values):
        return None
    if missing:
        more = f", one of {len(missing)} such rows" if len(missing) > 1 else ""
        raise RowError(missing[0], f"there is no label in '{column}'{more}; give it a label, or remove it.")
    return values


def class_columns(data: Dataset, classes: Sequence[str]) -> list[list[Any]] | None:
    """Labels in a column for each class: per row, the values of these columns in the order of ``classes``.

    Returns:
        [rows][classes]; None if a class has no column.
    """
    columns = {name.casefold(): name for name in data.column_names} | {name: name for name in data.column_names}
    found = [columns.get(name) or columns.get(name.casefold()) for name in classes]
    if None in found or len(set(found)) < len(found):
        return None
    return [list(row) for row in zip(*(data[name] for name in found), strict=True)]


@dataclass(frozen=True, kw_only=True)
class ClassReader:
    """Converts the labels of a column to class numbers.

    Attributes:
        classes: The model's class names, in order.
        column: The label column, for messages.
        names: The data set's own class names, by number; empty: labels are names or numbers of the model's classes.
    """

    classes: tuple[str, ...]
    column: str
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Dataset, column: str, classes: tuple[str, ...], labels: Iterable[Any]) -> ClassReader:
        """The reader for a column.

        Args:
            data: The data set.
            column: The label column.
            classes: The model's class names, in order.
            labels: All labels of the column.

        Raises:
            DataError: The class names are numbers, and some labels are such names while others are not.
        """
        feature = data.features.get(column)
        feature = getattr(feature, "feature", feature)  # of the items, if rows are lists
        reader = cls(classes=classes, column=column, names=tuple(getattr(feature, "names", None) or ()))
        if reader.names:
            known = any(reader._named(name) is not None for name in reader.names)
            return reader if known else cls(classes=classes, column=column)
        texts = {_text(label) for label in labels}
        named = {text for text in texts if reader._named(text) is not None}
        numbers = {text for text in texts - named if _number(text) is not None}
        if named and numbers and all(_number(text) is not None for text in named):
            raise DataError(
                f"The labels in '{column}' are ambiguous: the model's classes are called {_listed(classes)}, and "
                f"{_listed(sorted(numbers))} is none of these names. Use the names of the classes as labels."
            )
        return reader

    def __call__(self, label: Any) -> int:
        """The class number of a label.

        Raises:
            DataError: The label is not one of the model's classes.
        """
        if isinstance(label, list) and len(label) == 1:
            return self(label[0])
        text = _text(label)
        number = _number(text)
        if self.names and number is not None and 0 <= number < len(self.names):
            text, number = self.names[number], None
        named = self._named(text)
        if named is not None:
            return named
        if number is not None and 0 <= number < len(self.classes) and not self.names:
            return number
        shown = repr(label) if text == _text(label) else f"{label!r} ({text})"
        raise DataError(
            f"The label {shown} in '{self.column}' is not one of the model's {len(self.classes)} classes: "
            f"{_listed(self.classes)}" + ("." if self.names else f", or their numbers, 0 to {len(self.classes) - 1}.")
        )

    def _named(self, text: str) -> int | None:
        """The class of this name; upper and lower case are alike, unless class names differ in nothing else; 5.0 is called 5."""
        number = _number(text)
        for name in (text, str(number)):
            if name in self.classes:
                return self.classes.index(name)
        alike = [index for index, name in enumerate(self.classes) if name.casefold() == text.casefold()]
        return alike[0] if len(alike) == 1 else None


def one_class(data: Dataset, column: str, classes: tuple[str, ...], labels: Sequence[Any]) -> list[int]:
    """Class numbers of labels with one class per row: [rows].

    Raises:
        RowError: A label is not one of the classes.
    """
    read = ClassReader.of(data, column, classes, labels)
    return [in_row(row, read, label) for row, label in enumerate(labels)]


def many_hot(data: Dataset, column: str, classes: tuple[str, ...], labels: Sequence[Any]) -> list[list[float]]:
    """Labels with any number of classes per row, as 0.0 or 1.0 per class: [rows][classes].

    A row has a zero or one for each class, or the names or numbers of its classes: a list, or a text such as ``[0, 2]`` or
    ``joy, love``. A single zero or one is enough for a model with one class.

    Raises:
        RowError: A row has another form, or a label is not one of the classes.
    """
    count = len(classes)
    reader = ClassReader.of(data, column, classes, [])
    rows = [_items(label, reader) for label in labels]
    if not reader.names and all(len(row) == count and all(_bit(item) is not None for item in row) for row in rows):
        return [[float(_bit(item) or 0) for item in row] for row in rows]
    read = ClassReader.of(data, column, classes, [item for row in rows for item in row])
    hot = []
    for number, row in enumerate(rows):
        try:
            chosen = {read(item) for item in row}
        except DataError as error:
            raise RowError(number, f"{error} Each row has {count} zeros and ones, or a list of classes.") from error
        hot.append([float(index in chosen) for index in range(count)])
    return hot


def numbers(column: str, labels: Sequence[Any]) -> list[float]:
    """Labels that are numbers, or texts of numbers: [rows].

    Raises:
        RowError: A label is not a number.
    """
    return [in_row(row, lambda each: _float(each, column), label) for row, label in enumerate(labels)]


def in_row(row: int, read: Any, value: Any) -> Any:
    """``read(value)``, with the row in the error.

    Raises:
        RowError: The value cannot be read.
    """
    try:
        return read(value)
    except DataError as error:
        raise RowError(row, str(error)) from error


def as_list(value: Any) -> Any:
    """A list that was written as text, such as ``['a', 'b']`` in a csv file; any other value unchanged."""
    if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
        try:
            return list(ast.literal_eval(value.strip()))
        except (ValueError, SyntaxError):
            return value
    return value


def labels_of(batch: Batch, name: str = "labels") -> Tensor:
    """The labels of a batch, for a metric.

    Raises:
        DataError: The batch has no labels.
    """
    if name not in batch:
        raise DataError("Metrics need labels, and the data has none; use labelled data, or name the label column.")
    return batch[name]


def _missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def _text(label: Any) -> str:
    """A label as text: whole numbers without decimals, texts without surrounding spaces."""
    if isinstance(label, bool) or not isinstance(label, (int, float)):
        return str(label).strip()
    return str(int(label)) if math.isfinite(label) and label == int(label) else str(label)


def _number(text: str) -> int | None:
    """The whole number that a text stands for, such as 1 for 1, 1.0 and True."""
    if text in ("True", "False"):
        return int(text == "True")
    return int(float(text)) if re.fullmatch(r"[+-]?\d{1,15}(\.0*)?", text) else None


def _bit(item: Any) -> int | None:
    number = _number(_text(item))
    return number if number in (0, 1) else None


def _items(label: Any, reader: ClassReader) -> list[Any]:
    """The labels of one row of a model with several classes per row."""
    label = as_list(label)
    if isinstance(label, (list, tuple)):
        return list(label)
    if isinstance(label, str) and reader._named(label.strip()) is None:
        return [part.strip() for part in re.split(r"[,;|]", label) if part.strip()]
    return [label]


def _float(value: Any, column: str) -> float:
    try:
        if isinstance(value, (int, float, str)):
            return float(value)
    except ValueError:
        pass
    raise DataError(f"The label {value!r} in '{column}' is not a number.")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
