"""From rows to batches: sample, encode, pad."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastprune.data.processors import tokenizer_of
from fastprune.data.tasks import Columns, Sample, Task
from fastprune.errors import DataError
from fastprune.progress import step

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase
from fastprune.data.batches import COUNTED, NO_LABEL, SAMPLE, Batches, log
from fastprune.ranges import COUNT, SEED, check_integer

STREAMED = 10
"""Rows read from a stream per requested sample; the samples are drawn from these."""


def make_batches(
    data: Dataset | IterableDataset | str | Path,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    samples: int | None = 2048,
    batch_size: int = 32,
    max_length: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    split: str | None = None,
    default_split: str | tuple[str, ...] = "train",
    source: str = "",
) -> Batches:
    """Draw rows, encode them, and pad them in batches of similar length. The same arguments give the same batches.

    Args:
        data: A data set, or a source for ``read_dataset``. From a stream, samples are drawn among the first 10 x ``samples`` rows.
        task: Encodes the rows.
        tokenizer: The model's tokenizer or processor (``Pretrained.tokenizer``).
        samples: Number of rows to draw without replacement; None: all rows. A row may give several samples or none
            (``Task.encode``).
        batch_size: Samples per batch.
        max_length: Maximum number of tokens per sample [None: the limit of tokenizer and model, at most the task's usual 512].
        limit: Maximum number of tokens of the model; None: unlimited.
        seed: Seed of the draw and of random choices while encoding.
        columns: Names of the text and label columns [None: guess from usual names].
        split: Split to read, for sources with splits.
        default_split: Split to read without ``split``, as in ``read_dataset``.
        source: Origin of the data, for messages [default: ``data`` if it is a path or name].

    Raises:
        DataError: The data cannot be read or does not fit the task.
        OptionError: A number is out of range.
    """
    counts = {"batch_size": batch_size, "samples": samples, "max_length": max_length, "limit": limit}
    for name, value in counts.items():
        check_integer(name, value, COUNT)
    check_integer("seed", seed, SEED)
    max_length = _max_length(max_length, tokenizer, limit, task.usual_length)
    with step("reading"):
        if isinstance(data, (str, Path)):
            from fastprune.data.reading import read_dataset  # imported here because it takes seconds

            source = source or str(data)
            data = read_dataset(data, split=split, default_split=default_split)
        if is_dataset(data, streamed=True):
            data = _from_stream(data, samples)
        if not task.running_text:
            data = data.select(_drawn(len(data), samples, seed))
        encoded = task.encode(data, tokenizer, columns=columns or Columns(), max_length=max_length, seed=seed)
        if task.running_text:
            encoded = [encoded[index] for index in _drawn(len(encoded), samples, seed)]
    told = source or "the data"
    if not encoded:
        raise DataError(f"The task {task.name} found nothing to encode in the {len(data)} rows of {told}.")
    encoded.sort(key=_length)
    starts = range(0, len(encoded), batch_size)
    batches = tuple(_collate(encoded[start : start + batch_size], start, task, tokenizer) for start in starts)
    log.info("read %d samples in %d batches from %s", len(encoded), len(batches), told)
    return Batches(batches=batches, task=task, samples=tuple(encoded), source=source)


def _max_length(asked: int | None, tokenizer: PreTrainedTokenizerBase, limit: int | None, usual: int) -> int:
    """Tokens of the longest sample: what was asked for, or as many as tokenizer and model take, up to a usual length.

    Raises:
        DataError: They take fewer than were asked for.
    """
    limits = (getattr(tokenizer_of(tokenizer), "model_max_length", None), limit)
    longest = min((each for each in limits if each is not None), default=10**30)
    if asked is not None and asked > longest:
        raise DataError(f"max_length must be at most the {longest} tokens that the model takes; got {asked}.")
    return asked or min(longest, usual)


def _drawn(count: int, samples: int | None, seed: int) -> Sequence[int]:
    """Some of so many places, in order; None, or more than there are: all."""
    if samples is None or samples >= count:
        return range(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:samples].tolist())


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


def _from_stream(stream: IterableDataset, samples: int | None) -> Dataset:
    """Read the first 10 x ``samples`` rows of a stream.

    Raises:
        DataError: The stream is empty, or ``samples`` is None.
    """
    if samples is None:
        raise DataError("A streamed data set has an unknown length; give the number of samples to read.")
    rows = list(stream.take(STREAMED * samples))
    if not rows:
        raise DataError("The streamed data set has no rows.")
    from datasets import Dataset  # already imported, because the stream is of this library

    return Dataset.from_list(rows, features=stream.features)


def _collate(
    samples: Sequence[Sample], start: int, task: Task, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """Pad consecutive samples, the first of which has the index ``start``."""
    text = tokenizer_of(tokenizer)
    pad = getattr(text, "pad_token_id", None)
    side = getattr(tokenizer if text is None else text, "padding_side", "right")
    if pad is None and "input_ids" in samples[0] and len({_length(sample) for sample in samples}) > 1:
        raise DataError("The tokenizer has no padding token; set tokenizer.pad_token, or use batch_size=1.")
    fill = {"input_ids": pad, "decoder_input_ids": pad, "token_type_ids": getattr(text, "pad_token_type_id", 0)}
    batch: dict[str, Tensor] = {}
    for name in dict.fromkeys((*tokenizer.model_input_names, *task.input_names, *task.note_names, *task.label_names)):
        if name not in samples[0]:
            continue
        values = [sample[name] for sample in samples]
        if name in task.token_label_names:
            batch[name] = _pad(values, NO_LABEL, side)
        elif name in (*task.label_names, *task.note_names):
            batch[name] = torch.tensor(values)  # [samples] or [samples, outputs]
        else:
            batch[name] = _pad(values, fill.get(name) or 0, side)
    batch[SAMPLE] = torch.arange(start, start + len(samples))  # [samples]
    return batch


def _pad(rows: Sequence[Sequence[int] | Tensor], value: int, side: str) -> Tensor:
    """Stack rows of different lengths to [samples, tokens], or images of equal sizes to [samples, channels, height, width]."""
    return nn.utils.rnn.pad_sequence([torch.as_tensor(row) for row in rows], True, value, side)


def _length(sample: Sample) -> int:
    """Number of tokens of a text or readings of a recording; 0 for other samples."""
    return next((len(sample[name]) for _, values in COUNTED for name in values if name in sample), 0)
