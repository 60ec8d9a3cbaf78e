"""From rows to batches: draw, encode, pad."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastprune.data.batches import COUNTED, NO_LABEL, SAMPLE, Batches, log
from fastprune.data.drawing import blocks_of, drawn_from_stream, samples_of
from fastprune.data.intake import Intake
from fastprune.data.later import Later, LaterBatch
from fastprune.data.processors import tokenizer_of
from fastprune.data.rows import Rows, is_dataset
from fastprune.data.tasks import Batch, Columns, Sample, Task
from fastprune.errors import DataError
from fastprune.progress import step
from fastprune.ranges import COUNT, SEED, check_integer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make_batches(
    data: Rows,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    samples: int | None = 2048,
    batch_size: int = 32,
    max_length: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    split: str | tuple[str, ...] | None = None,
) -> Batches:
    """Draw rows, encode them, and pad them in batches of similar length. The same arguments give the same batches.

    Args:
        data: A file, directory, Hub name, data set, data frame, list of texts or dicts, or dict of lists (``read_dataset``). From
            a stream, samples are drawn among the first 10 x ``samples`` rows.
        task: Encodes the rows.
        tokenizer: The model's tokenizer or processor (``Pretrained.tokenizer``).
        samples: Number of rows to draw without replacement; None: all rows. A row may give several samples or none
            (``Task.encode``).
        batch_size: Samples per batch.
        max_length: Maximum number of tokens per sample [None: the limit of tokenizer and model, at most the task's usual 512].
        limit: Maximum number of tokens of the model; None: unlimited.
        seed: Seed of the draw and of random choices while encoding.
        columns: Names of the text and label columns [None: guess from usual names].
        split: Split to read, or several in order of preference, for sources with splits [None: train].

    Raises:
        DataError: The data cannot be read or does not fit the task.
        OptionError: A number is out of range.
    """
    from fastprune.data.reading import read_dataset, source_name  # imported here because it takes seconds

    counts = {"batch_size": batch_size, "samples": samples, "max_length": max_length, "limit": limit}
    for name, value in counts.items():
        check_integer(name, value, COUNT)
    check_integer("seed", seed, SEED)
    encode = functools.partial(
        task.encode,
        tokenizer=tokenizer,
        columns=columns or Columns(),
        max_length=_max_length(max_length, tokenizer, limit, task.usual_length),
        seed=seed,
    )
    with step("reading"):
        rows = read_dataset(data, split=split)
        source = source_name(data)
        seen, rows = drawn_from_stream(rows, samples, seed) if is_dataset(rows, streamed=True) else (len(rows), rows)
        draw = blocks_of if task.running_text else samples_of
        encoded, read = draw(rows, encode, samples, seed)
    if not encoded:
        raise DataError(f"The task {task.name} found nothing to encode in the {seen} rows of {source or 'the data'}.")
    encoded.sort(key=_length)
    starts = range(0, len(encoded), batch_size)
    batches = tuple(_collate(encoded[start : start + batch_size], start, task, tokenizer) for start in starts)
    intake = Intake.of(seen, read, encoded, by_row=not task.running_text)
    log.info("read %d samples in %d batches from %s", len(encoded), len(batches), source or "the data")
    inputs = {*tokenizer.model_input_names, *task.input_names} - set(task.label_names)
    kept = tuple({name: value for name, value in sample.items() if name not in inputs} for sample in encoded)
    return Batches(batches=batches, task=task, samples=kept, source=source, intake=intake)


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


def _collate(samples: Sequence[Sample], start: int, task: Task, tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Pad consecutive samples, the first of which has the index ``start``."""
    text = tokenizer_of(tokenizer)
    pad = getattr(text, "pad_token_id", None)
    side = getattr(tokenizer if text is None else text, "padding_side", "right")
    if pad is None and "input_ids" in samples[0] and len({_length(sample) for sample in samples}) > 1:
        raise DataError("The tokenizer has no padding token; set tokenizer.pad_token, or use batch_size=1.")
    fill = {"input_ids": pad, "decoder_input_ids": pad, "token_type_ids": getattr(text, "pad_token_type_id", 0)}
    batch: dict[str, Tensor] = {}
    later: dict[str, list[Later]] = {}
    for name in dict.fromkeys((*tokenizer.model_input_names, *task.input_names, *task.note_names, *task.label_names)):
        if name not in samples[0]:
            continue
        values = [sample[name] for sample in samples]
        if isinstance(values[0], Later):
            later[name] = values
        elif name in task.token_label_names:
            batch[name] = _pad(values, NO_LABEL, side)
        elif name in (*task.label_names, *task.note_names):
            batch[name] = torch.tensor(values)  # [samples] or [samples, outputs]
        else:
            batch[name] = _pad(values, fill.get(name) or 0, side)
    batch[SAMPLE] = torch.arange(start, start + len(samples))  # [samples]
    return LaterBatch(batch, later) if later else batch


def _pad(rows: Sequence[Sequence[int] | Tensor], value: int, side: str) -> Tensor:
    """Stack rows of different lengths to [samples, tokens], or images of equal sizes to [samples, channels, height, width]."""
    return nn.utils.rnn.pad_sequence([torch.as_tensor(row) for row in rows], True, value, side)


def _length(sample: Sample) -> int:
    """Number of tokens of a text or readings of a recording; 0 for other samples."""
    return next((len(sample[name]) for _, values in COUNTED for name in values if name in sample), 0)
