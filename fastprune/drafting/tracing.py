"""Tracing: run one layer once and find by exact derivatives which linears' outputs reach which linears' inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from fastprune.calibration.hooks import frozen
from fastprune.units.linears import LINEARS


@dataclass
class Trace:
    """Record of one forward pass of a layer. Module paths are relative to the layer; outputs of linears are leaves of the graph.

    Attributes:
        hidden: The layer's input hidden states, a leaf of the graph, [samples, tokens, hidden].
        output: The layer's output hidden states, [samples, tokens, hidden].
        inputs: First input of each module, in the order of the calls; only the first call of a module counts.
        linear_outputs: Output of each linear, a leaf of the graph.
        values: Number of values each module returned: 1 for a tensor, n for a tuple.
    """

    hidden: Tensor | None = None
    output: Tensor | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)
    linear_outputs: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)

    def reached(self, value: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Derivatives of the sum of ``value`` x ``weights`` with respect to each linear's output, where not all zero.

        The key "" stands for the layer's own input.
        """
        assert self.hidden is not None
        leaves = {"": self.hidden, **self.linear_outputs}
        if not value.requires_grad:
            return {}
        grads = torch.autograd.grad(
            value, list(leaves.values()), grad_outputs=weights, retain_graph=True, allow_unused=True
        )
        return {path: grad for path, grad in zip(leaves, grads, strict=True) if grad is not None and bool(grad.any())}


def trace(model: nn.Module, layer: str, inputs: Mapping[str, Tensor]) -> Trace:
    """Run the model once and record one layer; the model is not changed.

    Args:
        model: The model, preferably in float64, so that independent values have derivatives of exactly 0.
        layer: Path of the layer.
        inputs: Keyword arguments of the model, a few small samples.
    """
    traced = Trace()
    with torch.enable_grad(), frozen(model), _watching(model.get_submodule(layer), traced):
        model(**inputs)
    return traced


def cache_arguments(model: nn.Module, layer: str, inputs: Mapping[str, Tensor]) -> dict[str, str]:
    """Name of the KV cache argument by module of a layer, for the modules that receive a cache."""
    arguments: dict[str, str] = {}

    def hook(path: str) -> Any:
        def note(_: nn.Module, __: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            for name, value in keywords.items():
                if isinstance(value, Cache):
                    arguments[path] = name

        return note

    with torch.no_grad(), frozen(model), contextlib.ExitStack() as hooks:
        for path, module in model.get_submodule(layer).named_modules():
            hooks.callback(module.register_forward_pre_hook(hook(path), with_kwargs=True).remove)
        with contextlib.suppress(TypeError):  # a model without a KV cache
            model(**inputs, use_cache=True)
    return arguments


@contextlib.contextmanager
def _watching(layer: nn.Module, traced: Trace) -> Iterator[None]:
    """Within the context, hooks on the layer's modules fill ``traced``."""
    with contextlib.ExitStack() as hooks:
        for path, module in layer.named_modules():
            hooks.callback(module.register_forward_pre_hook(_before(path, traced), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(_after(path, module, traced)).remove)
        yield


def _before(path: str, traced: Trace) -> Any:
    """A forward pre-hook that records inputs and makes the layer's input a leaf of the graph."""

    def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        for place, value in [*enumerate(arguments), *keywords.items()]:
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                continue
            if path:
                traced.inputs.setdefault(path, value)
                return None
            if traced.hidden is not None:  # a later run of the same layer
                return None
            traced.hidden = value.detach().requires_grad_()
            leaf = traced.hidden.clone()
            arguments = tuple(leaf if at == place else each for at, each in enumerate(arguments))
            return arguments, {name: leaf if name == place else each for name, each in keywords.items()}
        return None

    return hook


def _after(path: str, module: nn.Module, traced: Trace) -> Any:
    """A forward hook that records outputs and makes outputs of linears leaves of the graph."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        first = path not in traced.values
        traced.values.setdefault(path, len(output) if isinstance(output, tuple) else 1)
        if not path and first:
            traced.output = output[0] if isinstance(output, tuple) else output
        if isinstance(module, LINEARS) and path not in traced.linear_outputs:
            traced.linear_outputs[path] = output.detach().requires_grad_()
            return traced.linear_outputs[path].clone()
        return None

    return hook


def units_of(traced: Trace, consumer: str, generator: torch.Generator) -> tuple[list[Tensor], dict[str, Tensor]] | None:
    """Group the input features of a linear, and the rows of the linears they depend on, into units.

    Two features are in the same unit if both depend on a common row. An input that depends directly on the layer's input is the
    residual stream and has no units.

    Args:
        traced: The trace.
        consumer: Path of the linear.
        generator: Source of the random weights of tokens and features.

    Returns:
        The features of each unit, ordered by their first feature; and by producer the unit of each row, -1 for none, [rows].
        None if the input is the residual stream or depends on no linear.
    """
    value = traced.inputs[consumer]
    weights = torch.rand(value.shape, generator=generator, dtype=value.dtype) + 0.5
    whole = traced.reached(value, weights)
    if not whole or "" in whole or consumer in whole:
        return None
    producers = {path: traced.linear_outputs[path].shape[-1] for path in whole}
    features = value.shape[-1]
    unit = torch.full((features,), -1)
    owners = {path: torch.full((rows,), -1) for path, rows in producers.items()}
    count = 0
    for feature in range(features):
        one = torch.zeros_like(weights)
        one[..., feature] = weights[..., feature]
        rows = {path: grad.flatten(0, -2).ne(0).any(0) for path, grad in traced.reached(value, one).items()}
        existing = {int(each) for path, hit in rows.items() for each in owners[path][hit].unique() if each >= 0}
        current = min(existing, default=count)
        count += not existing
        unit[feature] = current
        for path, hit in rows.items():
            owners[path][hit] = current
        for other in existing - {current}:  # this feature connects units that were separate so far
            unit[unit == other] = current
            for rows_of in owners.values():
                rows_of[rows_of == other] = current
    order = list(dict.fromkeys(unit.tolist()))
    renumbered = {
        path: torch.tensor([order.index(u) if u >= 0 else -1 for u in o.tolist()]) for path, o in owners.items()
    }
    return [(unit == each).nonzero().flatten() for each in order], renumbered


def mixes_tokens(traced: Trace, consumer: str) -> bool:
    """Whether a linear's input at one token depends on outputs of linears at other tokens."""
    value = traced.inputs[consumer]
    if value.dim() < 3 or value.shape[-2] < 2:
        return False
    last = torch.zeros_like(value)
    last[..., -1, :] = 1
    return any(grad.dim() > 2 and bool(grad[..., :-1, :].any()) for grad in traced.reached(value, last).values())


def is_added(traced: Trace, consumer: str, value: Tensor, generator: torch.Generator) -> bool:
    """Whether ``value`` is the sum of the residual stream and the consumer's unchanged output."""
    output = traced.linear_outputs[consumer]
    if value.shape[-1:] != output.shape[-1:] or value.numel() != output.numel():
        return False
    weights = torch.rand(value.shape, generator=generator, dtype=value.dtype)
    derivatives = traced.reached(value, weights)
    if "" not in derivatives or consumer not in derivatives:
        return False
    return torch.allclose(derivatives[consumer].reshape(value.shape), weights, rtol=0, atol=1e-9)
