"""What is measured: a forward pass, the reading of a prompt, or the decoding of a token behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from fastprune.errors import ModelError

Mode = Literal["pass", "prefill", "decode"]


class SteadyLayer(DynamicLayer):
    """The cache of a layer that always holds the keys and values of the same number of tokens, in as many heads as are written."""

    def __init__(self, past: int) -> None:
        """Set the number of tokens."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.past = past
        self._before: dict[tuple[Any, ...], Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The held ones with the new ones [samples, heads, tokens, features] behind; these are forgotten."""
        return self._behind(key_states), self._behind(value_states)

    def get_seq_length(self) -> int:
        """The number of tokens before the new ones."""
        return self.past

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys for these new tokens, and the position of the first."""
        return self.past + query_length, 0

    def _behind(self, new: Tensor) -> Tensor:
        samples, heads, _, features = new.shape
        key = (samples, heads, features, new.dtype, new.device)
        if key not in self._before:
            self._before[key] = new.new_zeros(samples, heads, self.past, features)
        return torch.cat([self._before[key], new], dim=-2)


def check_mode(model: nn.Module, mode: Mode) -> None:
    """Raise ``ModelError`` for a model that continues no texts, whose only mode is ``pass``."""
    can: Any = getattr(model, "can_generate", None)
    config: Any = getattr(model, "config", None)
    decoder = can and can() and not getattr(config, "is_encoder_decoder", False)
    if mode != "pass" and not (decoder and getattr(model, "main_input_name", "") == "input_ids"):
        raise ModelError(
            f"The option 'mode' of 'latency' is {mode}, which is for models that continue texts, and a "
            f"{type(model).__name__} does not. Leave it out."
        )


def inputs_in(mode: Mode, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a call: the whole texts [samples, tokens], or their last token."""
    return {"input_ids": inputs["input_ids"][:, -1:]} if mode == "decode" else dict(inputs)


@contextlib.contextmanager
def in_mode(model: nn.Module, mode: Mode, seq_len: int) -> Iterator[None]:
    """Within the context, the model, and copies of it that are made meanwhile, run in a mode.

    With ``prefill``, keys and values go to a cache, and the logits are those of the last token; with ``decode``, ``seq_len`` tokens
    are in the cache. The cache stays as it is, however often a call is repeated.
    """
    if mode == "pass":
        yield
        return
    takes = signature(model.forward).parameters
    config: Any = model.config
    count = config.get_text_config().num_hidden_layers
    cache = Cache(layers=[SteadyLayer(seq_len if mode == "decode" else 0) for _ in range(count)])
    added: dict[str, Any] = {"cache" if "cache" in takes else "past_key_values": cache}
    if "logits_to_keep" in takes:
        added["logits_to_keep"] = 1

    def add(
        _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return arguments, {**keywords, **added}

    handle = model.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
