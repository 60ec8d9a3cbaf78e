"""Workloads: dummy inputs of a given length, for cost models and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.batches import Batches, model_inputs, token_limit
from fastprune.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Inputs that costs are measured for.

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
        config: Any = getattr(model, "config", None)
        main_input = getattr(model, "main_input_name", "input_ids")
        vision, arguments = getattr(config, "vision_config", config), signature(model.forward).parameters
        example: dict[str, Tensor] = {}
        if main_input == "input_values" and hasattr(config, "conv_kernel"):
            seq_len = READINGS if seq_len is None else seq_len
            example[main_input] = torch.zeros(1, _recording_length(config, seq_len))
        else:
            seq_len = _text_length(model, seq_len)
        if main_input == "input_ids":
            example |= dict.fromkeys(("input_ids", "attention_mask"), torch.ones(1, seq_len, dtype=torch.long))
        if (main_input == "pixel_values" or "pixel_values" in arguments) and hasattr(vision, "image_size"):
            size = vision.image_size
            height, width = size if isinstance(size, (list, tuple)) else (size, size)
            example["pixel_values"] = torch.zeros(1, int(getattr(vision, "num_channels", 3)), int(height), int(width))
        if main_input == "input_features" and hasattr(config, "num_mel_bins"):
            example[main_input] = torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
        if main_input not in example:
            raise ModelError(
                f"There are no dummy inputs for '{main_input}' of a {type(model).__name__}; "
                "use the Python API with your own Workload."
            )
        if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in arguments:
            example["decoder_input_ids"] = torch.ones(1, seq_len, dtype=torch.long)
        return Workload(example=example, seq_len=seq_len)

    def inputs(self, *, batch_size: int = 1, seq_len: int | None = None) -> dict[str, Tensor]:
        """Repeat the example to ``batch_size`` samples of ``seq_len`` tokens [None: the workload's]: tensors [batch_size, ...]."""
        length = self.seq_len if seq_len is None else seq_len
        sized = {}
        tokens = max((value.shape[1] for value in self.example.values() if value.ndim == 2), default=0)
        for name, value in self.example.items():
            # the second dimension of images is channels, that of spectrograms bins
            if value.shape[1:2] == (tokens,) and (value.ndim == 2 or name.endswith("inputs_embeds")):
                value = value.index_select(1, torch.arange(length, device=value.device) % tokens)
            sized[name] = value.repeat_interleave(batch_size, dim=0)
        return sized


TOKENS, READINGS = 128, 16_000
"""Default lengths of a dummy text (tokens) and a dummy recording (readings)."""


def _text_length(model: nn.Module, seq_len: int | None) -> int:
    """Number of tokens of a dummy text, checked against the model's limit."""
    limit = token_limit(model)
    if seq_len is None:
        return min(TOKENS, limit or TOKENS)
    if limit is not None and seq_len > limit:
        raise ModelError(f"The model takes at most {limit} tokens; {seq_len} were requested.")
    return seq_len


def _recording_length(config: Any, seq_len: int) -> int:
    """Number of readings of a dummy recording, checked to give at least one frame."""
    least = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        least = (least - 1) * stride + kernel
    if seq_len < least:
        raise ModelError(f"The model takes at least {least} readings of a recording; {seq_len} were requested.")
    return seq_len
