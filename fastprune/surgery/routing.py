"""Routing: remove experts without filters from their router."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastprune.errors import ModelError
from fastprune.modeling import Experts
from fastprune.units.groups import Group, Groups


def drop_routes(model: nn.Module, groups: Groups) -> None:
    """Remove experts without filters from their routers, with the routers' rows, in place.

    Their tokens then go to the next best expert instead of getting no expert output. The model's outputs therefore differ from the
    masked model's, and the remaining experts see more tokens. A router without any remaining expert keeps its rows.

    Args:
        model: A pruned model.
        groups: The pruned model's groups.

    Raises:
        ModelError: As for ``check_routes``.
    """
    for path, members in check_routes(model, groups).items():
        experts = _experts(model, members)
        left = [place for place, index in enumerate(experts.choices) if members[index].units]
        if 0 < len(left) < len(experts.choices):
            _keep_choices(model.get_submodule(path), len(experts.choices), torch.tensor(left))
            experts.choices = [experts.choices[place] for place in left]


def check_routes(model: nn.Module, groups: Groups) -> dict[str, list[Group]]:
    """The experts' groups by the path of their router.

    Raises:
        ModelError: The architecture names no router, or a router is more than one row per expert.
    """
    by_router: dict[str, list[Group]] = {}
    for group in groups:
        if group.router:
            by_router.setdefault(group.router, []).append(group)
    if not by_router:
        raise ModelError(
            f"The architecture of this {type(model).__name__} names no router, so no expert can be taken out of its choice. "
            "Leave out reroute."
        )
    for path, members in by_router.items():
        router: Any = model.get_submodule(path)
        choices, weight = len(_experts(model, members).choices), getattr(router, "weight", None)
        if weight is None or weight.shape[0] != choices or len(list(router.parameters())) > 1:
            raise ModelError(
                f"The router at '{path}' ({type(router).__name__}) is more than one row for each of {choices} experts; none can "
                "be taken out of its choice. Leave out reroute."
            )
    return by_router


def _experts(model: nn.Module, members: list[Group]) -> Any:
    """The module that holds the experts of these groups."""
    experts = model.get_submodule(members[0].module.rpartition(".")[0])
    assert isinstance(experts, Experts)
    return experts


@torch.no_grad()
def _keep_choices(router: Any, choices: int, left: Tensor) -> None:
    """Keep some of a router's choices: rows of its weight, and attributes with the number of experts."""
    weight = router.weight
    kept = weight.index_select(0, left.to(weight.device))  # [left, hidden]
    router.weight = nn.Parameter(kept, requires_grad=weight.requires_grad)
    for name, value in list(vars(router).items()):
        if type(value) is int and "experts" in name and value == choices:
            setattr(router, name, len(left))
    router.top_k = min(router.top_k, len(left))
