"""Embeddings of recordings: one vector per recording, compared by cosine similarity."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from fastprune import Columns
from fastprune.data import Batch, Sample, label_column
from fastprune_tasks.frames import Convolutions, convolutions_of, frame_mask
from fastprune_tasks.image_embedding import ImageEmbedding
from fastprune_tasks.labels import LABELS, read_labels
from fastprune_tasks.recordings import RECORDING_COLUMNS, encode_recordings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioEmbedding(ImageEmbedding):
    """One vector per recording: the mean over its frames of the last hidden states.

    Attributes:
        convolutions: Kernel and stride of each convolution between the waveform and the frames.
    """

    name: ClassVar[str] = "audio-embedding"
    heads: ClassVar[tuple[str, ...]] = ("Model",)
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = RECORDING_COLUMNS

    convolutions: Convolutions

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Plain encoders of waveforms."""
        return class_name.endswith(cls.heads) and hasattr(config, "conv_kernel")

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read the sizes of the convolutions."""
        return cls(convolutions=convolutions_of(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode recordings with the feature extractor; a label, if the data has one, becomes the sample's ``class``.

        Args:
            data: Has a column of recordings (formats: see ``waveforms``).
            tokenizer: The feature extractor, or a processor that contains it.
            columns: ``text`` names the column of recordings [default: the first usual name].
            max_length: Not used.
            seed: Not used.
        """
        samples = encode_recordings(data, tokenizer, columns)
        labels = read_labels(data, label_column(data, columns, LABELS))
        return [sample | {"class": label} for sample, label in zip(samples, labels, strict=True)] if labels else samples

    def real(self, outputs: Any, batch: Batch) -> Tensor:
        """Mask of the frames without padding: [samples, frames], bool."""
        samples, frames = outputs.last_hidden_state.shape[:2]
        return frame_mask(batch, samples, frames, self.convolutions).to(outputs.last_hidden_state.device)
