"""Groups: an architecture resolved on one model, with every path checked and every size read off."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor, nn

from fastprune.units.architecture import Block, Stack
from fastprune.units.linears import as_linear, in_order, linear_at
from fastprune.units.paths import absolute
from fastprune.units.rows import Rows, places


@dataclass(frozen=True, kw_only=True)
class Group:
    """The units that sit side by side in one sublayer: the heads of an attention, the filters of an FFN.

    Paths are absolute in the model. Feature ``f`` of the consumer's input belongs to unit ``f // width``, in what
    ``consumer_of`` shows.

    Attributes:
        name: Unique in the model, and the same whatever head the model carries: ``encoder.layer.0.attention``.
        layer: The path of the layer.
        units: How many there are.
        width: Features a unit owns.
        hidden: Features of the consumer's output.
        repeats: How many times the units come round in the module's own consumer, each with an equal part of its features.
        block: The data that this was resolved from.
        rows: The rows of its producers; none where no unit is left.
        stack: The data of the stack that it belongs to.
        convolutions: Kernel and stride of each convolution between the input whose tokens are marked and the layer's.
    """

    name: str
    layer: str
    units: int
    width: int
    hidden: int
    block: Block
    rows: tuple[Rows, ...] = ()
    repeats: int = 1
    stack: Stack = Stack(layers="", blocks=())
    convolutions: tuple[tuple[int, int], ...] = ()

    @property
    def kind(self) -> str:
        return self.block.kind

    @property
    def features(self) -> int:
        return self.units * self.width

    def columns(self, kept: Tensor) -> Tensor:
        """Where the module's own consumer has the features of the units of these indices, in the order in which they lie."""
        return places(kept, self.units, self.width, self.repeats)

    @property
    def module(self) -> str:
        return absolute(self.layer, self.block.module)

    @property
    def consumer(self) -> str:
        return absolute(self.layer, self.block.consumer)

    @property
    def router(self) -> str:
        return absolute(self.layer, self.block.router) if self.block.router else ""

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(absolute(self.layer, table) for table in self.block.tables)

    @property
    def producers(self) -> tuple[str, ...]:
        return tuple(rows.path for rows in self.rows)

    @property
    def residual(self) -> str:
        """The module whose input is the consumer's output plus the residual stream; the layer where it is its output;
        the consumer where that is compared."""
        return absolute(self.layer, self.block.residual) if self.block.residual else self.layer


@dataclass(frozen=True)
class Groups:
    """All groups of a model, in the order in which they run."""

    items: tuple[Group, ...]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, name: str) -> Group:
        return next(group for group in self.items if group.name == name)

    def only(self, names: Collection[str]) -> Groups:
        """Some of the groups."""
        return Groups(tuple(group for group in self.items if group.name in names))

    def layers(self) -> list[tuple[str, tuple[Group, ...]]]:
        """The path of each layer with its groups, in the order in which they run."""
        return [(layer, tuple(groups)) for layer, groups in groupby(self.items, key=lambda group: group.layer)]

    def stacks(self) -> list[Groups]:
        """The groups of each list of layers, in the order in which they run."""
        lists = groupby(self.items, key=lambda group: group.layer.rpartition(".")[0])
        return [Groups(tuple(groups)) for _, groups in lists]


def consumer_of(model: nn.Module, group: Group) -> nn.Linear:
    """The group's consumer in this model: an ``nn.Linear``, or what stands for one, where its weight is transposed, no
    unit is left, or a unit's columns do not lie side by side: then it shows them in the order of the units."""
    linear = as_linear(model.get_submodule(group.consumer))
    return in_order(linear, group.repeats, group.units) if group.units and group.repeats > 1 else linear


def producers_of(model: nn.Module, group: Group) -> list[nn.Linear]:
    """The group's producers in this model, in the order of ``group.rows``; none where no unit is left."""
    return [linear_at(model, rows.path) for rows in group.rows]
