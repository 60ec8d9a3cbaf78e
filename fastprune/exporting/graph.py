"""Graphs of a model: named tensors as inputs and outputs, for any number of samples and tokens."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.exporting.agreement import example_inputs
from fastprune.models.pretrained import Pretrained

TRACED = (2, 16)
"""Samples and tokens of the inputs for tracing a graph."""
READ = {"input_ids": "texts", "pixel_values": "images", "input_values": "recordings", "input_features": "recordings"}
"""What a model reads, by the name of its main input."""


class TensorGraph(nn.Module):
    """The model with its inputs' names as arguments and a dictionary of tensors as result, without cache, loss and pooled extras.

    Outputs are all tensors that the model returns, or its hidden states if it has no head.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        with torch.inference_mode():
            found = model(**inputs)
        tensors = tuple(name for name, value in found.items() if isinstance(value, Tensor))
        self.outputs = ("last_hidden_state",) if "last_hidden_state" in tensors else tensors

        def forward(*values: Tensor, **named: Tensor) -> dict[str, Tensor]:
            given = model(**dict(zip(inputs, values, strict=False)), **named)
            return {name: given[name] for name in self.outputs}

        arguments = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in inputs]
        forward.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
        self.forward = forward


def traced_program(opened: Pretrained) -> torch.export.ExportedProgram:
    """Trace the model with torch.export, on its device."""
    inputs = example_inputs(opened, *TRACED)
    free = torch.export.Dim.DYNAMIC
    with _without_cache(opened.model), torch.no_grad():
        graph = TensorGraph(opened.model, inputs)
        sizes = {name: {0: free, 1: free} for name in inputs}  # [samples, tokens]
        return torch.export.export(graph, (), inputs, dynamic_shapes=sizes, strict=False)


def refuses_all_but_one_text(opened: Pretrained) -> str:
    """Implementation of ``ExportFormat.refuses`` that refuses models of images and recordings, and of two texts."""
    model: Any = opened.model
    read = READ.get(getattr(model, "main_input_name", "input_ids"), "other inputs")
    decodes = getattr(model.config, "is_encoder_decoder", False)
    if read == READ["input_ids"] and not decodes:
        return ""
    what = f"{read} and writes texts with a decoder" if decodes else read
    return f"This format is for encoders or decoders of texts alone; a {type(model).__name__} reads {what}."


@contextlib.contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """Within the context, the model returns no KV cache."""
    config: Any = model.config
    before = getattr(config, "use_cache", None)
    try:
        if before is not None:
            config.use_cache = False
        yield
    finally:
        if before is not None:
            config.use_cache = before
