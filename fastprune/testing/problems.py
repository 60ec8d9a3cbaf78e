"""Random problems: masks for a model's groups, and groups, scores and cost tables without a model."""

from __future__ import annotations

import dataclasses

import torch

from fastprune.strategies.costs import CostTable
from fastprune.strategies.scores import Scores
from fastprune.units.architecture import Block
from fastprune.units.groups import Group, Groups
from fastprune.units.masks import Mask


def some_mask(groups: Groups, *, empty: str = "", single: str = "", full: str = "", seed: int = 0) -> Mask:
    """A random mask that keeps half of the units of each group, at least one.

    Args:
        groups: The groups.
        empty: Name of a group that keeps none.
        single: Name of a group that keeps one unit.
        full: Name of a group that keeps all.
        seed: Seed of the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for group in groups:
        count = {empty: 0, single: 1, full: group.units}.get(group.name, max(1, group.units // 2))
        order = torch.randperm(group.units, generator=generator)
        values[group.name] = torch.zeros(group.units, dtype=torch.bool)
        values[group.name][order[: min(count, group.units)]] = True
    return Mask(values)


def critical_masks(groups: Groups) -> dict[str, Mask]:
    """Masks that reveal wrong architectures, by a description of the units kept."""
    masks = {"half of the units": some_mask(groups)}
    for kind in dict.fromkeys(group.kind for group in groups):
        name = next(group.name for group in groups if group.kind == kind)
        masks[f"no unit of '{name}'"] = some_mask(groups, empty=name)
        masks[f"one unit of '{name}'"] = some_mask(groups, single=name)
    masks["no unit at all"] = Mask.first(groups, dict.fromkeys((group.name for group in groups), 0))
    return masks


def emptied_masks(groups: Groups) -> dict[str, Mask]:
    """Masks that keep no unit of the first, the middle or the last group, by a description of the units kept."""
    names = [group.name for group in groups]
    places = dict.fromkeys([names[0], names[len(names) // 2], names[-1]])
    return {f"no unit of '{name}'": some_mask(groups, empty=name, single=names[1]) for name in places}


def some_groups(generator: torch.Generator, most: int = 7) -> Groups:
    """Two to five groups of two kinds with 0 to ``most`` units, without a model."""
    count = int(torch.randint(2, 6, (), generator=generator))
    units = torch.randint(0, most + 1, (count,), generator=generator).tolist()
    kinds = ("attention", "ffn")
    blocks = [Block(kind=kinds[at % 2], module="m", producers=("p",), consumer="c") for at in range(count)]
    return Groups(
        tuple(
            Group(
                name=f"layer.{at}.{blocks[at].kind}",
                layer=f"layer.{at}",
                units=units[at],
                width=1,
                hidden=4,
                block=blocks[at],
            )
            for at in range(count)
        )
    )


def groups_of(costs: CostTable) -> Groups:
    """The groups of a cost table, without a model; the kind of each is the last word of its name."""
    groups = []
    for name, table in costs.groups.items():
        block = Block(kind=name.rpartition(".")[2], module="m", producers=("p",), consumer="c")
        groups.append(Group(name=name, layer="", units=table.numel() - 1, width=1, hidden=4, block=block))
    return Groups(tuple(groups))


def some_scores(groups: Groups, generator: torch.Generator) -> Scores:
    """Random scores from the gradients of 12 samples, with ties and zeros."""
    grads = {g.name: torch.randn(12, g.units, generator=generator).mul(2).round().div(2) for g in groups}
    tokens = {g.name: (torch.rand(12, 5, generator=generator),) for g in groups}
    scores = Scores(importance={n: g.square().mean(0) for n, g in grads.items()}, grads=grads, token_weights=tokens)
    return dataclasses.replace(scores, damage={g.name: scores.damage_of(g.name).sqrt() for g in groups})


def some_costs(groups: Groups, generator: torch.Generator, *, straight: bool) -> CostTable:
    """A random cost table: one unit cost per kind if ``straight``, else steps of any height, possibly 0."""
    unit = {"attention": 64.0, "ffn": float(torch.randint(1, 64, (), generator=generator))}
    tables = {}
    for group in groups:
        steps = torch.full((group.units,), unit[group.kind], dtype=torch.float64)
        if not straight:
            steps = torch.randint(0, 40, (group.units,), generator=generator).double()
        tables[group.name] = torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])
    return CostTable(measure="coins", groups=tables, fixed=float(torch.randint(1, 50, (), generator=generator)))
