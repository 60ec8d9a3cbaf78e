"""Recordings: reading them from a column, resampling, and encoding with the model's feature extractor."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastprune import Columns
from fastprune.data import CUT, Later, Sample, label_column, part_of
from fastprune.errors import DataError, ModelError, RowError
from fastprune_tasks.labels import in_row
from fastprune_tasks.texts import shortened

if TYPE_CHECKING:
    from datasets import Dataset

Waveform = NDArray[np.float32]

RECORDINGS = ("audio", "speech", "recording", "input_values", "file")
KEPT = 2048
"""Number of recordings that are kept encoded, 1 to 3 GB of 30 seconds; of more, each is encoded whenever its batch is read."""
RECORDING_COLUMNS = tuple((name,) for name in RECORDINGS)


def classifies_recordings(class_name: str) -> bool:
    """Whether a model class is in transformers' list of audio classifiers; class names alone do not show it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES as NAMES

    return class_name.endswith(tuple(NAMES.values()))


def encode_recordings(data: Dataset, processor: Any, columns: Columns) -> list[Sample]:
    """Encode each row's recording with the feature extractor: a waveform [readings] or a spectrogram [bins, times].

    All are read and encoded once; of many (``KEPT``) only the lengths are kept, and they are encoded again later (``Later``).

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
    recordings = waveforms(data, column, rate)

    def encoded(wave: Waveform) -> dict[str, Tensor]:
        return {name: value[0] for name, value in extractor(wave, sampling_rate=rate, return_tensors="pt").items()}

    def again(row: int, name: str) -> Tensor:
        return encoded(recordings[row])[name]

    samples: list[Sample] = []
    for row, wave in enumerate(recordings):
        sample: Sample = dict(encoded(wave))
        if longest is not None and len(wave) > longest:
            sample[CUT] = {"seconds": (len(wave) - longest) / rate}
        if len(recordings) > KEPT:
            sounds = [name for name, value in sample.items() if isinstance(value, Tensor) and value.is_floating_point()]
            sample |= {name: Later(functools.partial(again, row, name), len(sample[name])) for name in sounds}
        samples.append(sample)
    return samples


@dataclass(frozen=True)
class Recordings(Sequence[Waveform]):
    """The recordings of a column as single channels at one rate, each [readings]; read from the data whenever asked for.

    Attributes:
        data: The data set; files are not decoded.
        column: The column of recordings.
        rate: Sampling rate in readings per second.
    """

    data: Dataset
    column: str
    rate: int

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: Any) -> Any:
        return self._wave(row, self.data[row][self.column])

    def __iter__(self) -> Iterator[Waveform]:
        for row, value in enumerate(self.data[self.column]):
            yield self._wave(row, value)

    def _wave(self, row: int, value: Any) -> Waveform:
        if isinstance(value, str) or (isinstance(value, Mapping) and "array" not in value):
            read = _sound_reader()
            wave, current = in_row(row, functools.partial(_read, column=self.column, read=read), value)
        else:
            wave, current = (
                (value["array"], value["sampling_rate"]) if isinstance(value, Mapping) else (value, self.rate)
            )
        try:
            readings = np.asarray(wave, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise RowError(row, f"'{self.column}' is not a recording; got {shortened(value)}.") from error
        if readings.ndim != 1 or len(readings) == 0:
            raise RowError(row, f"'{self.column}' must have the readings of one channel; got {readings.shape}.")
        if not np.isfinite(readings).all():
            raise RowError(row, f"'{self.column}' has readings that are infinite or no numbers.")
        return _at_rate(readings, int(current), self.rate)


def waveforms(data: Dataset, column: str, rate: int) -> Recordings:
    """The recordings of a column as single channels, resampled to ``rate``.

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
    return Recordings(data, column, rate)


def _sound_reader() -> Callable[..., tuple[Waveform, int]]:
    """soundfile's function that reads a file.

    Raises:
        DataError: The package is missing.
    """
    try:
        import soundfile
    except ImportError as error:
        raise DataError('Sound files need the package soundfile: pip install "fastprune[audio]".') from error
    read: Callable[..., tuple[Waveform, int]] = soundfile.read
    return read


def _read(
    value: str | Mapping[str, Any], column: str, read: Callable[..., tuple[Waveform, int]]
) -> tuple[Waveform, int]:
    """Read a sound file: the mean of its channels [readings], and its sampling rate.

    Raises:
        DataError: The file cannot be read.
    """
    content = value if isinstance(value, str) else value.get("bytes") or value.get("path")
    if not content:
        raise DataError(f"there is no recording in '{column}'; got {shortened(value)}.")
    try:
        wave, rate = read(io.BytesIO(content) if isinstance(content, bytes) else content, dtype="float32")
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
