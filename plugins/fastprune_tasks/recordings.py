"""Recordings: the waveforms of a column, at the rate of the model's feature extractor."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastprune import Columns, DataError, ModelError, Sample, part_of

if TYPE_CHECKING:
    from datasets import Dataset

Waveform = NDArray[np.float32]

RECORDINGS = ("audio", "speech", "recording", "input_values", "file")


def classifies_recordings(class_name: str) -> bool:
    """Whether transformers lists a class among those that classify recordings; their names alone do not tell."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES as NAMES

    return class_name.endswith(tuple(NAMES.values()))


def encode_recordings(data: Dataset, processor: Any, columns: Columns) -> list[Sample]:
    """Each row's recording as the feature extractor makes tensors of it: a waveform [readings] or a spectrum [bins, times].

    Args:
        data: With a column of recordings: the first of the text columns that were named, or else the first usual one.
        processor: The feature extractor, or what holds it.
        columns: What was named.

    Raises:
        DataError: There is no such column, or a row holds no recording, or one that cannot be read.
        ModelError: The extractor does not say at which rate the model hears.
    """
    asked = columns.text
    column = asked[0] if asked else next((name for name in RECORDINGS if name in data.column_names), "")
    if column not in data.column_names:
        raise DataError(
            f"There is no column of recordings{f' {column}' if column else ''}; the data has {', '.join(data.column_names)}. "
            "Name it as the first of the text columns (--text-columns)."
        )
    extractor = part_of(processor, "feature_extractor")
    rate = getattr(extractor, "sampling_rate", None)
    if rate is None:
        raise ModelError(
            f"A {type(extractor).__name__} is no feature extractor of recordings: it has no sampling_rate."
        )
    return [
        {name: value[0] for name, value in extractor(wave, sampling_rate=rate, return_tensors="pt").items()}
        for wave in waveforms(data, column, rate)
    ]


def waveforms(data: Dataset, column: str, rate: int) -> Iterator[Waveform]:
    """Each row's recording as one channel at a rate, in readings a second: [readings].

    A row holds a file or its bytes (``datasets.Audio``), a mapping with ``array`` and ``sampling_rate``, or bare numbers, which
    are taken to be at the model's rate.

    Raises:
        DataError: A row holds none of these.
    """
    from datasets import Audio  # takes seconds

    if isinstance(data.features[column], Audio):
        data = data.cast_column(column, Audio(decode=False))
    for row, value in enumerate(data[column]):
        if isinstance(value, str) or (isinstance(value, Mapping) and "array" not in value):
            wave, own = _read(value, f"Row {row} of '{column}'")
        else:
            wave, own = (value["array"], value["sampling_rate"]) if isinstance(value, Mapping) else (value, rate)
        try:
            readings = np.asarray(wave, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"Row {row} of '{column}' is no recording, but {value!r}.") from error
        if readings.ndim != 1 or len(readings) == 0:
            raise DataError(f"Row {row} of '{column}' must hold the readings of one channel; got {readings.shape}.")
        yield _at_rate(readings, int(own), rate)


def _read(value: str | Mapping[str, Any], where: str) -> tuple[Waveform, int]:
    """A sound file's channels as one, and its rate.

    Raises:
        DataError: It cannot be read, or the package that reads it is missing.
    """
    try:
        import soundfile
    except ImportError as error:
        raise DataError('Sound files need the package soundfile: pip install "fastprune[audio]".') from error
    content = value if isinstance(value, str) else value.get("bytes") or value.get("path")
    if not content:
        raise DataError(f"{where} holds no recording, but {value!r}.")
    try:
        wave, rate = soundfile.read(io.BytesIO(content) if isinstance(content, bytes) else content, dtype="float32")
    except (OSError, RuntimeError) as error:
        raise DataError(f"{where} cannot be read as a sound file: {error}") from error
    return (wave if wave.ndim == 1 else wave.mean(1)), rate


def _at_rate(wave: Waveform, own: int, rate: int) -> Waveform:
    """The waveform at another rate: [readings] -> [readings]."""
    if own == rate:
        return wave
    from scipy.signal import resample_poly  # takes seconds

    common = math.gcd(own, rate)
    resampled: Waveform = resample_poly(wave, rate // common, own // common).astype(np.float32)
    return resampled
