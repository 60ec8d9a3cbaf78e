"""Graphs of decoders with a KV cache, each layer with its own KV heads."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from fastprune.modeling import CACHES

TRACED = (2, 3, 4)
"""Samples, tokens in the cache and new tokens of the inputs for tracing."""
PAST, PRESENT, POSITIONS = "past_key_values", "present", "position_ids"


@dataclass(frozen=True)
class LayerCache:
    """Sizes of a layer's keys and values.

    Attributes:
        number: The layer's number.
        heads: Number of KV heads.
        width: Features per head.
    """

    number: int
    heads: int
    width: int


def takes_positions(model: nn.Module) -> bool:
    """Whether the positions of new tokens are an input."""
    return POSITIONS in _arguments(model)


def positions(names: Iterable[str], tokens: tuple[int, int]) -> dict[str, np.ndarray]:
    """The position ids of prompts behind an empty cache, [samples, tokens], if they are among a graph's inputs.

    Args:
        names: Names of the graph's inputs.
        tokens: Numbers of samples and tokens.
    """
    return {POSITIONS: np.tile(np.arange(tokens[1]), (tokens[0], 1))} if POSITIONS in names else {}


def layer_caches(model: Any) -> list[LayerCache | None]:
    """The sizes of every layer's cache; None for layers whose attention was emptied. No layers for a model that is no decoder."""
    can = getattr(model, "can_generate", None)
    if not (can and can()) or model.config.is_encoder_decoder or not _cache_argument(model):
        return []
    token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    with torch.inference_mode():
        probed = _cache_of(model(input_ids=token, use_cache=True))
    # an emptied attention counts tokens by one feature of one head
    return [
        None if each.keys.shape[1:] == (1, 1, 1) else LayerCache(number, each.keys.shape[1], each.keys.shape[3])
        for number, each in enumerate(probed.layers)
    ]


def cache_names(caches: Sequence[LayerCache | None], prefix: str) -> list[str]:
    """Names of the inputs (``past_key_values``) or outputs (``present``): keys and values, layer by layer."""
    return [f"{prefix}.{each.number}.{part}" for each in caches if each for part in ("key", "value")]


class CachedDecoder(nn.Module):
    """The decoder with keys and values as inputs and outputs.

    Args:
        model: The decoder.
        caches: Its ``layer_caches``, of at least one layer.
    """

    def __init__(self, model: nn.Module, caches: Sequence[LayerCache | None]) -> None:
        super().__init__()
        self.model, self.caches = model, caches
        self.placed = takes_positions(model)
        self.argument = _cache_argument(model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Logits [samples, tokens, vocabulary], then keys and values [samples, heads, past and new tokens, width] of each layer.

        Args:
            input_ids: The new tokens, [samples, tokens].
            attention_mask: Of past and new tokens, [samples, past and new tokens].
            others: The positions of new tokens [samples, tokens], for models that take them; then keys and values by layer,
                [samples, heads, past tokens, width].
        """
        positions = {POSITIONS: others[0]} if self.placed else {}
        past = others[len(positions) :]
        given = iter(past)
        none = past[0][:, :1, :, :1]  # [samples, 1, past tokens, 1]
        cache = DynamicCache([(next(given), next(given)) if each else (none, none) for each in self.caches])
        states = {self.argument: cache, "use_cache": True}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **states, **positions)
        kept: list[Any] = [layer for layer, each in zip(cache.layers, self.caches, strict=True) if each]
        return (found.logits, *(part for layer in kept for part in (layer.keys, layer.values)))


@dataclass(frozen=True)
class CachedProgram:
    """A traced decoder with the names of its inputs and outputs."""

    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def cached_program(model: nn.Module, caches: Sequence[LayerCache | None]) -> CachedProgram:
    """Trace a decoder with its KV cache by torch.export, on its device.

    Args:
        model: The decoder.
        caches: Its ``layer_caches``, of at least one layer.
    """
    graph = CachedDecoder(model, caches)
    inputs = _inputs(graph, next(model.parameters()))
    free = torch.export.Dim.DYNAMIC
    sizes = tuple({0: free, 1: free} if each.ndim == 2 else {0: free, 2: free} for each in inputs)
    with torch.no_grad():
        program = torch.export.export(graph, inputs, dynamic_shapes=(*sizes[:2], sizes[2:]), strict=False)
    named = ["input_ids", "attention_mask", *([POSITIONS] if graph.placed else [])]
    return CachedProgram(
        program,
        (*named, *cache_names(caches, PAST)),
        ("logits", *cache_names(caches, PRESENT)),
    )


def _inputs(graph: CachedDecoder, like: Tensor) -> tuple[Tensor, ...]:
    """Inputs for tracing, in the order of ``CachedDecoder.forward``."""
    samples, past, tokens = TRACED
    place = like.device
    positions = torch.arange(past, past + tokens, device=place).repeat(samples, 1)
    states = [
        like.new_zeros(samples, each.heads, past, each.width) for each in graph.caches if each for _ in ("key", "value")
    ]
    return (
        torch.ones(samples, tokens, dtype=torch.long, device=place),
        torch.ones(samples, past + tokens, dtype=torch.long, device=place),
        *([positions] if graph.placed else []),
        *states,
    )


def _cache_argument(model: nn.Module) -> str:
    """Name of the argument with the KV cache; empty if the model takes none."""
    return next((name for name in CACHES if name in _arguments(model)), "")


def _cache_of(output: Any) -> Any:
    """The KV cache of a model's output."""
    return next(output[name] for name in CACHES if name in output)


def _arguments(model: nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(model.forward).parameters)
