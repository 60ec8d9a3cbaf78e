"""Embeddings of recordings: a vector a recording, compared by cosine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from fastprune import Batch, Columns, Sample, label_column
from fastprune_tasks.frames import Convolutions, convolutions_of, frame_mask
from fastprune_tasks.image_embedding import ImageEmbedding
from fastprune_tasks.labels import LABELS, read_labels
from fastprune_tasks.recordings import encode_recordings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioEmbedding(ImageEmbedding):
    """A vector for each recording: the mean of the last hidden states of its frames.

    Attributes:
        convolutions: Kernel and stride of each convolution between readings and frames.
    """

    name: ClassVar[str] = "audio-embedding"
    heads: ClassVar[tuple[str, ...]] = ("Model",)

    convolutions: Convolutions

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Plain encoders of waveforms."""
        return class_name.endswith(cls.heads) and hasattr(config, "conv_kernel")

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """From the sizes of the convolutions."""
        return cls(convolutions=convolutions_of(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Recordings, as the feature extractor makes waveforms of them, with their ``class`` where there is one.

        Args:
            data: With a column of recordings (``waveforms`` says what they may be).
            tokenizer: The feature extractor, or a processor that holds it.
            columns: ``text`` names the column of recordings, where it has no usual name.
            max_length: Not used.
            seed: Not used.
        """
        samples = encode_recordings(data, tokenizer, columns)
        labels = read_labels(data, label_column(data, columns, LABELS))
        return [sample | {"class": label} for sample, label in zip(samples, labels, strict=True)] if labels else samples

    def real(self, outputs: Any, batch: Batch) -> Tensor:
        """The frames that are made of real readings: [samples, frames]."""
        samples, frames = outputs.last_hidden_state.shape[:2]
        return frame_mask(batch, samples, frames, self.convolutions).to(outputs.last_hidden_state.device)
