"""The workload that costs are counted for: made-up inputs of a length."""

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
    """What the model will be run on: cost models measure for it.

    Attributes:
        example: The model's inputs for one sample: tensors [1, ...].
        seq_len: Tokens a sample.
    """

    example: Mapping[str, Tensor]
    seq_len: int

    @staticmethod
    def of(batches: Batches) -> Workload:
        """One sample of the calibration set's mean length."""
        longest = batches.batches[-1]
        example = {name: value[:1] for name, value in model_inputs(longest, batches.task).items()}
        return Workload(example=example, seq_len=batches.mean_length)

    @staticmethod
    def made_up(model: nn.Module, seq_len: int | None = None) -> Workload:
        """One sample of text, a picture, a recording, or both of two, for a model of which no data are at hand.

        Args:
            model: A transformers model.
            seq_len: Tokens of the sample, readings of a recording; a picture or a spectrum has as many as the model makes of
                it. None: 128 tokens, or as many as the model takes; 16,000 readings.

        Raises:
            ModelError: The model takes fewer tokens, more readings, or something else.
        """
        config: Any = getattr(model, "config", None)
        takes = getattr(model, "main_input_name", "input_ids")
        seen, beside = getattr(config, "vision_config", config), signature(model.forward).parameters
        example: dict[str, Tensor] = {}
        if takes == "input_values" and hasattr(config, "conv_kernel"):
            seq_len = READINGS if seq_len is None else seq_len
            example[takes] = torch.zeros(1, _heard(config, seq_len))
        else:
            seq_len = _length(model, seq_len)
        if takes == "input_ids":
            example |= dict.fromkeys(("input_ids", "attention_mask"), torch.ones(1, seq_len, dtype=torch.long))
        if (takes == "pixel_values" or "pixel_values" in beside) and hasattr(seen, "image_size"):
            size = seen.image_size
            height, width = size if isinstance(size, (list, tuple)) else (size, size)
            example["pixel_values"] = torch.zeros(1, int(getattr(seen, "num_channels", 3)), int(height), int(width))
        if takes == "input_features" and hasattr(config, "num_mel_bins"):
            example[takes] = torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
        if takes not in example:
            raise ModelError(
                f"There is no making up '{takes}' for a {type(model).__name__}; use the Python API with a Workload of your own."
            )
        if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in beside:
            example["decoder_input_ids"] = torch.ones(1, seq_len, dtype=torch.long)
        return Workload(example=example, seq_len=seq_len)

    def inputs(self, *, batch_size: int = 1, seq_len: int | None = None) -> dict[str, Tensor]:
        """Inputs of the asked shape, made from the example by repeating its samples and its tokens."""
        length = self.seq_len if seq_len is None else seq_len
        sized = {}
        tokens = max((value.shape[1] for value in self.example.values() if value.ndim == 2), default=0)
        for name, value in self.example.items():
            # pictures have channels there, spectra have bins
            if value.shape[1:2] == (tokens,) and (value.ndim == 2 or name.endswith("inputs_embeds")):
                value = value.index_select(1, torch.arange(length, device=value.device) % tokens)
            sized[name] = value.repeat_interleave(batch_size, dim=0)
        return sized


TOKENS, READINGS = 128, 16_000
"""How long a made-up text and a made-up recording are, where nobody says."""


def _length(model: nn.Module, asked: int | None) -> int:
    """Tokens of a made-up text."""
    limit = token_limit(model)
    if asked is None:
        return min(TOKENS, limit or TOKENS)
    if limit is not None and asked > limit:
        raise ModelError(f"The model takes at most {limit} tokens; {asked} were asked for.")
    return asked


def _heard(config: Any, asked: int) -> int:
    """Readings of a made-up recording: enough for one frame."""
    least = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        least = (least - 1) * stride + kernel
    if asked < least:
        raise ModelError(f"The model takes at least {least} readings of a recording; {asked} were asked for.")
    return asked
