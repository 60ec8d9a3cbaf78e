"""Frames: what convolutions make of a waveform's readings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastprune import Batch, convolved

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Convolutions = tuple[tuple[int, int], ...]
"""Kernel and stride of each, one behind the other, without padding."""


def convolutions_of(config: PretrainedConfig) -> Convolutions:
    """Those between the readings and a head's frames, as the configuration says; an adapter has its own behind the encoder."""
    settings: Any = config
    found = list(zip(settings.conv_kernel, settings.conv_stride, strict=True))
    if getattr(config, "add_adapter", False):
        found += [(1, settings.adapter_stride)] * settings.num_adapter_layers
    return tuple((int(kernel), int(stride)) for kernel, stride in found)


def frame_mask(batch: Batch, samples: int, frames: int, convolutions: Convolutions) -> Tensor:
    """Which frames are made of real readings: [samples, frames]; all, where the batch does not say which readings are real."""
    mark = batch.get("attention_mask")
    if mark is None:
        return torch.ones(samples, frames, dtype=torch.bool)
    return convolved(mark, frames, convolutions)
