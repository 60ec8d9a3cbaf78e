"""Audio classification: one or several classes per recording."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from fastprune import Columns
from fastprune.data import Sample
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.recordings import RECORDING_COLUMNS, classifies_recordings, encode_recordings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioClassification(SequenceClassification):
    """One class per recording, or with ``multi_label`` any number of classes."""

    name: ClassVar[str] = "audio-classification"
    heads: ClassVar[tuple[str, ...]] = ("ForAudioClassification", "ForSequenceClassification")
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = RECORDING_COLUMNS

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Model classes in transformers' list of audio classifiers."""
        return classifies_recordings(class_name)

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode recordings with the feature extractor, and labels as class numbers.

        Args:
            data: Has a column of recordings (formats: see ``waveforms``).
            tokenizer: The feature extractor, or a processor that contains it.
            columns: ``text`` names the column of recordings [default: the first usual name].
            max_length: Not used.
            seed: Not used.
        """
        samples = encode_recordings(data, tokenizer, columns)
        return self.labelled(samples, data, columns)
