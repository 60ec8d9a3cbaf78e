"""Speech to text: what was said in a recording, by an encoder of sound and a decoder of text."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fastprune import Columns, DataError, ModelError, Sample, tokenizer_of
from fastprune_tasks.conditional_generation import ConditionalGeneration, decoded
from fastprune_tasks.recordings import encode_recordings
from fastprune_tasks.transcripts import transcripts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechToText(ConditionalGeneration):
    """A text for each recording, by a decoder that sees the text so far.

    Loss and metrics are those of conditional generation, each token after the true ones before it; the word error rate of
    what the model writes on its own takes its ``generate()``.

    Attributes:
        longest: Tokens that the decoder takes.
    """

    name: ClassVar[str] = "speech-to-text"
    heads: ClassVar[tuple[str, ...]] = ("ForConditionalGeneration", "ForSpeechSeq2Seq")

    longest: int

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Encoder-decoders that hear spectra."""
        hears = hasattr(config, "num_mel_bins") and hasattr(config, "max_target_positions")
        return class_name.endswith(cls.heads) and bool(config.is_encoder_decoder) and hears

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """From the decoder's first token and its positions."""
        settings: Any = config
        return cls(start=int(settings.decoder_start_token_id), longest=int(settings.max_target_positions))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Recordings, as the feature extractor makes spectra of them, and texts, which the decoder sees one token later.

        Args:
            data: With a column of recordings (``waveforms`` says what they may be) and one of texts.
            tokenizer: The processor: a feature extractor and a tokenizer.
            columns: ``text`` names the recordings, or recordings and texts; ``label`` the texts.
            max_length: Tokens of a text, at most.
            seed: Not used.
        """
        text = tokenizer_of(tokenizer)
        if text is None:
            raise ModelError("Speech to text needs the model's processor: a feature extractor and a tokenizer.")
        samples = encode_recordings(data, tokenizer, columns)
        said = transcripts(data, columns)
        if said is None:
            raise DataError(
                f"Speech to text reads recordings and what was said; the data has {', '.join(data.column_names)}. Name the "
                "texts as the label (--label-column), or name recordings and texts (--text-columns)."
            )
        encoded = text(said, truncation=True, max_length=min(max_length, self.longest))["input_ids"]
        for sample, ids in zip(samples, encoded, strict=True):
            sample |= decoded(ids[1:] if ids[0] == self.start else ids, self.start)
        return samples
