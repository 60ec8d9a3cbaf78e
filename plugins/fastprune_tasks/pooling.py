"""Pooling: one vector from the token vectors of a text."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


def pooled(states: Tensor, mask: Tensor, pooling: Pooling, behind: Tensor | None = None) -> Tensor:
    """Pool the token vectors of each sample, as sentence-transformers does.

    Args:
        states: Token vectors, [samples, tokens, hidden].
        mask: The tokens without padding, [samples, tokens], bool.
        pooling: Their mean, the first (cls), the maximum, the sum by the root of their number, the mean weighted by position, or
            the last token.
        behind: Leading tokens that are not pooled, such as those of a prompt: [samples].

    Returns:
        [samples, hidden].
    """
    places = mask.cumsum(1)  # [samples, tokens], from 1
    if behind is not None:
        mask = mask & (places > behind[:, None])
    if pooling in ("mean", "mean_sqrt_len_tokens", "weightedmean"):
        weights = (mask * places if pooling == "weightedmean" else mask).to(states.dtype)
        total = weights.sum(1, keepdim=True).clamp(min=1)
        return torch.einsum("sth,st->sh", states, weights) / (
            total.sqrt() if pooling == "mean_sqrt_len_tokens" else total
        )
    if pooling == "max":
        return states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
    if pooling == "lasttoken":
        states, mask = states.flip(1), mask.flip(1)
    first = mask.int().argmax(1)  # [samples], the first token behind padding on the left
    return states[torch.arange(len(states), device=states.device), first]
