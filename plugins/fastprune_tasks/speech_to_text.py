"""Speech to text: a transcript per recording, by an encoder-decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fastprune import Columns
from fastprune.data import CUT, Batch, Sample, inputs_for, tokenizer_of
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

    Loss, perplexity and token accuracy are those of conditional generation: each token is predicted from the true tokens before
    it. The error rates are those of generated transcripts.

    Attributes:
        longest: Maximum number of tokens of the decoder.
    """

    name: ClassVar[str] = "speech-to-text"
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"perplexity", "word_error_rate", "character_error_rate"})
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
        for sample, words in zip(samples, spoken, strict=True):
            sample |= {"transcript": words, "tokenizer": text}
        return samples

    def written(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The transcripts that the model generates, [samples, tokens]; none for a model that cannot generate."""
        generate = getattr(model, "generate", None)
        if generate is None:
            return {}
        heard = batch["input_features"]  # [samples, bins, times]
        mask = batch.get("attention_mask", torch.ones_like(heard[:, 0], dtype=torch.long))  # without it, generate warns
        inputs = inputs_for(model, {"input_features": heard, "attention_mask": mask})
        return {"sequences": generate(**inputs, max_length=self.longest)}

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Word and character error rate of the generated transcripts, perplexity and token accuracy.

        Before they are compared, both transcripts are normalised as the tokenizer does it, if it has ``basic_normalize`` (Whisper:
        lower case, no punctuation).
        """
        from torchmetrics.functional.text import char_error_rate, word_error_rate  # imported here: takes seconds

        heard: list[str] = []
        said: list[str] = []

        def listened() -> Iterator[tuple[Any, Batch]]:
            for outputs, batch in results:
                if samples and "sequences" in batch:
                    for index, ids in zip(batch["sample"].tolist(), batch["sequences"], strict=True):
                        text = samples[index]["tokenizer"]
                        normalized = getattr(text, "basic_normalize", str)
                        heard.append(normalized(text.decode(ids, skip_special_tokens=True)))
                        said.append(normalized(samples[index]["transcript"]))
                yield outputs, batch

        figures = super().metrics(listened(), samples)
        if not heard:
            return figures
        errors = {"word_error_rate": word_error_rate(heard, said), "character_error_rate": char_error_rate(heard, said)}
        return {name: float(value) for name, value in errors.items()} | figures
