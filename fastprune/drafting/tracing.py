"""Tracing: one layer of a model run once, and which linears' outputs reach which linears' inputs, by exact derivatives."""

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
    """What one forward pass showed of a layer. Paths are relative to it; a tensor's graph ends at outputs of linears.

    Attributes:
        hidden: The hidden states that entered, a leaf of the graph: [samples, tokens, hidden].
        output: The hidden states that left.
        entering: What entered each module, in the order of the calls; linears that run again are left out.
        given: What each linear gave, a leaf of the graph.
        values: How many values each module returned: 1 a tensor, n > 1 a tuple.
        caches: By module, the argument that carried the keys and values of earlier tokens.
    """

    hidden: Tensor | None = None
    output: Tensor | None = None
    entering: dict[str, Tensor] = field(default_factory=dict)
    given: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    caches: dict[str, str] = field(default_factory=dict)

    def reached(self, value: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """By linear, the derivative of the weighted sum of ``value`` by what the linear gave, where there is any.

        The layer's own input goes by the name "".
        """
        assert self.hidden is not None
        leaves = {"": self.hidden, **self.given}
        if not value.requires_grad:
            return {}
        grads = torch.autograd.grad(
            value, list(leaves.values()), grad_outputs=weights, retain_graph=True, allow_unused=True
        )
        found = zip(leaves, grads, strict=True)
        return {path: grad for path, grad in found if grad is not None and bool(grad.any())}


def trace(model: nn.Module, layer: str, inputs: Mapping[str, Tensor]) -> Trace:
    """Run the model once and watch one layer, which is left as it was.

    Args:
        model: In a precision in which what does not depend is exactly zero; float64 is best.
        layer: The path of the layer.
        inputs: Of one small sample.
    """
    seen = Trace()
    with torch.enable_grad(), frozen(model), _watching(model.get_submodule(layer), seen):
        model(**inputs)
    return seen


def cache_arguments(model: nn.Module, layer: str, inputs: Mapping[str, Tensor]) -> dict[str, str]:
    """By module of a layer, the argument that carries a cache when the model is asked to use one."""
    found: dict[str, str] = {}

    def hook(path: str) -> Any:
        def note(_: nn.Module, __: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            for name, value in keywords.items():
                if isinstance(value, Cache):
                    found[path] = name

        return note

    with torch.no_grad(), frozen(model), contextlib.ExitStack() as hooks:
        for path, module in model.get_submodule(layer).named_modules():
            hooks.callback(module.register_forward_pre_hook(hook(path), with_kwargs=True).remove)
        with contextlib.suppress(TypeError):  # a model that knows no cache
            model(**inputs, use_cache=True)
    return found


@contextlib.contextmanager
def _watching(layer: nn.Module, seen: Trace) -> Iterator[None]:
    with contextlib.ExitStack() as hooks:
        for path, module in layer.named_modules():
            hooks.callback(module.register_forward_pre_hook(_before(path, seen), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(_after(path, module, seen)).remove)
        yield


def _before(path: str, seen: Trace) -> Any:
    def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        for place, value in [*enumerate(arguments), *keywords.items()]:
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                continue
            if path:
                seen.entering.setdefault(path, value)
                return None
            if seen.hidden is not None:  # the layer runs again
                return None
            seen.hidden = value.detach().requires_grad_()
            leaf = seen.hidden.clone()
            arguments = tuple(leaf if at == place else each for at, each in enumerate(arguments))
            return arguments, {name: leaf if name == place else each for name, each in keywords.items()}
        return None

    return hook


def _after(path: str, module: nn.Module, seen: Trace) -> Any:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        first = path not in seen.values
        seen.values.setdefault(path, len(output) if isinstance(output, tuple) else 1)
        if not path and first:
            seen.output = output[0] if isinstance(output, tuple) else output
        if isinstance(module, LINEARS) and path not in seen.given:
            seen.given[path] = output.detach().requires_grad_()
            return seen.given[path].clone()
        return None

    return hook


def units_of(seen: Trace, consumer: str, generator: torch.Generator) -> tuple[list[Tensor], dict[str, Tensor]] | None:
    """Which features of a linear's input hang together, and with which rows of the linears before it.

    Two features hang together where both depend on one row. What the layer's own input reaches directly is the residual
    stream, and has no units.

    Args:
        seen: The trace.
        consumer: The linear.
        generator: Of the weights of the tokens.

    Returns:
        The features of each unit, in the order of the first; by producer, the unit of each row, -1 for none: [rows].
        None where the input is the residual stream, or depends on no linear.
    """
    value = seen.entering[consumer]
    weights = torch.rand(value.shape, generator=generator, dtype=value.dtype) + 0.5
    whole = seen.reached(value, weights)
    if not whole or "" in whole or consumer in whole:
        return None
    producers = {path: seen.given[path].shape[-1] for path in whole}
    features = value.shape[-1]
    unit = torch.full((features,), -1)
    owners = {path: torch.full((rows,), -1) for path, rows in producers.items()}
    count = 0
    for feature in range(features):
        one = torch.zeros_like(weights)
        one[..., feature] = weights[..., feature]
        rows = {path: grad.flatten(0, -2).ne(0).any(0) for path, grad in seen.reached(value, one).items()}
        known = {int(each) for path, hit in rows.items() for each in owners[path][hit].unique() if each >= 0}
        mine = min(known, default=count)
        count += not known
        unit[feature] = mine
        for path, hit in rows.items():
            owners[path][hit] = mine
        for other in known - {mine}:  # this feature joins what was apart
            unit[unit == other] = mine
            for rows_of in owners.values():
                rows_of[rows_of == other] = mine
    order = list(dict.fromkeys(unit.tolist()))
    renumbered = {
        path: torch.tensor([order.index(u) if u >= 0 else -1 for u in o.tolist()]) for path, o in owners.items()
    }
    return [(unit == each).nonzero().flatten() for each in order], renumbered


def mixes_tokens(seen: Trace, consumer: str) -> bool:
    """Whether a linear's input at one token depends on what linears gave at others."""
    value = seen.entering[consumer]
    if value.dim() < 3 or value.shape[-2] < 2:
        return False
    last = torch.zeros_like(value)
    last[..., -1, :] = 1
    return any(grad.dim() > 2 and bool(grad[..., :-1, :].any()) for grad in seen.reached(value, last).values())


def is_added(seen: Trace, consumer: str, value: Tensor, generator: torch.Generator) -> bool:
    """Whether a value is the consumer's output plus the residual stream, and nothing else was done to either."""
    given = seen.given[consumer]
    if value.shape[-1:] != given.shape[-1:] or value.numel() != given.numel():
        return False
    weights = torch.rand(value.shape, generator=generator, dtype=value.dtype)
    found = seen.reached(value, weights)
    if "" not in found or consumer not in found:
        return False
    return torch.allclose(found[consumer].reshape(value.shape), weights, rtol=0, atol=1e-9)
