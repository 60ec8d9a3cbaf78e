"""Data files: tables, texts and tagged words in a file become a ``datasets.Dataset``. Types are decided from all rows."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from fastprune.data.rows import as_dataset, from_columns, from_rows
from fastprune.errors import DataError

if TYPE_CHECKING:
    Table: TypeAlias = Any

SEPARATORS = (",", ";", "\t", "|")
BLOCK = 1 << 26
"""Bytes that are parsed at once; a row must be shorter."""
TAG = re.compile(r"O|[BIESLU]-\S+|[A-Z][A-Z$_]*|[^\w\s]+")
"""A tag in the last column of a file of tagged words."""


def kind_of(path: Path) -> str:
    """The ending of a data file in lower case, without ``.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def read_file(path: Path, *, verbatim: bool = False) -> Dataset:
    """Read a data file by its ending.

    Args:
        path: The file.
        verbatim: Keep a text file's lines as they are, each with its line break.

    Raises:
        DataError: The file cannot be read.
    """
    kind = kind_of(path)
    try:
        return _verbatim(path) if verbatim and kind == ".txt" else READERS[kind](path)
    except Exception as error:  # pyarrow, pandas, gzip and json raise errors of many types
        told = str(error) if isinstance(error, DataError) else reason(error)
        hint = "; save it as text in UTF-8." if isinstance(error, UnicodeDecodeError) or "UTF8" in told else ""
        raise DataError(f"{path} cannot be read as {kind[1:]}: {told}{hint}") from error


def reason(error: BaseException) -> str:
    """First line of the root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _open(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _separated(path: Path) -> Dataset:
    """A table with a header. The separator is the one that divides the header into most columns. Quotes hold a value together,
    except in tab-separated files with unbalanced quotes, such as MRPC. Words such as NA and None are not missing values."""
    with _open(path) as lines:
        header = next((line for line in lines if line.strip()), "")
    if not header:
        raise DataError("it is empty.")
    if "\0" in header:
        raise DataError("it is no text file.")
    usual = "\t" if kind_of(path) == ".tsv" else ","
    divided = {separator: next(csv.reader([header], delimiter=separator)) for separator in (usual, *SEPARATORS)}
    separator = max(divided, key=lambda each: len(divided[each]))
    quoted = separator != "\t" or _balanced(path, separator, len(divided[separator]))
    header_names = divided[separator] if quoted else header.rstrip("\r\n").split(separator)
    names = [name.strip() for name in header_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"it has several columns named {', '.join(twice)}.")
    with pa.input_stream(str(path), compression="detect") as stream:
        table = arrow_csv.read_csv(
            stream,
            read_options=arrow_csv.ReadOptions(block_size=BLOCK),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator, quote_char='"' if quoted else False, newlines_in_values=quoted
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header_names, pa.string()), strings_can_be_null=False
            ),
        )
    columns = {name.strip(): _typed(table[name]) for name in table.column_names}
    return Dataset(pa.table(columns))


def _balanced(path: Path, separator: str, count: int) -> bool:
    """Whether all quotes are balanced: with them, each row has ``count`` values, and none holds a line and a column break."""
    with _open(path) as lines:
        try:
            for row in csv.reader(lines, delimiter=separator, strict=True):
                if (row and len(row) != count) or any(separator in value and "\n" in value for value in row):
                    return False
        except csv.Error:
            return False
    return True


def _typed(column: Table) -> Table:
    """A column of texts as whole numbers if all texts are written as these, else as decimals if all are, else as texts."""
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = pc.cast(column, kind)
        except pa.ArrowInvalid:
            continue
        exact = (
            pc.cast(numbers, pa.string()).equals(column)
            if kind == pa.int64()
            else pc.all(pc.is_finite(numbers)).as_py()
        )
        if exact:
            return numbers
        if kind == pa.int64():  # such as 007, which is no number
            return column
    return column


def _lines(path: Path) -> Dataset:
    """One text per line; or, if all lines end in a tag, words with their tags."""
    with _open(path) as file:
        lines = file.read().split("\n")
    words = _tagged(lines)
    return words or from_columns({"text": [line.strip() for line in lines if line.strip()]})


def _verbatim(path: Path) -> Dataset:
    """One line per row, with its line break."""
    with _open(path) as file:
        *lines, last = file.read().replace("\r\n", "\n").split("\n")
    return from_columns({"text": [f"{line}\n" for line in lines] + [last] * bool(last)})


def _conll(path: Path) -> Dataset:
    with _open(path) as file:
        words = _tagged(file.read().split("\n"))
    if words is None:
        raise DataError(
            "it has no tagged words: each line needs a word, further columns, and the word's tag as the last of them; "
            "an empty line ends each sentence."
        )
    return words


def _tagged(lines: list[str]) -> Dataset | None:
    """CoNLL's format: a word, further columns and a tag per line, and an empty line behind each sentence; None for others."""
    sentences: list[tuple[list[str], list[str]]] = [([], [])]
    columns = set()
    for line in lines:
        parts = line.split()
        if not parts or parts[0] == "-DOCSTART-":
            sentences.append(([], []))
            continue
        columns.add(len(parts))
        if len(columns) > 1 or len(parts) < 2 or not TAG.fullmatch(parts[-1]):
            return None
        sentences[-1][0].append(parts[0])
        sentences[-1][1].append(parts[-1])
    whole = [sentence for sentence in sentences if sentence[0]]
    return (
        from_columns({"tokens": [words for words, _ in whole], "tags": [tags for _, tags in whole]}) if whole else None
    )


def _json(path: Path) -> Dataset:
    """An object per line, a list of objects or texts, an object of lists, pandas' forms, or SQuAD's."""
    with _open(path) as file:
        values: list[Any] = []
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values.append(json.loads(line))
            except json.JSONDecodeError as error:
                if values:
                    raise DataError(f"line {number}: {error.msg}.") from error
                file.seek(0)
                return _dataset_of(json.load(file))
    alone = len(values) == 1 and (isinstance(values[0], list) or (kind_of(path) == ".json" and _is_table(values[0])))
    return _dataset_of(values[0] if alone else values)


def _is_table(value: Any) -> bool:
    """Whether an object is a whole table rather than a row: of lists only, or of objects with the same keys."""
    if not isinstance(value, Mapping) or isinstance(value.get("data"), list):
        return True
    same = {type(each) for each in value.values()}
    return same == {list} or (same == {dict} and len({tuple(each) for each in value.values()}) == 1)


def _dataset_of(content: Any) -> Dataset:
    if isinstance(content, Mapping):
        data = content.get("data")
        if isinstance(data, list) and all(isinstance(each, Mapping) and "paragraphs" in each for each in data):
            return from_rows(list(_squad_rows(data)))
        if isinstance(data, list) and "columns" in content:  # pandas' "split"
            return from_rows([dict(zip(content["columns"], row, strict=True)) for row in data])
        if isinstance(data, list) and all(isinstance(each, Mapping) for each in data):
            return from_rows(data)
        if all(isinstance(values, Mapping) for values in content.values()):  # pandas' default: by column, then by index
            content = {name: list(values.values()) for name, values in content.items()}
    return as_dataset(content)


def _squad_rows(articles: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = [] if question.get("is_impossible") else question.get("answers", [])
                yield {
                    "id": str(question["id"]),
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {
                        "text": [answer["text"] for answer in answers],
                        "answer_start": [answer["answer_start"] for answer in answers],
                    },
                }


def _parquet(path: Path) -> Dataset:
    return Dataset(parquet.read_table(path, memory_map=True, partitioning=None))


def _excel(path: Path) -> Dataset:
    """The only sheet of a workbook, with a header."""
    import pandas

    try:
        sheets = pandas.read_excel(path, sheet_name=None, dtype=object, keep_default_na=False)
    except ImportError as error:
        raise DataError('Excel files need the package openpyxl: pip install "fastprune[excel]".') from error
    filled = {name: sheet for name, sheet in sheets.items() if len(sheet)}
    if len(filled) > 1:
        raise DataError(f"it has the sheets {', '.join(filled)}; save the one with the data as a file of its own.")
    frame = next(iter((filled or sheets).values()))
    return from_columns({str(name): frame[name].to_list() for name in frame.columns})


READERS: Mapping[str, Callable[[Path], Dataset]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".json": _json,
    ".jsonl": _json,
    ".parquet": _parquet,
    ".xlsx": _excel,
    ".txt": _lines,
    ".conll": _conll,
    ".bio": _conll,
    ".iob": _conll,
}
"""Readers by the endings of files."""
