"""Which experts of a layer stay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastprune.experts.sparse import Sparse, each_with_rows
from fastprune.units.mixtures import Sizes, of_experts

NUMBERS = 2**27
"""Numbers [experts, tokens, hidden] that ``by_damage`` holds; it takes fewer tokens of large layers."""
ROUNDS = 8
"""Most times, about, that ``by_damage`` measures all experts that are left; of many experts several leave at once."""
Criterion = Callable[[Sparse, Tensor, Sizes, int, torch.Generator], Tensor]
"""From a sublayer, its inputs [tokens, hidden], the mixture's sizes and the number to keep to the kept experts, rising."""


def by_scores(scores: Tensor, sizes: Sizes, left: int) -> Tensor:
    """The experts with the highest scores, the same number in each group: [experts] -> [left], rising."""
    each = scores.view(sizes.groups, -1)  # [groups, experts of a group]
    best = each.topk(left // sizes.groups, dim=1).indices
    first = torch.arange(sizes.groups, device=scores.device)[:, None] * each.shape[1]
    return (best + first).flatten().sort().values


def by_random(sparse: Sparse, hidden: Tensor, sizes: Sizes, left: int, generator: torch.Generator) -> Tensor:
    """Experts drawn at random."""
    return by_scores(torch.rand(sparse.experts, generator=generator), sizes, left).to(hidden.device)


def by_magnitude(sparse: Sparse, hidden: Tensor, sizes: Sizes, left: int, generator: torch.Generator) -> Tensor:
    """The experts with the largest weights: the norm of all of an expert's weights."""
    squares = [
        tensor.detach().double().flatten(1).square().sum(1)
        for tensor in of_experts(sparse.bank, sparse.experts).values()
    ]
    return by_scores(torch.stack(squares).sum(0), sizes, left)


def by_reap(sparse: Sparse, hidden: Tensor, sizes: Sizes, left: int, generator: torch.Generator) -> Tensor:
    """The experts that add most to the tokens that take them: the mean norm of their weighted output (REAP, Lasby et al., 2025)."""
    added = [values.double().norm(dim=1).sum() / max(len(rows), 1) for rows, values in _added(sparse, hidden)]
    return by_scores(torch.stack(added), sizes, left)


def by_damage(sparse: Sparse, hidden: Tensor, sizes: Sizes, left: int, generator: torch.Generator) -> Tensor:
    """The experts without which the layer's output changes least: one expert after another leaves, the one whose removal, with its
    tokens routed to the best of those that are left, brings the output least far from the dense layer's (squared distance)."""
    hidden = hidden[:: max(1, -(-len(hidden) * sparse.experts * hidden.shape[1] // NUMBERS))]
    whole = sparse.weights(hidden)  # [tokens, experts]
    ones = sparse.router(hidden)[1].sigmoid() if sparse.mixture.scales_inputs else torch.ones_like(whole)
    each = torch.stack([sparse.of_one(hidden, ones[:, expert], expert) for expert in range(sparse.experts)])
    target = _mixed(sparse, whole, each)  # [tokens, hidden]
    kept = torch.arange(sparse.experts, device=hidden.device)
    at_once = max(1, (sparse.experts - left) // ROUNDS)
    while len(kept) > left:
        now = sparse.weights(hidden, kept)  # [tokens, kept]
        errors = (_mixed(sparse, now, each[kept]) - target).double().square().sum(1)  # [tokens]
        rises = []
        for place in range(len(kept)):
            rest = torch.cat([kept[:place], kept[place + 1 :]])
            if not _allowed(rest, sizes, left):
                rises.append(float("inf"))
                continue
            rows = (now[:, place] != 0).nonzero()[:, 0]
            moved = _mixed(sparse, sparse.weights(hidden[rows], rest), each[rest[:, None], rows])
            rises.append(float(((moved - target[rows]).double().square().sum(1) - errors[rows]).sum()))
        kept = _without_least(kept, rises, sizes, left, min(at_once, len(kept) - left))
    return kept


CRITERIA: dict[str, Criterion] = {
    "damage": by_damage,
    "reap": by_reap,
    "magnitude": by_magnitude,
    "random": by_random,
}


def _added(sparse: Sparse, hidden: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(each_with_rows(sparse, hidden, sparse.weights(hidden)))


def _mixed(sparse: Sparse, weights: Tensor, each: Tensor) -> Tensor:
    """The weighted sum of the experts' outputs: [tokens, experts], [experts, tokens, hidden] -> [tokens, hidden]."""
    chosen = (weights != 0).to(each) if sparse.mixture.scales_inputs else weights.to(each)
    return torch.einsum("te,eth->th", chosen, each)


def _without_least(kept: Tensor, rises: list[float], sizes: Sizes, left: int, number: int) -> Tensor:
    """The kept experts without the ``number`` of them with the smallest rises, as far as their groups allow it."""
    rest = kept
    for place in sorted(range(len(rises)), key=rises.__getitem__):
        fewer = rest[rest != kept[place]]
        if len(kept) - len(rest) < number and _allowed(fewer, sizes, left):
            rest = fewer
    return rest


def _allowed(rest: Tensor, sizes: Sizes, left: int) -> bool:
    """Whether each group still has as many experts as it must keep."""
    per_group = sizes.experts // sizes.groups
    counts = torch.bincount(rest // per_group, minlength=sizes.groups)
    return bool((counts >= left // sizes.groups).all())
