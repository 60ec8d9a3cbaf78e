"""Frames: the outputs of strided convolutions over a waveform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastprune.calibration import convolved
from fastprune.data import Batch

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Convolutions = tuple[tuple[int, int], ...]
"""Kernel and stride of each convolution, in order; no padding."""


def convolutions_of(config: PretrainedConfig) -> Convolutions:
    """Read the convolutions between the waveform and the head's frames, including those of an adapter behind the encoder."""
    settings: Any = config
    convolutions = list(zip(settings.conv_kernel, settings.conv_stride, strict=True))
    if getattr(config, "add_adapter", False):
        convolutions += [(1, settings.adapter_stride)] * settings.num_adapter_layers
    return tuple((int(kernel), int(stride)) for kernel, stride in convolutions)


def frame_mask(batch: Batch, samples: int, frames: int, convolutions: Convolutions) -> Tensor:
    """Mask of the frames without padding: [samples, frames]; all frames if the batch has no attention mask."""
    mask = batch.get("attention_mask")  # [samples, readings]
    if mask is None:
        return torch.ones(samples, frames, dtype=torch.bool)
    return convolved(mask, frames, convolutions)
