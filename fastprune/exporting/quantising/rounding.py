"""Rounding of weights to 8 and 4 bits: a scale per output, per row, or per block of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

BLOCK = 32
"""Number of weights with one scale, where blocks have scales."""
FACTORS = np.linspace(1.0, 0.7, 7)
"""Clipped ranges of a block that are compared, as shares of its largest weight."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Weights in blocks along their inputs, the last of which may be shorter.

    Attributes:
        numbers: Integers without sign, [outputs, inputs]; the middle of their range stands for 0.
        scales: Float32, [outputs, blocks].
        bits: Bits of an integer.
    """

    numbers: np.ndarray
    scales: np.ndarray
    bits: Literal[4, 8]

    @property
    def weights(self) -> np.ndarray:
        """The weights that are computed with, [inputs, outputs], float32."""
        each = np.repeat(self.scales, BLOCK, axis=1)[:, : self.numbers.shape[1]]  # [outputs, inputs]
        weights: np.ndarray = ((self.numbers.astype(np.float32) - zero(self.bits)) * each).T
        return weights

    def packed(self) -> np.ndarray:
        """The integers as onnxruntime's MatMulNBits takes them: [outputs, blocks, bytes], padded with 0 to whole blocks."""
        outputs, inputs = self.numbers.shape
        blocks = self.scales.shape[1]
        padded = np.full((outputs, blocks * BLOCK), zero(self.bits), dtype=np.uint8)
        padded[:, :inputs] = self.numbers
        padded = padded if self.bits == 8 else padded[:, 0::2] | padded[:, 1::2] << 4
        return padded.reshape(outputs, blocks, -1)


def zero(bits: int) -> int:
    """The integer without sign that stands for 0."""
    return 1 << bits - 1


def rounded_outputs(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed 8-bit integers and a scale for each output.

    Args:
        weights: [inputs, outputs].

    Returns:
        Integers [inputs, outputs], scales [outputs].
    """
    scales = _nonzero(np.abs(weights).max(0) / 127)
    return np.rint(weights / scales).astype(np.int8), scales.astype(np.float32)


def rounded_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed 8-bit integers [rows, features] and a scale for each row [rows, 1]."""
    numbers, scales = rounded_outputs(rows.T)
    return np.ascontiguousarray(numbers.T), scales[:, None]


def block_scales(weights: np.ndarray, bits: Literal[4, 8], importance: np.ndarray | None = None) -> np.ndarray:
    """The scale of each block of inputs with the least squared error of its weights.

    Args:
        weights: [inputs, outputs].
        bits: Bits of an integer.
        importance: Weight of each input's error, such as the mean square of the input, [inputs]; None: all the same.

    Returns:
        Scales with the sign of the block's largest weight reversed, for the range has one more number below 0: [outputs, blocks].
    """
    inputs, outputs = weights.shape
    blocks = -(-inputs // BLOCK)
    padded = np.zeros((outputs, blocks * BLOCK), dtype=np.float32)
    padded[:, :inputs] = weights.T
    padded = padded.reshape(outputs, blocks, BLOCK)
    counted = np.zeros(blocks * BLOCK, dtype=np.float32)
    counted[:inputs] = 1 if importance is None else importance
    counted = counted.reshape(1, blocks, BLOCK)
    largest = np.take_along_axis(padded, np.abs(padded).argmax(2, keepdims=True), 2)  # [outputs, blocks, 1]
    best, least = _nonzero(largest / -zero(bits)), np.full((outputs, blocks, 1), np.inf, dtype=np.float32)
    for factor in FACTORS if bits < 8 else FACTORS[:1]:
        scale = _nonzero(factor * largest / -zero(bits))
        off = _integers(padded / scale, bits) * scale - padded
        error = (off**2 * counted).sum(2, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best[:, :, 0].astype(np.float32)


def rounded_blocks(weights: np.ndarray, bits: Literal[4, 8], scales: np.ndarray | None = None) -> Blocks:
    """Weights [inputs, outputs] as the nearest integers, with a scale for each block of 32 inputs [scales: ``block_scales``]."""
    scales = block_scales(weights, bits) if scales is None else scales
    each = np.repeat(scales, BLOCK, axis=1)[:, : weights.shape[0]]  # [outputs, inputs]
    numbers = _integers(weights.T / each, bits) + zero(bits)
    return Blocks(numbers.astype(np.uint8), scales, bits)


def _integers(values: np.ndarray, bits: int) -> np.ndarray:
    found: np.ndarray = np.clip(np.rint(values), -zero(bits), zero(bits) - 1)
    return found


def _nonzero(scales: np.ndarray) -> np.ndarray:
    """Scales, 1 instead of 0 where all weights are 0."""
    found: np.ndarray = np.where(scales == 0, 1, scales)
    return found
