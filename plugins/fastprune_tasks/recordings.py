"""Recordings: reading them from a column, resampling, and encoding with the model's feature extractor."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastprune import Columns
from fastprune.data import CUT, Sample, label_column, part_of
from fastprune.errors import DataError, ModelError, RowError
from fastprune_tasks.labels import in_row
from fastprune_tasks.texts import shortened

if TYPE_CHECKING:
    from datasets import Dataset

Waveform = NDArray[np.float32]

RECORDINGS = ("audio", "speech", "recording", "input_values", "file")
RECORDING_COLUMNS = tuple((name,) for name in RECORDINGS)


def classifies_recordings(class_name: str) -> bool:
    """Whether a model class is in transformers' list of audio classifiers; class names alone do not show it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES as NAMES

    return class_name.endswith(tuple(NAMES.values()))


def encode_recordings(data: Dataset, processor: Any, columns: Columns) -> list[Sample]:
    """Encode each row's recording with the feature extractor: a waveform [readings] or a spectrogram [bins, times].

    Args:
        data: Has a column of recordings (formats: see ``waveforms``).
        processor: The feature extractor, or a processor that contains it.
        columns: The first text column is that of the recordings. Empty: the first usual name in the data.

    Raises:
        DataError: The data has no such column, or a row has no readable recording.
        ModelError: The feature extractor has no sampling rate.
    """
    names = columns.text
    column = names[0] if names else label_column(data, Columns(), RECORDINGS) or ""
    if column not in data.column_names:
        raise DataError(
            f"There is no column of recordings{f' {column}' if column else ''}; the data has {', '.join(data.column_names)}. "
            "Name it as the first of the text columns (--text-columns)."
        )
    extractor = part_of(processor, "feature_extractor")
    rate = getattr(extractor, "sampling_rate", None)
    if rate is None:
        raise ModelError(
            f"A {type(extractor).__name__} is not a feature extractor for recordings: it has no sampling_rate."
        )
    longest = getattr(extractor, "n_samples", None)  # a recording of this length, to which the extractor cuts
    samples: list[Sample] = []
    for wave in waveforms(data, column, rate):
        encoded = extractor(wave, sampling_rate=rate, return_tensors="pt")
        sample: Sample = {name: value[0] for name, value in encoded.items()}
        if longest is not None and len(wave) > longest:
            sample[CUT] = {"seconds": (len(wave) - longest) / rate}
        samples.append(sample)
    return samples


def waveforms(data: Dataset, column: str, rate: int) -> Iterator[Waveform]:
    """Read each row's recording as a single channel, resampled to ``rate``: [readings].

    Args:
        data: The data set.
        column: The column of recordings. A row is a path or bytes of a sound file (``datasets.Audio``), a mapping with ``array``
            and ``sampling_rate``, or a list of readings, which must be at ``rate``.
        rate: Sampling rate in readings per second.

    Raises:
        DataError: A row has none of these formats.
    """
    from datasets import Audio  # imported here because it takes seconds

    if isinstance(data.features[column], Audio):
        data = data.cast_column(column, Audio(decode=False))
    for row, value in enumerate(data[column]):
        if isinstance(value, str) or (isinstance(value, Mapping) and "array" not in value):
            wave, current = in_row(row, functools.partial(_read, column=column), value)
        else:
            wave, current = (value["array"], value["sampling_rate"]) if isinstance(value, Mapping) else (value, rate)
        try:
            readings = np.asarray(wave, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise RowError(row, f"'{column}' is not a recording; got {shortened(value)}.") from error
        if readings.ndim != 1 or len(readings) == 0:
            raise RowError(row, f"'{column}' must have the readings of one channel; got {readings.shape}.")
        yield _at_rate(readings, int(current), rate)


def _read(value: str | Mapping[str, Any], column: str) -> tuple[Waveform, int]:
    """Read a sound file: the mean of its channels [readings], and its sampling rate.

    Raises:
        DataError: The file cannot be read, or the package soundfile is missing.
    """
    try:
        import soundfile
    except ImportError as error:
        raise DataError('Sound files need the package soundfile: pip install "fastprune[audio]".') from error
    content = value if isinstance(value, str) else value.get("bytes") or value.get("path")
    if not content:
        raise DataError(f"there is no recording in '{column}'; got {shortened(value)}.")
    try:
        wave, rate = soundfile.read(io.BytesIO(content) if isinstance(content, bytes) else content, dtype="float32")
    except (OSError, RuntimeError) as error:
        raise DataError(f"'{column}' cannot be read as a sound file: {error}") from error
    return (wave if wave.ndim == 1 else wave.mean(1)), rate


def _at_rate(wave: Waveform, current: int, rate: int) -> Waveform:
    """Resample a waveform from the rate ``current`` to ``rate``: [readings] -> [readings]."""
    if current == rate:
        return wave
    from scipy.signal import resample_poly  # imported here because it takes seconds

    common = math.gcd(current, rate)
    resampled: Waveform = resample_poly(wave, rate // common, current // common).astype(np.float32)
    return resampled
