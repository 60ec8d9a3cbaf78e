"""What a graph is traced from: the model with tensors only, and example inputs."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.batches import token_limit
from fastprune.data.workload import Workload
from fastprune.errors import ExportError, ModelError
from fastprune.models.pretrained import Pretrained


class TensorGraph(nn.Module):
    """The model with tensors in and tensors out: positional inputs by name, no cache, no loss, no pooled extras."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.outputs: tuple[str, ...] = ()

    def learn_outputs(self, inputs: Mapping[str, Tensor]) -> None:
        """Which outputs there are: all tensors of the model's, or its hidden states where it has no head."""
        with torch.inference_mode():
            found = self.model(**inputs)
        tensors = tuple(name for name, value in found.items() if isinstance(value, Tensor))
        self.outputs = ("last_hidden_state",) if "last_hidden_state" in tensors else tensors

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        found = self.model(**dict(zip(self.names, values, strict=True)))
        return tuple(found[name] for name in self.outputs)


def input_names(opened: Pretrained) -> tuple[str, ...]:
    """What the tokenizer gives and the model takes, in the order in which the model takes it."""
    model: Any = opened.model
    if getattr(model, "main_input_name", "input_ids") != "input_ids" or getattr(
        model.config, "is_encoder_decoder", False
    ):
        raise ModelError(f"Only models of one text are exported; a {type(model).__name__} takes something else.")
    given = opened.tokenizer.model_input_names if opened.tokenizer is not None else ("input_ids", "attention_mask")
    return tuple(name for name in inspect.signature(model.forward).parameters if name in given)


def example_inputs(model: nn.Module, names: tuple[str, ...], samples: int, tokens: int) -> dict[str, Tensor]:
    """Random tokens; the last sample of several is padded."""
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    limit = token_limit(model)
    tokens = tokens if limit is None else min(tokens, limit)
    shape = Workload.made_up(model, tokens).inputs(batch_size=samples)["input_ids"].shape
    mask = torch.ones(shape, dtype=torch.long)
    if samples > 1:
        mask[-1, -2:] = 0
    padding = getattr(config, "pad_token_id", None)
    ids = torch.randint(2, config.get_text_config().vocab_size, shape, generator=generator)
    ids = torch.where(mask.bool(), ids, 0 if padding is None else padding)
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: known[name] for name in names}


@contextlib.contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """While open, the model gives no keys and values along."""
    config: Any = model.config
    before = getattr(config, "use_cache", None)
    try:
        if before is not None:
            config.use_cache = False
        yield
    finally:
        if before is not None:
            config.use_cache = before


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """The exporter's advice is for who writes models, not for who exports one."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._dynamo")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def export_failed(graph: TensorGraph, error: Exception) -> ExportError:
    """The error for a graph that the exporter could not trace: the model, the cause and what to do."""
    reason = str(error).strip().partition("\n")[0]
    return ExportError(
        f"The {type(graph.model).__name__} cannot be made a graph: {type(error).__name__}: {reason}. Nothing was written."
    )
