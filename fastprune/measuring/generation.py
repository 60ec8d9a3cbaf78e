"""Speed of generation: prefill of a prompt and decoding token by token, models in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import token_limit
from fastprune.errors import ModelError
from fastprune.measuring.timing import median, speedup, take_turns

FIRST, ALL = "prefill", "generation"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Times of generation of a dense and a pruned model. Mappings have the keys ``dense`` and ``pruned``.

    Attributes:
        batch_size: Prompts that are continued together.
        prompt: Tokens of each prompt.
        new_tokens: Tokens that are generated after the first one.
        prefill: Milliseconds of reading the prompts and giving the first token of each, each [rounds].
        decode: Milliseconds of each further token (of all prompts together), each [rounds].
    """

    batch_size: int
    prompt: int
    new_tokens: int
    prefill: Mapping[str, list[float]]
    decode: Mapping[str, list[float]]

    def summary(self) -> dict[str, Any]:
        """The figures as JSON-compatible values."""
        figures: dict[str, Any] = {
            "batch_size": self.batch_size,
            "prompt_tokens": self.prompt,
            "new_tokens": self.new_tokens,
            "prefill_speedup": speedup(self.prefill["dense"], self.prefill["pruned"]),
            "decode_speedup": speedup(self.decode["dense"], self.decode["pruned"]),
        }
        for name in self.prefill:
            first, each = median(self.prefill[name]), median(self.decode[name])
            figures[name] = {
                "prefill_milliseconds": first,
                "prefill_tokens_per_second": 1e3 * self.batch_size * self.prompt / first,
                "milliseconds_per_token": each,
                "tokens_per_second": 1e3 * self.batch_size / each,
            }
        return figures


def generates(model: nn.Module) -> bool:
    """Whether a model continues texts: a decoder with a language head."""
    can = getattr(model, "can_generate", None)
    text = getattr(model, "main_input_name", "") == "input_ids"
    return bool(can and can() and text and not getattr(model.config, "is_encoder_decoder", False))


def check_generates(model: nn.Module, prompt: int, new_tokens: int) -> None:
    """Raise ``ModelError`` if a model does not continue texts, or prompt and new tokens are more than its positions."""
    if not generates(model):
        raise ModelError(
            f"This {type(model).__name__} generates no texts; leave out --new-tokens (in Python new_tokens)."
        )
    limit = token_limit(model)
    if limit is not None and prompt + new_tokens + 1 > limit:
        raise ModelError(
            f"The model takes at most {limit} tokens; a prompt of {prompt} and {new_tokens + 1} new ones were requested. Use a "
            "shorter prompt (--seq-len), or fewer new tokens (--new-tokens)."
        )


def time_generation(
    models: Mapping[str, nn.Module], inputs: Mapping[str, Tensor], *, new_tokens: int, rounds: int
) -> Generation:
    """Time ``generate`` of several models in turns, greedily and with the cache.

    Decoding is the time of a call that generates ``new_tokens`` + 1 tokens less that of one that generates a single token.

    Args:
        models: The models by name, on the device of the inputs.
        inputs: Prompts of the same length: ``input_ids`` and ``attention_mask`` [samples, tokens].
        new_tokens: Tokens to generate after the first one.
        rounds: Measurements of each model.
    """
    prompts = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    ids = prompts["input_ids"]
    makers = {
        (name, part): partial(_call, model, prompts, count)
        for name, model in models.items()
        for part, count in ((FIRST, 1), (ALL, new_tokens + 1))
    }
    with torch.inference_mode(), ExitStack() as contexts:
        for model in models.values():
            contexts.enter_context(frozen(model))
        times = take_turns(makers, rounds=rounds, device=ids.device, description="timing generation")
    decode = {
        name: [
            max(whole - first, 1e-6) / new_tokens
            for first, whole in zip(times[name, FIRST], times[name, ALL], strict=True)
        ]
        for name in models
    }
    return Generation(
        batch_size=ids.shape[0],
        prompt=ids.shape[1],
        new_tokens=new_tokens,
        prefill={name: times[name, FIRST] for name in models},
        decode=decode,
    )


def _call(model: Any, prompts: Mapping[str, Tensor], count: int) -> Callable[[], Any]:
    """A call that generates exactly ``count`` tokens for each prompt."""
    settings = GenerationConfig(
        max_new_tokens=count, min_new_tokens=count, do_sample=False, num_beams=1, use_cache=True, pad_token_id=0
    )
    return lambda: model.generate(**prompts, generation_config=settings)
