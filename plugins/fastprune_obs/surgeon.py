"""The sweep of structured Optimal Brain Surgeon over one group: all units out, one after another, the cheapest first."""

import torch
from torch import Tensor

BLOCK = 64  # filters that go between two updates of the whole inverse


def sweep(gram: Tensor, weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Remove every unit, always the one without which the refitted others leave the least error (METHOD 2).

    Removing unit u, of features S, costs tr(W_S' [(H^-1)_SS]^-1 W_S); the others' weights take up
    W -= (H^-1)_:S [(H^-1)_SS]^-1 W_S, and the inverse loses S likewise. Filters go ``BLOCK`` at a time: the exact
    greedy order among the cheapest, whose part of the inverse alone is kept up to date, before the rest is.

    Args:
        gram: H, [features, features] float64, symmetric and positive definite.
        weight: W, [features, outputs] float64, in a basis in which errors are to be counted alike.
        width: Features a unit.

    Returns:
        The units in the order in which they go: [units] int64. What each costs as it goes: [units] float64, >= 0.
    """
    units = len(gram) // width
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    left = torch.arange(units, device=gram.device)
    order, costs = [], []
    while len(left):
        gone, spent = (_cheapest_filters if width == 1 else _cheapest_unit)(inverse, weight, width)
        order.append(left[gone])
        costs.append(spent)
        kept = torch.ones(len(left), dtype=torch.bool, device=gram.device)
        kept[gone] = False
        inverse, weight = _without(inverse, weight, _features(gone, width), _features(kept.nonzero().flatten(), width))
        left = left[kept]
    return torch.cat(order), torch.cat(costs).clamp(min=0)


def _cheapest_unit(inverse: Tensor, weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The one unit that costs the least: its place [1], and its cost [1]."""
    units = len(inverse) // width
    blocks = inverse.reshape(units, width, units, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (H^-1)_SS of each
    own = weight.reshape(units, width, -1)
    cost = (own * torch.linalg.solve(blocks, own)).sum((1, 2))  # [units]
    best = cost.argmin()
    return best[None], cost[best][None]


def _cheapest_filters(inverse: Tensor, weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Up to ``BLOCK`` filters, one after another, out of four times as many that cost the least now: places, costs."""
    cost = weight.square().sum(1) / inverse.diagonal()  # [filters]
    many = min(BLOCK, max(1, len(cost) // 16))
    near = cost.argsort()[: 4 * many]
    inverse, weight = inverse[near][:, near].cpu(), weight[near].cpu()  # small steps are faster there
    scale = inverse.diagonal().clone()
    gone = torch.zeros(len(near), dtype=torch.bool)
    places, costs = [], []
    for _ in range(min(many, len(near))):
        now = torch.where(gone, torch.inf, weight.square().sum(1) / inverse.diagonal().clamp(min=1e-12 * scale))
        best = int(now.argmin())
        column = inverse[:, best] / inverse[best, best]
        weight = weight - torch.outer(column, weight[best])
        inverse = inverse - torch.outer(column, inverse[best])
        gone[best] = True
        places.append(best)
        costs.append(now[best])
    return near[torch.tensor(places, device=near.device)], torch.stack(costs).to(near.device)


def _without(inverse: Tensor, weight: Tensor, gone: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse and the weight of what is kept, which has taken up what is gone."""
    across = inverse[gone][:, kept]  # [gone, kept]
    taken = torch.linalg.solve(inverse[gone][:, gone], torch.cat([across, weight[gone]], 1))
    smaller = inverse[kept][:, kept] - across.T @ taken[:, : len(kept)]
    return (smaller + smaller.T) / 2, weight[kept] - across.T @ taken[:, len(kept) :]


def _features(units: Tensor, width: int) -> Tensor:
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
