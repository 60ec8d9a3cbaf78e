"""Audio classification: one class a recording, or several."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from fastprune import Columns, Sample
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.recordings import classifies_recordings, encode_recordings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioClassification(SequenceClassification):
    """One class a recording, or with ``multi_label`` any number of them."""

    name: ClassVar[str] = "audio-classification"
    heads: ClassVar[tuple[str, ...]] = ("ForAudioClassification", "ForSequenceClassification")

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Classes that transformers lists as classifying recordings."""
        return classifies_recordings(class_name)

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Recordings, as the model's feature extractor makes tensors of them, and class numbers.

        Args:
            data: With a column of recordings (``waveforms`` says what they may be).
            tokenizer: The feature extractor, or a processor that holds it.
            columns: ``text`` names the column of recordings, where it has no usual name.
            max_length: Not used.
            seed: Not used.
        """
        samples = encode_recordings(data, tokenizer, columns)
        return self.labelled(samples, data, columns)
