"""Attention as one operator: tracing writes onnxruntime's MultiHeadAttention wherever a model calls transformers' attention."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import masking_utils, modeling_utils

OPERATOR = "MultiHeadAttention"
DOMAIN = "com.microsoft"
"""Name of the operator, and of onnxruntime's domain of operators."""
SDPA = "sdpa"
"""transformers' name of the attention that the operator takes the place of: with boolean masks, without attention weights."""


def refuses_one_operator(model: Any) -> str:
    """The reason why a model's attention cannot be traced as one operator, as a sentence; empty if it can be."""
    if not hasattr(getattr(torch.onnx, "ops", None), "symbolic"):
        return f"torch {torch.__version__} cannot trace operators of onnxruntime; 2.8 can."
    if not (getattr(model, "_supports_sdpa", False) and model._can_set_attn_implementation()):
        return f"The attention of a {type(model).__name__} does not go through transformers' attention interface."
    return ""


@contextlib.contextmanager
def attention_as_one_operator(model: Any) -> Iterator[None]:
    """Within the context, tracing the model writes one operator for each attention, with that layer's heads.

    Masks of padding stay [samples, tokens]; others, such as sliding windows, become sums [samples, 1, tokens, keys].

    Args:
        model: A model that ``refuses_one_operator`` does not refuse.
    """
    attentions: Any = modeling_utils.ALL_ATTENTION_FUNCTIONS
    masks: Any = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    attention, mask, before = attentions[SDPA], masks[SDPA], model.config._attn_implementation

    def operator(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **given: Any) -> Any:
        if given.get("position_bias") is not None:
            mask = mask if mask is None or mask.ndim != 2 else mask[:, None, None, :].bool()
            return attention(module, query, key, value, mask, **given)
        if (shared := query.shape[1] // key.shape[1]) > 1:
            key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        causal = given.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        mixed = _operator(query, key, value, mask, given.get("scaling"), causal=bool(causal) and mask is None)
        return mixed, None

    def padding(*arguments: Any, **given: Any) -> Tensor | None:
        if given.get("mask_function") is masking_utils.bidirectional_mask_function:
            return given["attention_mask"]  # type: ignore[no-any-return]
        whole = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return mask(*arguments, **(given | whole))  # type: ignore[no-any-return]

    try:
        attentions[SDPA], masks[SDPA] = operator, padding
        if before != SDPA:
            model.set_attn_implementation(SDPA)
        yield
    finally:
        for functions, own in ((attentions, attention), (masks, mask)):
            del functions[SDPA]
            if functions[SDPA] is not own:  # somebody else's, registered before
                functions[SDPA] = own
        if before != SDPA:
            model.set_attn_implementation(before)


def _operator(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, *, causal: bool
) -> Tensor:
    """The operator's output, [samples, tokens, heads, width of a value].

    Args:
        query: [samples, heads, tokens, width].
        key: [samples, heads, keys, width].
        value: [samples, heads, keys, width of a value].
        mask: True or not 0 where a token is seen, [samples, keys], or a boolean or added [samples, 1, tokens or 1, keys].
        scaling: Factor of the scores; None: the root of 1 / width.
        causal: Whether tokens see only themselves and earlier ones.
    """
    samples, heads, tokens, width = query.shape
    flat = [each.transpose(1, 2).reshape(samples, each.shape[2], -1) for each in (query, key, value)]
    lowest = torch.finfo(query.dtype).min
    padding = mask.to(torch.int32) if mask is not None and mask.ndim == 2 else None
    added = None
    if mask is not None and mask.ndim == 4:
        added = torch.where(mask, 0.0, lowest).to(query.dtype) if mask.dtype == torch.bool else mask
        added = added.expand(-1, -1, tokens, -1)  # the operator repeats samples and heads only
    mixed: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{OPERATOR}",
        [*flat, None, padding, added],
        {
            "num_heads": heads,
            "scale": width**-0.5 if scaling is None else float(scaling),
            "mask_filter_value": lowest,
            "unidirectional": int(causal),
        },
        dtype=query.dtype,
        shape=(samples, tokens, heads * value.shape[3]),
        version=1,
    )
    return mixed.view(samples, tokens, heads, value.shape[3])
