"""From rows to batches: draw, encode, pad."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from fastprune.data.batches import NO_LABEL, PLACE, SAMPLE, Batches, log
from fastprune.data.drawing import Encode, blocks_of, drawn_from_stream, length_of, samples_of
from fastprune.data.intake import Intake, Source
from fastprune.data.later import Later, LaterBatch
from fastprune.data.mixes import DataMix
from fastprune.data.processors import tokenizer_of
from fastprune.data.rows import Rows, is_dataset
from fastprune.data.tasks import CUT, Batch, Columns, Sample, Task
from fastprune.errors import DataError
from fastprune.progress import step
from fastprune.ranges import COUNT, SEED, check_integer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


BATCH_SIZE = 32
"""Samples per batch of tasks without ``Task.usual_tokens``, and the most of others."""


def make_batches(
    data: Rows | DataMix,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    samples: int | Literal["auto"] | None = "auto",
    batch_size: int | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    split: str | tuple[str, ...] | None = None,
) -> Batches:
    """Draw rows, encode them, and pad them in batches of similar length. The same arguments give the same batches.

    Args:
        data: A file, directory, Hub name, data set, data frame, list of texts or dicts, or dict of lists (``read_dataset``), or
            several of these with their shares (``DataMix``). From a stream, samples are drawn among the first 10 x ``samples``
            rows.
        task: Encodes the rows.
        tokenizer: The model's tokenizer or processor (``Pretrained.tokenizer``).
        samples: Number of rows to draw without replacement, of language models the number of windows of text ["auto": 2,048 rows
            or 128 windows]; None: all. A row may give several samples or none (``Task.encode``).
        batch_size: Samples per batch [None: 32; of language models about 4,096 tokens].
        max_length: Maximum number of tokens per sample [None: the limit of tokenizer and model, at most the task's usual 512].
        limit: Maximum number of tokens of the model; None: unlimited.
        seed: Seed of the draw and of random choices while encoding.
        columns: Names of the text and label columns [None: guess from usual names].
        split: Split to read, or several in order of preference, for sources with splits [None: train].

    Raises:
        DataError: The data cannot be read or does not fit the task.
        OptionError: A number is out of range.
    """
    number = task.usual_samples if samples == "auto" else samples
    counts = {"batch_size": batch_size, "samples": number, "max_length": max_length, "limit": limit}
    for name, value in counts.items():
        check_integer(name, value, COUNT)
    seed = check_integer("seed", seed, SEED)
    encode = functools.partial(
        task.encode,
        tokenizer=tokenizer,
        columns=columns or Columns(),
        max_length=_max_length(max_length, tokenizer, limit, task.usual_length),
        seed=seed,
    )
    mix = data if isinstance(data, DataMix) else DataMix(((data, 1.0),))
    with step("reading"):
        read = [
            _read(source, task, encode, share, seed=seed, split=split)
            for (source, _), share in zip(mix.parts, mix.divided(number), strict=True)
        ]
    encoded, intake = _joined(mix, read)
    source = str(mix) if len(mix.parts) > 1 else _source_name(data)
    encoded = [{**sample, PLACE: place} for place, sample in enumerate(encoded)]
    encoded.sort(key=length_of)
    size = batch_size or _batch_size(task, encoded)
    starts = range(0, len(encoded), size)
    batches = tuple(_collate(encoded[start : start + size], start, task, tokenizer) for start in starts)
    log.info("read %d samples in %d batches from %s", len(encoded), len(batches), source or "the data")
    inputs = {*tokenizer.model_input_names, *task.input_names} - set(task.label_names)
    kept = tuple({name: value for name, value in sample.items() if name not in inputs} for sample in encoded)
    return Batches(batches=batches, task=task, samples=kept, source=source, intake=intake)


def _read(
    data: Rows, task: Task, encode: Encode, number: int | None, *, seed: int, split: str | tuple[str, ...] | None
) -> tuple[list[Sample], Intake]:
    """The samples of one source, and what was left out of it.

    Raises:
        DataError: The source cannot be read, does not fit the task, or gives no sample.
    """
    from fastprune.data.reading import read_dataset  # imported here because it takes seconds

    rows = read_dataset(data, split=split, verbatim=task.running_text)
    seen, rows = drawn_from_stream(rows, number, seed) if is_dataset(rows, streamed=True) else (len(rows), rows)
    draw = blocks_of if task.running_text else samples_of
    encoded, read = draw(rows, encode, number, seed)
    if not encoded:
        raise DataError(
            f"The task {task.name} found nothing to encode in the {seen} rows of {_source_name(data) or 'the data'}: they are "
            "empty or too short."
        )
    return encoded, Intake.of(seen, read, encoded, by_row=not task.running_text)


def _joined(mix: DataMix, read: Sequence[tuple[list[Sample], Intake]]) -> tuple[list[Sample], Intake]:
    """The samples of all sources, and what each gave.

    Raises:
        DataError: Only some of the sources have labels, or other inputs.
    """
    names = [str(DataMix((part,))) for part in mix.parts]
    contents = [set(samples[0]) - {CUT} for samples, _ in read]
    for name, content in zip(names, contents, strict=True):
        if content != contents[0]:
            raise DataError(
                f"{names[0]} gives {', '.join(sorted(contents[0]))}, and {name} gives {', '.join(sorted(content))}; all sources "
                "need the same columns, labels included, or name the ones they share (--text-columns, --label-column)."
            )
    sources = [
        Source(name=name, share=share, samples=len(samples), tokens=sum(map(length_of, samples)))
        for name, share, (samples, _) in zip(names, mix.shares, read, strict=True)
    ]
    intake = Intake.joined([each for _, each in read], sources)
    return [sample for samples, _ in read for sample in samples], intake


def _source_name(data: Any) -> str:
    from fastprune.data.reading import source_name  # imported here because it takes seconds

    return source_name(data)


def _batch_size(task: Task, samples: Sequence[Sample]) -> int:
    """The usual number of samples per batch: 32, or about ``usual_tokens`` tokens of them."""
    if task.usual_tokens is None:
        return BATCH_SIZE
    return max(1, min(BATCH_SIZE, task.usual_tokens // max(map(length_of, samples))))


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
    if pad is None and "input_ids" in samples[0] and len({length_of(sample) for sample in samples}) > 1:
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
    return LaterBatch(batch, later, functools.partial(_pad, value=0, side=side)) if later else batch


def _pad(rows: Sequence[Sequence[int] | Tensor], value: int, side: str) -> Tensor:
    """Stack rows of different lengths to [samples, tokens], or images of equal sizes to [samples, channels, height, width]."""
    return nn.utils.rnn.pad_sequence([torch.as_tensor(row) for row in rows], True, value, side)
