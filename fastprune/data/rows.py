"""Rows in memory: data frames, lists of dicts or texts, and dicts of lists become a ``datasets.Dataset``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from fastprune.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


class Frame(Protocol):
    """A data frame with the Arrow PyCapsule interface, such as those of pandas and polars."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


Rows: TypeAlias = "str | Path | Dataset | IterableDataset | Mapping[str, Any] | Sequence[Any] | Frame"
"""A source of rows, or rows in memory: what ``read_dataset`` reads."""

SCALARS = (str, int, float, bool)


def is_dataset(data: object, *, streamed: bool = False) -> bool:
    """Whether ``data`` is a data set of the library ``datasets``, without importing the library.

    Args:
        data: Any object.
        streamed: Accept streamed data sets only.
    """
    library = sys.modules.get("datasets")
    if library is None:
        return False
    return isinstance(data, library.IterableDataset) or (not streamed and isinstance(data, library.Dataset))


def is_rows(data: object) -> bool:
    """Whether ``data`` are rows or a source of rows, and not encoded batches.

    Rows are a file, directory or Hub name, a data set of ``datasets`` or a dict of them by split, a data frame (pandas, polars),
    a list of texts or of dicts, and a dict of lists. Batches have tensors.
    """
    if isinstance(data, (str, Path)) or is_dataset(data) or hasattr(data, "__arrow_c_stream__"):
        return True
    if isinstance(data, Mapping):
        return not any(_is_tensor(value) for value in data.values())
    first = data[0] if isinstance(data, (list, tuple)) and data else None
    return isinstance(first, str) or (isinstance(first, Mapping) and is_rows(first))


def _is_tensor(value: object) -> bool:
    library = sys.modules.get("torch")  # without it nothing is a tensor, and importing it takes seconds
    return library is not None and isinstance(value, library.Tensor)


def as_dataset(data: Any) -> Dataset:
    """Convert rows in memory to a data set.

    Args:
        data: A data frame (anything with the Arrow PyCapsule interface), a list of dicts or of texts, or a dict of lists.

    Raises:
        DataError: The data has another form, or a column has values of several types.
    """
    if hasattr(data, "__arrow_c_stream__") and hasattr(data, "to_list"):  # a single column
        data = data.to_list()
    if hasattr(data, "__arrow_c_stream__"):
        return _from_frame(data)
    if isinstance(data, Mapping):
        return from_columns({str(name): _listed(values) for name, values in data.items()})
    if isinstance(data, (list, tuple)) and all(isinstance(row, str) for row in data):
        return from_columns({"text": list(data)})
    if isinstance(data, (list, tuple)) and all(isinstance(row, Mapping) for row in data):
        return from_rows(data)
    raise DataError(
        "Data must be a file, a directory, a Hub name, a data set, a data frame, a list of texts or dicts, or a dict of lists; "
        f"got {_kind(data)}."
    )


def from_rows(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """A data set of rows, which may lack some of the columns."""
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return from_columns({name: [row.get(name) for row in rows] for name in names})


def from_columns(columns: Mapping[str, list[Any]]) -> Dataset:
    """A data set of columns, each with one type; numbers beside texts become texts, and NaN in a column of texts is missing.

    Raises:
        DataError: The columns have different lengths, or one has values of several types.
    """
    from datasets import Dataset  # imported here because it takes seconds

    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"The columns must have the same number of rows; got {lengths}.")
    try:
        return Dataset.from_dict({name: _of_one_type(values) for name, values in columns.items()})
    except Exception as error:  # pyarrow and datasets raise errors of many types
        reason = str(error).partition("\n")[0]
        raise DataError(f"The columns {', '.join(columns)} are no table: {reason}") from error


def joined(parts: Mapping[str, Dataset]) -> Dataset:
    """Append data sets with the same columns.

    Args:
        parts: The data sets by the names of their files.

    Raises:
        DataError: Their columns differ.
    """
    from datasets import concatenate_datasets  # imported here because it takes seconds

    (first, one), *others = parts.items()
    for name, other in others:
        if set(other.column_names) != set(one.column_names):
            raise DataError(
                f"{first} has the columns {', '.join(one.column_names)}, and {name} has {', '.join(other.column_names)}; name one "
                "file, or give all files the same columns."
            )
    try:
        return concatenate_datasets(list(parts.values()))
    except ValueError:  # the same column has other types in other files
        names = one.column_names
        return from_columns({name: [value for part in parts.values() for value in part[name]] for name in names})


def _from_frame(frame: Any) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset  # imported here because it takes seconds

    names = [str(name) for name in getattr(frame, "columns", ())]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"The data frame has several columns named {', '.join(twice)}; rename them.")
    try:
        table = pa.table(frame)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column of objects of several types
        return from_columns({str(name): frame[name].to_list() for name in frame.columns})
    table = table.drop_columns([name for name in table.column_names if name.startswith("__index_level_")])
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # categories
            table = table.set_column(at, field.name, table[at].cast(field.type.value_type))
    return Dataset(table.replace_schema_metadata(None))


def _listed(values: Any) -> list[Any]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise DataError(f"A dict of columns must have a list for each column; got {_kind(values)}.")
    return list(values)


def _of_one_type(values: list[Any]) -> list[Any]:
    """Texts if there are texts and numbers; other values unchanged."""
    if not any(isinstance(value, str) for value in values) or all(isinstance(value, str) for value in values):
        return values
    plain = [None if value is None or value != value else value for value in values]  # NaN differs from itself
    return [str(value) if isinstance(value, SCALARS) else value for value in plain]


def _kind(data: Any) -> str:
    inside = f" of {type(data[0]).__name__}" if isinstance(data, (list, tuple)) and data else ""
    return f"a {type(data).__name__}{inside}"
