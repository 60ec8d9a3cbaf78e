"""Groups: an architecture resolved on one model, with every path checked and every size read off."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby

from torch import nn

from fastprune.errors import UnknownNameError
from fastprune.units.architecture import Block, Stack
from fastprune.units.cuts import Cut, Positions
from fastprune.units.linears import as_linear, in_order
from fastprune.units.paths import absolute


@dataclass(frozen=True, kw_only=True)
class Group:
    """Units that are removed in one place: the heads of an attention, the filters of an FFN, the rows of an embedding.

    ``cuts`` alone defines the parameters of a unit. Most kinds of unit also own features of a consumer's input (docs/method.md,
    section 1) and are part of a layer: feature ``f`` belongs to unit ``f // width``, in the order of ``consumer_of``. Other kinds
    have an empty ``consumer`` and are left out of ``Groups.with_consumer``. Paths are absolute in the model.

    Attributes:
        name: Unique in the model, and the same whatever head the model carries: ``encoder.layer.0.attention``.
        units: How many there are.
        block: The data that this was resolved from.
        cuts: What goes with the units, the consumer's columns first; none where no unit is left.
        layer: The path of the layer.
        width: Features a unit owns.
        hidden: Features of the consumer's output.
        producers: The paths of the linears whose rows belong to the units; none where no unit is left.
        stack: The data of the stack that it belongs to.
        convolutions: Kernel and stride of each convolution between the input whose tokens are marked and the layer's.
    """

    name: str
    units: int
    block: Block
    cuts: tuple[Cut, ...] = ()
    layer: str = ""
    width: int = 0
    hidden: int = 0
    producers: tuple[str, ...] = ()
    stack: Stack = Stack(layers="", blocks=())
    convolutions: tuple[tuple[int, int], ...] = ()

    @property
    def kind(self) -> str:
        return self.block.kind

    @property
    def features(self) -> int:
        return self.units * self.width

    @property
    def columns(self) -> Positions:
        """The units' positions among the features of the module's own consumer, from its cut."""
        return next(cut.positions for cut in self.cuts if cut.module == self.consumer)

    @property
    def module(self) -> str:
        return absolute(self.layer, self.block.module)

    @property
    def consumer(self) -> str:
        return absolute(self.layer, self.block.consumer) if self.block.consumer else ""

    @property
    def router(self) -> str:
        return absolute(self.layer, self.block.router) if self.block.router else ""

    @property
    def residual(self) -> str:
        """The module whose input is the consumer's output plus the residual stream; the layer where it is its output;
        the consumer where that is compared."""
        return absolute(self.layer, self.block.residual)


@dataclass(frozen=True)
class Groups:
    """All groups of a model, in the order in which they run."""

    items: tuple[Group, ...]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, name: str) -> Group:
        """The group of a name.

        Raises:
            UnknownNameError: With the nearest name. It is a ``KeyError``.
        """
        names = [group.name for group in self.items]
        if name not in names:
            nearest = get_close_matches(name, names, n=1)
            raise UnknownNameError(
                f"There is no group '{name}'"
                + (f"; did you mean '{nearest[0]}'?" if nearest else ".")
                + f" There are {len(names)}{f', from {names[0]!r} to {names[-1]!r}' if names else ''}."
            )
        return self.items[names.index(name)]

    @property
    def with_consumer(self) -> Groups:
        """The groups whose units own features of a consumer: those that can be masked, scored and tuned by them."""
        return Groups(tuple(group for group in self.items if group.consumer))

    def only(self, names: Collection[str]) -> Groups:
        """Some of the groups."""
        return Groups(tuple(group for group in self.items if group.name in names))

    def layers(self) -> list[tuple[str, tuple[Group, ...]]]:
        """The path of each layer with its groups, in the order in which they run; groups in no layer have an empty path."""
        return [(layer, tuple(groups)) for layer, groups in groupby(self.items, key=lambda group: group.layer)]

    def stacks(self) -> list[Groups]:
        """The groups of each list of layers, in the order in which they run."""
        lists = groupby(self.items, key=lambda group: group.layer.rpartition(".")[0])
        return [Groups(tuple(groups)) for _, groups in lists]


def consumer_of(model: nn.Module, group: Group) -> nn.Linear:
    """The group's consumer in this model: an ``nn.Linear``, or what stands for one, where its weight is transposed, no
    unit is left, or a unit's columns do not lie side by side: then it shows them in the order of the units."""
    linear = as_linear(model.get_submodule(group.consumer))
    return linear if group.units == 0 or group.columns.in_order else in_order(linear, group.columns)
