"""Speech to text: a transcript per recording, by an encoder-decoder."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fastprune import Columns
from fastprune.data import CUT, Sample, tokenizer_of
from fastprune.errors import DataError, ModelError
from fastprune_tasks.conditional_generation import ConditionalGeneration, decoded
from fastprune_tasks.recordings import RECORDING_COLUMNS, encode_recordings
from fastprune_tasks.texts import tokenized
from fastprune_tasks.transcripts import TRANSCRIPTS, transcripts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechToText(ConditionalGeneration):
    """A transcript per recording, by a decoder under teacher forcing.

    Loss and metrics are those of conditional generation: each token is predicted from the true tokens before it. For the word
    error rate of generated transcripts, use the model's ``generate()``.

    Attributes:
        longest: Maximum number of tokens of the decoder.
    """

    name: ClassVar[str] = "speech-to-text"
    heads: ClassVar[tuple[str, ...]] = ("ForConditionalGeneration", "ForSpeechSeq2Seq")
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = RECORDING_COLUMNS
    usual_labels: ClassVar[tuple[str, ...]] = TRANSCRIPTS
    label_form: ClassVar[str] = "transcript"

    longest: int

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Encoder-decoders with spectrogram inputs."""
        hears = hasattr(config, "num_mel_bins") and hasattr(config, "max_target_positions")
        return class_name.endswith(cls.heads) and bool(config.is_encoder_decoder) and hears

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read the decoder's start token and its number of positions."""
        settings: Any = config
        return cls(start=int(settings.decoder_start_token_id), longest=int(settings.max_target_positions))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode recordings as spectrograms with the feature extractor, and transcripts as tokens, shifted for the decoder.

        Args:
            data: Has a column of recordings (formats: see ``waveforms``) and one of transcripts.
            tokenizer: The processor: a feature extractor and a tokenizer.
            columns: ``text`` names the column of recordings, or those of recordings and transcripts; ``label`` names the
                column of transcripts.
            max_length: Maximum number of tokens of a transcript.
            seed: Not used.
        """
        text = tokenizer_of(tokenizer)
        if text is None:
            raise ModelError("Speech to text needs the model's processor: a feature extractor and a tokenizer.")
        samples = encode_recordings(data, tokenizer, columns)
        spoken = transcripts(data, columns)
        if spoken is None:
            raise DataError(
                f"Speech to text needs recordings and transcripts; the data has {', '.join(data.column_names)}. Name the column of "
                "transcripts (--label-column), or the columns of recordings and transcripts (--text-columns)."
            )
        for sample, spelt in zip(samples, tokenized(text, [spoken], min(max_length, self.longest)), strict=True):
            ids = spelt["input_ids"]
            sample |= decoded(ids[1:] if ids[0] == self.start else ids, self.start)
            sample |= {CUT: sample.get(CUT, {}) | spelt[CUT]} if CUT in spelt else {}
        return samples
