"""Connectionist temporal classification: a text for each recording, from a token or none for every frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastprune import Batch, Columns, DataError, ModelError, Sample, Task, tokenizer_of
from fastprune_tasks.frames import Convolutions, convolutions_of, frame_mask
from fastprune_tasks.labels import labels_of
from fastprune_tasks.likelihood import NO_LABEL, draw_categorical, full_precision
from fastprune_tasks.recordings import encode_recordings
from fastprune_tasks.transcripts import transcripts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class CTC(Task):
    """A text for each recording, from a token or the blank for every frame (Graves et al., ICML 2006).

    Attributes:
        blank: The token that stands for none.
        convolutions: Kernel and stride of each convolution between readings and frames.
    """

    name: ClassVar[str] = "ctc"
    heads: ClassVar[tuple[str, ...]] = ("ForCTC",)
    token_label_names: ClassVar[tuple[str, ...]] = ("labels",)
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"word_error_rate", "character_error_rate"})

    blank: int
    convolutions: Convolutions

    @classmethod
    def serves(cls, config: PretrainedConfig, class_name: str) -> bool:
        """Heads above convolutions of a waveform."""
        return super().serves(config, class_name) and hasattr(config, "conv_kernel")

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """From the padding token, which is the blank, and the sizes of the convolutions."""
        return cls(blank=int(config.pad_token_id or 0), convolutions=convolutions_of(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Recordings, as the feature extractor makes waveforms of them, and the tokens of what was said.

        Args:
            data: With a column of recordings (``waveforms`` says what they may be), and perhaps one of texts.
            tokenizer: The processor: a feature extractor and a tokenizer.
            columns: ``text`` names the recordings, or recordings and texts; ``label`` the texts.
            max_length: Not used.
            seed: Not used.
        """
        text: Any = tokenizer_of(tokenizer)
        if text is None:
            raise ModelError("CTC needs the model's processor: a feature extractor and a tokenizer.")
        samples = encode_recordings(data, tokenizer, columns)
        said = transcripts(data, columns)
        if said is None:
            return samples
        encoded = text(said)["input_ids"]
        _check_known(said, encoded, text)
        for sample, ids, words in zip(samples, encoded, said, strict=True):
            sample |= {"labels": ids, "said": words, "decode": text.decode}
        return samples

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Negative log of the sum over all paths that collapse to the text, [samples]; 0 for a text of more tokens than
        there are frames for."""
        labels = batch["labels"]
        there = labels != NO_LABEL  # [samples, tokens]
        log_probabilities = full_precision(outputs.logits).log_softmax(-1).transpose(0, 1)  # [frames, samples, tokens]
        frames = self._frames(outputs, batch).sum(1)
        return F.ctc_loss(
            log_probabilities,
            labels[there],
            frames,
            there.sum(1),
            blank=self.blank,
            reduction="none",
            zero_infinity=True,
        )

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """A token drawn for every frame, and the path collapsed: [samples, tokens], -100 behind the text.

        Given the recording, CTC's frames are independent and a text's probability is the sum over its paths, so that this
        draws from the model's own distribution over texts, exactly.
        """
        logits = outputs.logits
        path = draw_categorical(logits.flatten(0, 1), generator).reshape(logits.shape[:2])  # [samples, frames]
        texts = self._collapsed(path, self._frames(outputs, batch))
        return {"labels": nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=NO_LABEL)}

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """Word and character error rate of each frame's likeliest token, read without a language model."""
        from torchmetrics.functional.text import char_error_rate, word_error_rate  # takes seconds

        heard, said = [], []
        for outputs, batch in results:
            labels_of(batch)
            if not samples:
                raise DataError("Metrics of CTC need the encoded samples, to know the texts; use make_batches.")
            for path, real, index in zip(
                outputs.logits.argmax(-1), self._frames(outputs, batch), batch["sample"].tolist(), strict=True
            ):
                heard.append(samples[index]["decode"](path[real].tolist()))
                said.append(samples[index]["said"])
        return {
            "word_error_rate": float(word_error_rate(heard, said)),
            "character_error_rate": float(char_error_rate(heard, said)),
        }

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Agreement of the frames where one of the two hears a token, and the share of recordings of which both make the
        same text."""
        frames, texts = [], []
        for one, other, batch in zip(teacher, student, batches, strict=True):
            real = self._frames(one, batch)
            paths = [outputs.logits.argmax(-1) for outputs in (one, other)]  # [samples, frames]
            told = real & ((paths[0] != self.blank) | (paths[1] != self.blank))
            frames.append((paths[0] == paths[1])[told])
            made = [self._collapsed(path, real) for path in paths]
            texts += [torch.equal(mine, theirs) for mine, theirs in zip(*made, strict=True)]
        same = torch.cat(frames)
        return {
            "agreement": float(same.float().mean()) if len(same) else 1.0,
            "same_texts": sum(texts) / len(texts),
        }

    def _frames(self, outputs: Any, batch: Batch) -> Tensor:
        """Which frames are real: [samples, frames]; all, where nobody said which readings are."""
        samples, frames = outputs.logits.shape[:2]
        return frame_mask(batch, samples, frames, self.convolutions).to(outputs.logits.device)

    def _collapsed(self, path: Tensor, real: Tensor) -> list[Tensor]:
        """Each sample's text: repetitions are one token, blanks are none: [samples, frames] to as many [tokens]."""
        runs = [torch.unique_consecutive(each[there]) for each, there in zip(path, real, strict=True)]
        return [run[run != self.blank] for run in runs]


def _check_known(said: Sequence[str], encoded: Sequence[Sequence[int]], tokenizer: Any) -> None:
    """Refuse texts that the vocabulary does not spell, such as small letters where it has only capitals.

    Raises:
        DataError: More than half of the tokens are unknown.
    """
    tokens = [token for ids in encoded for token in ids]
    unknown = tokens.count(tokenizer.unk_token_id)
    if 2 * unknown > len(tokens):
        known = " ".join(sorted(tokenizer.get_vocab())[:40])
        raise DataError(
            f"The vocabulary does not know {unknown} of the {len(tokens)} tokens of the texts, such as {said[0]!r}. It has "
            f"{known}; write the texts in its letters, capitals or small."
        )
