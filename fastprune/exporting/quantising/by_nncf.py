"""Quantising of OpenVINO's graphs by NNCF: 8-bit products and tables, or 8- or 4-bit weights alone."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    import openvino

BLOCK = 32
"""Number of weights with one scale, of 4-bit weights."""
FEWEST = 16
"""Constants with fewer rows or columns are not counted: biases, scales, small tables."""
Feed = Mapping[str, np.ndarray]
"""All inputs of a graph by name."""


@dataclass(frozen=True)
class Way:
    """A way to quantise a graph.

    Attributes:
        told: What it does, in words.
        apply: Quantises a graph that was just read; it may be changed.
    """

    told: str
    apply: Callable[[openvino.Model], openvino.Model]


def ways(weights: str, feeds: Sequence[Feed]) -> list[Way]:
    """The ways for a type of weights, the smallest and fastest first.

    Args:
        weights: int8 or int4.
        feeds: Calibration texts, one by one; empty: there are none, and inputs of products are not rounded beforehand.
    """
    import nncf

    mode = nncf.CompressWeightsMode

    def products(model: openvino.Model) -> Any:
        kind = nncf.ModelType.TRANSFORMER
        return nncf.quantize(model, nncf.Dataset(feeds), model_type=kind, subset_size=len(feeds))

    def eight(model: openvino.Model) -> Any:
        return nncf.compress_weights(model, mode=mode.INT8_ASYM)

    def four(model: openvino.Model) -> Any:
        odd = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.IGNORE)
        given: dict[str, Any] = {"dataset": nncf.Dataset(feeds), "scale_estimation": True} if feeds else {}
        return nncf.compress_weights(
            model, mode=mode.INT4_SYM, group_size=BLOCK, all_layers=True, advanced_parameters=odd, **given
        )

    alone = Way("8-bit weights", eight)
    if weights == "int4":
        return [Way("4-bit weights", four), alone]
    return [Way("8-bit products", products), alone] if feeds else [alone]


def texts(rows: Sequence[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Batches of texts as texts of one sample each, without padding: no range is taken from padding."""
    for batch in rows:
        mask = batch.get("attention_mask")
        for sample in range(len(next(iter(batch.values())))):
            real = slice(None) if mask is None else mask[sample].bool()
            one = {name: value[sample : sample + 1] for name, value in batch.items()}
            yield {name: value[:, real] if value.ndim > 1 else value for name, value in one.items()}


def counts(model: openvino.Model) -> tuple[dict[str, int], int]:
    """The numbers of weights and tables by their bits, in words, and the size in bytes of those in floating point."""
    found: Counter[str] = Counter()
    size = 0
    for each in model.get_ops():
        if each.get_type_name() != "Constant" or sum(side >= FEWEST for side in each.shape) < 2 or each.shape[-1] == 1:
            continue
        kind = each.get_element_type()
        if kind.is_real():
            size += int(np.prod(each.shape)) * kind.bitwidth // 8
        found["matrices in floating point" if kind.is_real() else f"matrices in {kind.bitwidth} bits"] += 1
    return dict(found), size


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Within the context, NNCF's logs and progress bars are hidden."""
    before = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
