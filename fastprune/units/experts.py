"""Experts: one parameter for all of a layer's, opened into a module for each, so that each can lose filters of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastprune.errors import ModelError
from fastprune.modeling import Experts, put
from fastprune.units.sharing import sharing_copy

M = TypeVar("M", bound=nn.Module)


def unfuse_experts(model: M, *, inplace: bool = False) -> M:
    """The model with its experts as modules of their own: what architectures with ``*`` for the experts are about.

    transformers keeps all experts of a layer in ``gate_up_proj`` [experts, 2 x filters, hidden] and ``down_proj`` [experts,
    hidden, filters], where none can be narrower than another. Opened, expert 3 has a linear ``producer`` (gate and up, one
    behind the other) and a linear ``consumer``; both are views of the same memory, and the model computes the same.

    Args:
        model: Any model.
        inplace: Open this very model instead of a copy that shares its parameters.

    Returns:
        The model itself where there is nothing to open.

    Raises:
        ModelError: The experts are fused in a way that cannot be opened.
    """
    fused = [path for path, module in model.named_modules() if is_fused(module)]
    if not fused:
        return model
    opened = model if inplace else sharing_copy(model)
    for path in fused:
        module: Any = opened.get_submodule(path)
        _check(path, module)
        put(opened, path, Experts.of(module))
    return opened


def is_fused(module: nn.Module) -> bool:
    """Whether it holds experts in one parameter, as transformers does."""
    fused = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    return all(isinstance(each, nn.Parameter) and each.dim() == 3 for each in fused)


def _check(path: str, module: Any) -> None:
    """Refuse experts that do something else than activation(gate) * up between two plain matrices."""
    experts, rows, hidden = module.gate_up_proj.shape
    plain = module.down_proj.shape == (experts, hidden, rows // 2) and isinstance(module.act_fn, nn.Module)
    odd = [name for name in ("has_bias", "is_transposed", "has_post_expert_norm") if getattr(module, name, False)]
    gate = getattr(module, "_apply_gate", None)
    if (gate is not None and gate.__name__ != "_default_apply_gate") or not getattr(module, "is_concatenated", True):
        odd.append("a gate of its own")
    if odd or not plain:
        raise ModelError(
            f"The experts at '{path}' cannot be opened, so none can lose filters: a {type(module).__name__} is something else "
            f"than gated FFNs of two plain matrices each ({', '.join(odd) or 'other sizes'})."
        )


@contextlib.contextmanager
def dense_routing(model: nn.Module) -> Iterator[dict[str, float]]:
    """While open, every token visits every expert, so that what is counted does not depend on where tokens go.

    Yields:
        By the path of each layer's experts, which share of the tokens an expert sees on average: k of all experts. It is
        there once they have run.
    """
    shares: dict[str, float] = {}
    with contextlib.ExitStack() as hooks:
        for path, module in model.named_modules():
            if isinstance(module, Experts):
                hooks.callback(module.register_forward_pre_hook(partial(_visit_all, path, shares)).remove)
        yield shares


def _visit_all(path: str, shares: dict[str, float], experts: Experts, arguments: tuple[Tensor, ...]) -> Any:
    hidden, index, weights = arguments
    shares[path] = index.shape[-1] / len(experts.choices)
    everyone = torch.arange(len(experts.choices), device=index.device).expand(len(hidden), -1)  # [tokens, experts]
    return hidden, everyone, weights.new_ones(everyone.shape)
