"""Routing: experts that lost all their filters taken out of their router's choice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastprune.errors import ModelError
from fastprune.modeling import Experts
from fastprune.units.groups import Group, Groups


def drop_routes(model: nn.Module, groups: Groups) -> None:
    """Take experts without filters out of their routers' choice, their rows with them, in place.

    Their tokens then go to the next best expert instead of to nobody: the model computes something else than the masked
    one, and each of the experts that are left sees more tokens. A router keeps its rows where no expert has a filter left.

    Args:
        model: Pruned.
        groups: Its groups as they are now.

    Raises:
        ModelError: The architecture does not say where a router is, or the router is not made of rows.
    """
    by_router: dict[str, list[Group]] = {}
    for group in groups:
        if group.router:
            by_router.setdefault(group.router, []).append(group)
    if not by_router:
        raise ModelError(
            f"The architecture of this {type(model).__name__} names no router, so no expert can be taken out of its choice."
        )
    for path, members in by_router.items():
        experts: Any = model.get_submodule(members[0].module.rpartition(".")[0])
        assert isinstance(experts, Experts)
        left = [place for place, index in enumerate(experts.choices) if members[index].units]
        if 0 < len(left) < len(experts.choices):
            _keep_choices(path, model.get_submodule(path), len(experts.choices), torch.tensor(left))
            experts.choices = [experts.choices[place] for place in left]


@torch.no_grad()
def _keep_choices(path: str, router: Any, choices: int, left: Tensor) -> None:
    """Leave a router some of its choices: rows of its weight, and numbers that say how many there are."""
    weight = getattr(router, "weight", None)
    if weight is None or weight.shape[0] != choices or len(list(router.parameters())) > 1:
        raise ModelError(
            f"The router at '{path}' ({type(router).__name__}) is more than one row for each of {choices} experts; none can "
            "be taken out of its choice."
        )
    kept = weight.index_select(0, left.to(weight.device))  # [left, hidden]
    router.weight = nn.Parameter(kept, requires_grad=weight.requires_grad)
    for name, value in list(vars(router).items()):
        if type(value) is int and "experts" in name and value == choices:
            setattr(router, name, len(left))
    router.top_k = min(router.top_k, len(left))
