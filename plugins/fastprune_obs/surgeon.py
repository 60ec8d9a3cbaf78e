"""The sweep of structured Optimal Brain Surgeon over one group: all units out, one after another, the cheapest first."""

import torch
from torch import Tensor

BLOCK = 64  # filters that go between two updates of the whole inverse
CROWDED = 0.8  # of the filters in the inverse are still there, or it is made anew without the others


def sweep(gram: Tensor, weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Remove every unit, always the one without which the refitted others leave the least error (METHOD 2).

    Removing unit u, of features S, costs tr(W_S' [(H^-1)_SS]^-1 W_S); the others' weights take up
    W -= (H^-1)_:S [(H^-1)_SS]^-1 W_S, and the inverse loses S likewise. Filters go ``BLOCK`` at a time: the exact
    greedy order among the cheapest, whose part of the inverse alone is kept up to date, before the rest is.

    Args:
        gram: H, [features, features] float64, symmetric and positive definite but for rounding.
        weight: W, [features, outputs] float64, in a basis in which errors are to be counted alike.
        width: Features a unit.

    Returns:
        The units in the order in which they go: [units] int64. What each costs as it goes: [units] float64, >= 0.
    """
    units = len(gram) // width
    inverse, weight = torch.cholesky_inverse(_cholesky(gram)), weight.clone()
    places = torch.arange(units, device=gram.device)  # of what is left in the inverse
    there = torch.ones(units, dtype=torch.bool, device=gram.device)
    order, costs = [], []
    cheapest = _cheapest_filters if width == 1 else _cheapest_unit
    while left := int(there.sum()):
        if left < CROWDED * len(there):  # what is gone is only taken out of the tensors now and then
            kept = _features(there.nonzero().flatten(), width)
            inverse, weight = inverse[kept][:, kept], weight[kept]
            places, there = places[there], there[there]
        gone, spent = cheapest(inverse, weight, width, there)
        order.append(places[gone])
        costs.append(spent)
        there[gone] = False
        _remove(inverse, weight, _features(gone, width))
    return torch.cat(order), torch.cat(costs).clamp(min=0)


def _cheapest_unit(inverse: Tensor, weight: Tensor, width: int, there: Tensor) -> tuple[Tensor, Tensor]:
    """The one unit of those there that costs the least: its place [1], and its cost [1]."""
    units = len(inverse) // width
    blocks = inverse.reshape(units, width, units, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (H^-1)_SS of each
    own = weight.reshape(units, width, -1)
    found = there.nonzero().flatten()
    cost = (own[found] * torch.linalg.solve(blocks[found], own[found])).sum((1, 2))  # [units there]
    best = cost.argmin()
    return found[best][None], cost[best][None]


def _cheapest_filters(inverse: Tensor, weight: Tensor, _: int, there: Tensor) -> tuple[Tensor, Tensor]:
    """Up to ``BLOCK`` filters of those there, one after another, out of four times as many that cost the least now: places,
    costs."""
    cost = torch.where(there, weight.square().sum(1) / inverse.diagonal(), torch.inf)  # [filters]
    left = int(there.sum())
    many = min(BLOCK, max(1, left // 16))
    near = cost.argsort()[: min(4 * many, left)]
    inverse, weight = inverse[near][:, near].cpu(), weight[near].cpu()  # small steps are faster there
    pivots, energy = inverse.diagonal().clone(), weight.square().sum(1)
    least = 1e-12 * pivots
    # by now the inverse is what it was less L L', and the weight what it was less L T: neither is written out
    lower, taken = inverse.new_zeros(len(near), many), weight.new_zeros(many, weight.shape[1])  # L, T
    gone = torch.zeros(len(near), dtype=torch.bool)
    places, costs = [], []
    for step in range(many):
        now = torch.where(gone, torch.inf, energy.clamp(min=0) / pivots.clamp(min=least))
        best = int(now.argmin())
        root, before = pivots[best].clamp(min=least[best]).sqrt(), lower[:, :step]
        column = (inverse[:, best] - before @ before[best]) / root
        row = (weight[best] - before[best] @ taken[:step]) / root
        products = weight @ row - before @ (taken[:step] @ row)
        energy = energy - 2 * column * products + column.square() * row.square().sum()
        pivots = pivots - column.square()
        lower[:, step], taken[step] = column, row
        gone[best] = True
        places.append(best)
        costs.append(now[best])
    return near[torch.tensor(places, device=near.device)], torch.stack(costs).to(near.device)


def _remove(inverse: Tensor, weight: Tensor, gone: Tensor) -> None:
    """Take features out of the inverse, whose rows of them become 0, and let the others' weights take them up; in place."""
    factor = _cholesky(inverse[gone][:, gone])
    taken = torch.linalg.solve_triangular(factor, torch.cat([inverse[gone], weight[gone]], 1), upper=False)
    across, own = taken[:, : len(inverse)], taken[:, len(inverse) :]
    inverse.addmm_(across.T, across, alpha=-1)
    weight.addmm_(across.T, own, alpha=-1)


def _cholesky(block: Tensor) -> Tensor:
    """The lower factor, with as much on the diagonal as it takes where rounding has left the block not quite positive."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(block)
    jitter = 1e-12 * block.diagonal().abs().mean()
    while int(failed):
        factor, failed = torch.linalg.cholesky_ex(block + jitter * torch.eye(len(block)).to(block))
        jitter = 10 * jitter
    return factor


def _features(units: Tensor, width: int) -> Tensor:
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
