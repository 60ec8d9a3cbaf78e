"""Groups: an architecture resolved on one model, with all paths checked and all sizes read."""

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

    ``cuts`` alone defines the parameters of a unit. Most kinds of units also own features of a consumer's input (docs/method.md,
    section 0) and belong to a layer: feature ``f`` of the consumer returned by ``consumer_of`` belongs to unit ``f // width``.
    Other kinds have an empty ``consumer``, and are left out of ``Groups.with_consumer``. Paths are absolute in the model.

    Attributes:
        name: Unique name in the model, independent of the model's head: ``encoder.layer.0.attention``.
        units: Number of units.
        block: The architecture's block.
        cuts: Parameters of the units, the consumer's columns first; empty if no unit is left.
        layer: Path of the layer.
        width: Number of features of a unit.
        hidden: Number of output features of the consumer.
        producers: Paths of the linears whose rows belong to the units; empty if no unit is left.
        stack: The architecture's stack.
        convolutions: Kernel and stride of each convolution between the input with the attention mask and the layer's input.
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
        """The units' positions among the input features of the consumer, from its cut."""
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
        """Path of the module whose input is the consumer's output plus the residual stream; of the layer if its output is that
        sum; of the consumer if the consumer's own output is compared."""
        return absolute(self.layer, self.block.residual)

    @property
    def ends_with_norm(self) -> bool:
        """Whether the residual stream after the group goes through a norm of its layer: that of a post-norm layer, if the group is
        the layer's last one."""
        return self.block.residual not in ("", self.block.consumer)


@dataclass(frozen=True)
class Groups:
    """All groups of a model, in the order in which they run."""

    items: tuple[Group, ...]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, name: str) -> Group:
        """The group with a name.

        Raises:
            UnknownNameError: There is no such group; the message suggests the most similar name. It is a ``KeyError``.
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
        """The groups whose units own features of a consumer; only these can be masked by features, scored and tuned."""
        return Groups(tuple(group for group in self.items if group.consumer))

    def only(self, names: Collection[str]) -> Groups:
        """The groups with these names."""
        return Groups(tuple(group for group in self.items if group.name in names))

    def layers(self) -> list[tuple[str, tuple[Group, ...]]]:
        """The path of each layer with its groups, in the order in which they run; the path is empty for groups outside layers."""
        return [(layer, tuple(groups)) for layer, groups in groupby(self.items, key=lambda group: group.layer)]

    def stacks(self) -> list[Groups]:
        """The groups of each list of layers, in the order in which they run."""
        lists = groupby(self.items, key=lambda group: group.layer.rpartition(".")[0])
        return [Groups(tuple(groups)) for _, groups in lists]


def consumer_of(model: nn.Module, group: Group) -> nn.Linear:
    """The group's consumer as an ``nn.Linear``: the module itself, or a view of it.

    A ``Conv1D`` appears with its weight transposed, and columns of a unit that are not adjacent appear in the order of the units.
    A group without units has a stand-in (``BiasOnly``) as consumer.
    """
    linear = as_linear(model.get_submodule(group.consumer))
    return linear if group.units == 0 or group.columns.in_order else in_order(linear, group.columns)
