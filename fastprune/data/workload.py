"""Workloads: dummy inputs of a given length, for cost models and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.batches import Batches, check_length, end_token, model_inputs, token_limit
from fastprune.errors import ModelError
from fastprune.ranges import BATCH, LENGTH, check_integer


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Example inputs for measuring costs.

    Attributes:
        example: The model's inputs for one sample, tensors [1, ...].
        seq_len: Tokens per sample.
    """

    example: Mapping[str, Tensor]
    seq_len: int

    @staticmethod
    def of(batches: Batches) -> Workload:
        """A workload from a calibration set: inputs of one of its longest samples, and the mean length."""
        longest = batches.batches[-1]
        example = {name: value[:1] for name, value in model_inputs(longest, batches.task).items()}
        return Workload(example=example, seq_len=batches.mean_length)

    @staticmethod
    def dummy(model: nn.Module, seq_len: int | None = None) -> Workload:
        """A dummy workload for a model without data: a text, an image, a recording, or an image with a text.

        Args:
            model: A transformers model.
            seq_len: Tokens of the text, or readings of the recording [None: 128 tokens or the model's limit, 16,000 readings].
                Images and spectrograms have a fixed size.

        Raises:
            ModelError: ``seq_len`` is too long for a text model or too short for a speech model, or the model has another input.
        """
        seq_len = check_integer("seq_len", seq_len, LENGTH)
        seq_len = _readings(model, seq_len) if _takes_recordings(model) else _tokens(model, seq_len)
        return Workload(example=dummy_inputs(model, [seq_len]), seq_len=seq_len)

    def inputs(self, *, batch_size: int = 1, seq_len: int | None = None) -> dict[str, Tensor]:
        """Repeat the example to ``batch_size`` samples of ``seq_len`` tokens [None: the workload's]: tensors [batch_size, ...]."""
        check_integer("batch_size", batch_size, BATCH)
        check_integer("seq_len", seq_len, LENGTH)
        length = self.seq_len if seq_len is None else seq_len
        sized = {}
        tokens = max((value.shape[1] for value in self.example.values() if value.ndim == 2), default=0)
        places = torch.arange(length) % max(tokens, 1)
        places[-1:] = tokens - 1  # the last token stays, since some classifiers read its state
        for name, value in self.example.items():
            # the second dimension of images is channels, that of spectrograms bins
            if value.shape[1:2] == (tokens,) and (value.ndim == 2 or name.endswith(("inputs_embeds", "bbox"))):
                value = value.index_select(1, places.to(value.device))
            sized[name] = value.repeat_interleave(batch_size, dim=0)
        return sized


TOKENS, READINGS = 128, 16_000
"""Default lengths of a dummy text (tokens) and a dummy recording (readings)."""


def dummy_inputs(
    model: nn.Module, lengths: Sequence[int], generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Dummy inputs of a model: texts, images, recordings, spectrograms, or several of them.

    Args:
        model: A transformers model.
        lengths: Tokens of each sample, or readings of each recording; shorter samples are padded on the right. Images and
            spectrograms have the size in the model's configuration.
        generator: Random generator for tokens, pixels and readings [None: one token everywhere, and zeros].

    Returns:
        Tensors [samples, ...] by the names of the model's arguments, on the CPU.

    Raises:
        ModelError: The type of the model's main input is not supported.
    """
    config: Any = getattr(model, "config", None)
    main, samples = getattr(model, "main_input_name", "input_ids"), len(lengths)
    takes = {main, *signature(model.forward).parameters}
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]  # [samples, tokens]

    def drawn(*shape: int) -> Tensor:
        return torch.zeros(shape) if generator is None else torch.randn(shape, generator=generator)

    made: dict[str, Tensor] = {}
    for ids, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        if ids in takes:
            made |= {ids: _dummy_tokens(config, real, generator), mask: real.long()}
    if "bbox" in takes and hasattr(config, "max_2d_position_embeddings"):
        made["bbox"] = _boxes(real, min(1001, config.max_2d_position_embeddings), generator)
    end = end_token(model)
    if end is not None:
        made["input_ids"] = _ended(made["input_ids"], real, end)
    seen = getattr(config, "vision_config", config)
    if "pixel_values" in takes and hasattr(seen, "image_size"):
        size = seen.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        made["pixel_values"] = drawn(samples, int(getattr(seen, "num_channels", 3)), int(height), int(width))
    if "input_features" in takes and hasattr(config, "num_mel_bins"):
        made["input_features"] = drawn(samples, config.num_mel_bins, 2 * config.max_source_positions)
    if _takes_recordings(model):
        made |= {"input_values": drawn(*real.shape) * real, "attention_mask": real.long()}
    if main not in made:
        raise ModelError(
            f"There are no dummy inputs for '{main}' of a {type(model).__name__}; "
            "use the Python API with your own Workload."
        )
    return made


def readings_for(model: nn.Module, tokens: int) -> int:
    """Minimum number of readings of a recording for this number of tokens; for models of other inputs, ``tokens`` itself."""
    config: Any = getattr(model, "config", None)
    if _takes_recordings(model):
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            tokens = (tokens - 1) * stride + kernel
    return tokens


def _takes_recordings(model: nn.Module) -> bool:
    """Whether the model's inputs are the readings of recordings, which convolutions turn into tokens."""
    config = getattr(model, "config", None)
    return getattr(model, "main_input_name", "") == "input_values" and hasattr(config, "conv_kernel")


def _dummy_tokens(config: Any, real: Tensor, generator: torch.Generator | None) -> Tensor:
    """Token ids at the positions in ``real`` [samples, tokens], and the padding token elsewhere."""
    words, pad = config.get_text_config().vocab_size, getattr(config, "pad_token_id", None) or 0
    first = pad + 1 if pad + 1 < words else 0
    if generator is None:
        return torch.where(real, first, pad)
    return torch.where(real, torch.randint(first, words if first else pad, real.shape, generator=generator), pad)


def _boxes(real: Tensor, places: int, generator: torch.Generator | None) -> Tensor:
    """The box of each token on a page of ``places`` x ``places`` [None: no place], as left, top, right, bottom:
    [samples, tokens, 4]."""
    if generator is None:
        return torch.zeros(*real.shape, 4, dtype=torch.long)
    corners = torch.randint(0, places, (*real.shape, 2, 2), generator=generator).sort(dim=-2).values
    return corners.flatten(-2) * real[..., None]


def _ended(tokens: Tensor, real: Tensor, end: int) -> Tensor:
    """Tokens [samples, tokens] of which the last in ``real``, and no other, is the end of the text."""
    last = real & ~torch.nn.functional.pad(real[:, 1:], (0, 1))
    return torch.where(last, end, torch.where(tokens == end, end + 1, tokens))


def _tokens(model: nn.Module, requested: int | None) -> int:
    """Number of tokens of a dummy text, checked against the model's limit."""
    if requested is None:
        return min(TOKENS, token_limit(model) or TOKENS)
    check_length(model, requested)
    return requested


def _readings(model: nn.Module, requested: int | None) -> int:
    """Number of readings of a dummy recording, checked to give at least one token."""
    least, requested = readings_for(model, 1), READINGS if requested is None else requested
    if requested < least:
        raise ModelError(f"The model takes at least {least} readings of a recording; {requested} were requested.")
    return requested
