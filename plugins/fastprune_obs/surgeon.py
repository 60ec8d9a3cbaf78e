"""Structured Optimal Brain Surgeon on one group: remove all units one by one, the cheapest first."""

import torch
from torch import Tensor

from fastprune.calibration import damped_cholesky

BLOCK = 64  # filters removed between two updates of the whole inverse
CROWDED = 0.8  # share of remaining units below which the removed ones are cut out of the tensors


def sweep(gram: Tensor, weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Remove all units greedily: each time the one whose removal, after refitting the others, adds the least error.

    Removing unit u with features S costs tr(W_S' [(H^-1)_SS]^-1 W_S). Then the remaining weights are refitted by
    W -= (H^-1)_:S [(H^-1)_SS]^-1 W_S, and the inverse is updated by H^-1 -= (H^-1)_:S [(H^-1)_SS]^-1 (H^-1)_S:.
    Filters (``width`` 1) are removed ``BLOCK`` at a time: within a block the order is exactly greedy among the cheapest
    candidates, and only their part of the inverse is updated; the whole inverse is updated after the block.

    Source: Kurtic et al. (ZipLM), NeurIPS 2023; docs/method.md, section 4.3.

    Args:
        gram: H, [features, features] float64, symmetric and positive definite up to rounding.
        weight: W, [features, outputs] float64, in a basis in which all output directions count equally.
        width: Features per unit.

    Returns:
        The units in the order of removal, [units] int64, and the error added by each removal, [units] float64, >= 0.
    """
    units = len(gram) // width
    inverse, weight = torch.cholesky_inverse(damped_cholesky(gram)), weight.clone()
    indices = torch.arange(units, device=gram.device)  # of the units in the inverse
    remaining = torch.ones(units, dtype=torch.bool, device=gram.device)
    order, costs = [], []
    cheapest = _cheapest_filters if width == 1 else _cheapest_unit
    while count := int(remaining.sum()):
        if count < CROWDED * len(remaining):  # copying smaller tensors at every removal would cost more
            kept = _features(remaining.nonzero().flatten(), width)
            inverse, weight = inverse[kept][:, kept], weight[kept]
            indices, remaining = indices[remaining], remaining[remaining]
        removed, added = cheapest(inverse, weight, width, remaining)
        order.append(indices[removed])
        costs.append(added)
        remaining[removed] = False
        _remove(inverse, weight, _features(removed, width))
    return torch.cat(order), torch.cat(costs).clamp(min=0)


def _cheapest_unit(inverse: Tensor, weight: Tensor, width: int, remaining: Tensor) -> tuple[Tensor, Tensor]:
    """The remaining unit with the least cost: its index [1] and its cost [1]."""
    units = len(inverse) // width
    blocks = inverse.reshape(units, width, units, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (H^-1)_SS of each
    rows = weight.reshape(units, width, -1)  # W_S of each
    candidates = remaining.nonzero().flatten()
    cost = (rows[candidates] * torch.linalg.solve(blocks[candidates], rows[candidates])).sum((1, 2))  # [candidates]
    best = cost.argmin()
    return candidates[best][None], cost[best][None]


def _cheapest_filters(inverse: Tensor, weight: Tensor, _: int, remaining: Tensor) -> tuple[Tensor, Tensor]:
    """Up to ``BLOCK`` filters to remove in greedy order, chosen among four times as many of the currently cheapest.

    Returns:
        Indices [removed] int64 and costs [removed].
    """
    cost = torch.where(remaining, weight.square().sum(1) / inverse.diagonal(), torch.inf)  # [filters]
    count = int(remaining.sum())
    block = min(BLOCK, max(1, count // 16))
    near = cost.argsort()[: min(4 * block, count)]
    inverse, weight = inverse[near][:, near].cpu(), weight[near].cpu()  # small steps are faster on the CPU
    pivots, energy = inverse.diagonal().clone(), weight.square().sum(1)
    least = 1e-12 * pivots
    # low-rank updates: the current inverse is inverse - L L', the current weight is weight - L T
    lower, upper = inverse.new_zeros(len(near), block), weight.new_zeros(block, weight.shape[1])  # L, T
    removed = torch.zeros(len(near), dtype=torch.bool)
    places, costs = [], []
    for step in range(block):
        current = torch.where(removed, torch.inf, energy.clamp(min=0) / pivots.clamp(min=least))
        best = int(current.argmin())
        root, before = pivots[best].clamp(min=least[best]).sqrt(), lower[:, :step]
        column = (inverse[:, best] - before @ before[best]) / root
        row = (weight[best] - before[best] @ upper[:step]) / root
        products = weight @ row - before @ (upper[:step] @ row)
        energy = energy - 2 * column * products + column.square() * row.square().sum()
        pivots = pivots - column.square()
        lower[:, step], upper[step] = column, row
        removed[best] = True
        places.append(best)
        costs.append(current[best])
    return near[torch.tensor(places, device=near.device)], torch.stack(costs).to(near.device)


def _remove(inverse: Tensor, weight: Tensor, features: Tensor) -> None:
    """Eliminate features from the inverse (their rows and columns become 0) and refit the other weights; in place."""
    factor = damped_cholesky(inverse[features][:, features])
    rows = torch.cat([inverse[features], weight[features]], 1)
    scaled = torch.linalg.solve_triangular(factor, rows, upper=False)
    across, outputs = scaled[:, : len(inverse)], scaled[:, len(inverse) :]
    inverse.addmm_(across.T, across, alpha=-1)
    weight.addmm_(across.T, outputs, alpha=-1)


def _features(units: Tensor, width: int) -> Tensor:
    """Indices of the features of ``units``: [units * width]."""
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
