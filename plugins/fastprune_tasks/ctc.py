"""Connectionist temporal classification (CTC): a transcript from one token or blank per frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastprune import Columns
from fastprune.data import NO_LABEL, Batch, Sample, Task, tokenizer_of
from fastprune.errors import DataError, ModelError
from fastprune_tasks.frames import Convolutions, convolutions_of, frame_mask
from fastprune_tasks.labels import labels_of
from fastprune_tasks.likelihood import draw_categorical, full_precision
from fastprune_tasks.recordings import RECORDING_COLUMNS, encode_recordings
from fastprune_tasks.transcripts import TRANSCRIPTS, transcripts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class CTC(Task):
    """A transcript per recording, from one token or blank per frame (Graves et al., ICML 2006).

    Attributes:
        blank: Index of the blank token.
        convolutions: Kernel and stride of each convolution between the waveform and the frames.
    """

    name: ClassVar[str] = "ctc"
    heads: ClassVar[tuple[str, ...]] = ("ForCTC",)
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = RECORDING_COLUMNS
    usual_labels: ClassVar[tuple[str, ...]] = TRANSCRIPTS
    label_form: ClassVar[str] = "transcript"
    token_label_names: ClassVar[tuple[str, ...]] = ("labels",)
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"word_error_rate", "character_error_rate"})

    blank: int
    convolutions: Convolutions

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """CTC heads of models with strided convolutions over the waveform."""
        return super().serves(config, class_name) and hasattr(config, "conv_kernel")

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read the padding token, which serves as the blank, and the sizes of the convolutions."""
        return cls(blank=int(config.pad_token_id or 0), convolutions=convolutions_of(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode recordings with the feature extractor, and transcripts as tokens.

        Args:
            data: Has a column of recordings (formats: see ``waveforms``) and optionally one of transcripts.
            tokenizer: The processor: a feature extractor and a tokenizer.
            columns: ``text`` names the column of recordings, or those of recordings and transcripts; ``label`` names the
                column of transcripts.
            max_length: Not used.
            seed: Not used.
        """
        text: Any = tokenizer_of(tokenizer)
        if text is None:
            raise ModelError("CTC needs the model's processor: a feature extractor and a tokenizer.")
        samples = encode_recordings(data, tokenizer, columns)
        spoken = transcripts(data, columns)
        if spoken is None:
            return samples
        encoded = text(spoken)["input_ids"]
        _check_vocabulary(spoken, encoded, text)
        for sample, ids, words in zip(samples, encoded, spoken, strict=True):
            sample |= {"labels": ids, "transcript": words, "decode": text.decode}
        return samples

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """CTC loss, [samples]: negative log of the total probability of all paths that collapse to the transcript.

        0 for a transcript with too many tokens for its frames.
        """
        labels = batch["labels"]
        labelled = labels != NO_LABEL  # [samples, tokens]
        log_probabilities = full_precision(outputs.logits).log_softmax(-1).transpose(0, 1)  # [frames, samples, tokens]
        frames = self._frames(outputs, batch).sum(1)
        return F.ctc_loss(
            log_probabilities,
            labels[labelled],
            frames,
            labelled.sum(1),
            blank=self.blank,
            reduction="none",
            zero_infinity=True,
        )

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw a token for each frame and collapse the path: [samples, tokens], -100 behind the transcript.

        Given the recording, CTC's frames are independent and the probability of a transcript is the sum over its paths, so this
        samples exactly from the model's distribution over transcripts.
        """
        logits = outputs.logits
        path = draw_categorical(logits.flatten(0, 1), generator).reshape(logits.shape[:2])  # [samples, frames]
        texts = self._collapsed(path, self._frames(outputs, batch))
        return {"labels": nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=NO_LABEL)}

    def missing(self, samples: Sequence[Mapping[str, Any]]) -> str:
        """What the metrics need: labels, and the transcripts of encoded samples."""
        absent = super().missing(samples)
        if absent or all("transcript" in sample for sample in samples):
            return absent
        return "Metrics of CTC need the encoded samples with their transcripts; use make_batches."

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Word and character error rate of greedy decoding (most likely token per frame) without a language model."""
        from torchmetrics.functional.text import (
            char_error_rate,
            word_error_rate,
        )  # imported here because it takes seconds

        predicted, expected = [], []
        for outputs, batch in results:
            labels_of(batch)
            if not samples:
                raise DataError("Metrics of CTC need the encoded samples with their transcripts; use make_batches.")
            for path, real, index in zip(
                outputs.logits.argmax(-1), self._frames(outputs, batch), batch["sample"].tolist(), strict=True
            ):
                predicted.append(samples[index]["decode"](path[real].tolist()))
                expected.append(samples[index]["transcript"])
        return {
            "word_error_rate": float(word_error_rate(predicted, expected)),
            "character_error_rate": float(char_error_rate(predicted, expected)),
        }

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Agreement of the frames at which at least one model predicts no blank, and share of identical transcripts."""
        frames, texts = [], []
        for one, other, batch in zip(teacher, student, batches, strict=True):
            real = self._frames(one, batch)
            paths = [outputs.logits.argmax(-1) for outputs in (one, other)]  # [samples, frames]
            spoken = real & ((paths[0] != self.blank) | (paths[1] != self.blank))
            frames.append((paths[0] == paths[1])[spoken])
            collapsed = [self._collapsed(path, real) for path in paths]
            texts += [torch.equal(left, right) for left, right in zip(*collapsed, strict=True)]
        same = torch.cat(frames)
        return {
            "agreement": float(same.float().mean()) if len(same) else 1.0,
            "same_texts": sum(texts) / len(texts),
        }

    def _frames(self, outputs: Any, batch: Batch) -> Tensor:
        """Mask of the frames without padding: [samples, frames]; all frames if the batch has no attention mask."""
        samples, frames = outputs.logits.shape[:2]
        return frame_mask(batch, samples, frames, self.convolutions).to(outputs.logits.device)

    def _collapsed(self, path: Tensor, real: Tensor) -> list[Tensor]:
        """Merge repetitions and remove blanks: [samples, frames] -> a list of [tokens], one per sample."""
        runs = [torch.unique_consecutive(each[mask]) for each, mask in zip(path, real, strict=True)]
        return [run[run != self.blank] for run in runs]


def _check_vocabulary(texts: Sequence[str], encoded: Sequence[Sequence[int]], tokenizer: Any) -> None:
    """Refuse transcripts outside the vocabulary, such as lower case with a vocabulary of capitals.

    Raises:
        DataError: More than half of the tokens are unknown.
    """
    tokens = [token for ids in encoded for token in ids]
    unknown = tokens.count(tokenizer.unk_token_id)
    if 2 * unknown > len(tokens):
        vocabulary = " ".join(sorted(tokenizer.get_vocab())[:40])
        raise DataError(
            f"{unknown} of the {len(tokens)} tokens of the transcripts are not in the vocabulary, for instance in {texts[0]!r}. "
            f"The vocabulary has {vocabulary}; write the transcripts in these letters (upper or lower case)."
        )
