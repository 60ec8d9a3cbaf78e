"""Experts: split fused expert parameters into one module per expert, so that experts can lose different numbers of filters."""

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
    """Convert fused experts into modules of their own, as architectures with ``*`` for experts require.

    transformers stores all experts of a layer in ``gate_up_proj`` [experts, 2 x filters, hidden] and ``down_proj`` [experts,
    hidden, filters], where all experts have the same width. Unfused, each expert has a linear ``producer`` (the rows of gate, then
    up) and a linear ``consumer``; both are views of the same memory, and the model's outputs are unchanged.

    Args:
        model: Any model.
        inplace: Change the given model instead of a copy that shares its parameters.

    Returns:
        The model with unfused experts; the given model itself if it has no fused experts.

    Raises:
        ModelError: The experts are fused in an unsupported form.
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
    """Whether a module stores several experts in one parameter, as in transformers."""
    fused = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    return all(isinstance(each, nn.Parameter) and each.dim() == 3 for each in fused)


def _check(path: str, module: Any) -> None:
    """Check that the experts compute activation(gate) * up between two plain matrices."""
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
    """Within the context, every token visits every expert, so that counts do not depend on the routing.

    Yields:
        Mean share of the tokens that an expert sees (k / number of experts), by path of the layer's experts; filled when they
        run.
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
