"""The form of a pruning: which numbers of units the search may choose, and which layers may go as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from fastprune.calibration.hooks import frozen
from fastprune.calibration.layer_calls import in_turn, layer_outputs
from fastprune.data.batches import Batches
from fastprune.errors import UnreachableError, UsageError
from fastprune.models.plain import PLAIN, accepts, check_plain, settings_for, sized
from fastprune.pipeline.subject import Subject
from fastprune.progress import step
from fastprune.registry.recipe import Recipe
from fastprune.strategies.contracts import SizedSearcher
from fastprune.strategies.limits import Limits
from fastprune.strategies.lots import Lot, Lots, multiples
from fastprune.units.architecture import Architecture
from fastprune.units.groups import Group, Groups
from fastprune.units.masks import Mask
from fastprune.units.resolve import layer_lists

MORE = 2  # candidates beside the recipe's number: the sets of removed layers are compared by drafts, early stopping included
BREADTH = 3  # removed layers that are compared for the next removal: those of the least loss at their last comparison


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a search may choose.

    Attributes:
        plain: Whether the result must be what a stock class builds from its configuration.
        multiple: Of which the features of every group are a multiple.
        removable: The layers that may be removed as a whole, by path, and the number of values that each returns in a tuple (0:
            a tensor).
        lists: The lists of these layers: of each, one layer stays.
        counts: The allowed numbers of units, by the name of the group.
    """

    plain: bool = False
    multiple: int = 1
    removable: Mapping[str, int] = field(default_factory=dict)
    lists: Sequence[Sequence[str]] = ()
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """Whether every number of units is allowed in every group."""
        return not self.plain and self.multiple == 1

    @staticmethod
    def of(subject: Subject, recipe: Recipe) -> Form:
        """The form that a recipe asks for, checked on a model.

        Raises:
            ModelError: The model has no plain form.
            UsageError: The schedule prunes groups one after another, which the plain form cannot.
        """
        searcher = recipe.searcher
        if not isinstance(searcher, SizedSearcher):
            return Form()
        if searcher.form != PLAIN:
            return Form(multiple=searcher.multiple)
        check_plain(subject.given, subject.groups, subject.architecture)
        if any(
            each.fixes is not None for each in recipe.schedule.passes(0.5, [group.name for group in subject.groups])
        ):
            raise UsageError(
                f"The schedule '{recipe.schedule.name}' prunes one sublayer after another, and the plain form gives all layers the "
                "same sizes. Use the schedule 'once' or 'rounds'."
            )
        counts = {}
        for alike in sized(subject.groups).values():
            allowed = _allowed(subject.given, alike[0], searcher.multiple)
            counts.update({group.name: allowed for group in alike})
        lists = [list(each) for each in _removable(subject.teacher, subject.architecture, subject.calibration)]
        return Form(
            plain=True,
            multiple=searcher.multiple,
            removable={path: values for each in lists for path, values in each if values >= 0},
            lists=[[path for path, _ in each] for each in lists],
            counts=counts,
        )

    def choices(
        self, groups: Groups, goal: Limits, loss: Callable[[Mask], float] | None, *, most: int
    ) -> list[Lots | None]:
        """The problems to search, each for one candidate; None: every number of units of every group is allowed.

        Args:
            groups: The groups that are searched.
            goal: Their budgets.
            loss: The loss of a mask, where layers may be removed.
            most: Largest number of candidates.

        Raises:
            UnreachableError: No choice is within the budgets.
        """
        everything = {group.name: group.units for group in groups}
        if self.free or all(limit.table.of(everything) <= limit.allowed for limit in goal.items):
            return [None]
        removals = self.removals(groups, goal, loss) if self.plain and loss else [()]
        found: list[Lots | None] = []
        floors = []
        with step("comparing layers to remove") if self.removable else contextlib.nullcontext():
            for removed in removals:
                lots = self.lots(groups, removed)
                smaller = lots.limits(goal)
                floors.append(smaller.first.table.floor)
                if smaller.possible:
                    found.append(lots)
        if not found:
            limit, said = (
                goal.first,
                "in the plain form" if self.plain else f"with widths in multiples of {self.multiple}",
            )
            raise UnreachableError(
                f"The budget of {limit.share:.3g} of the {limit.table.measure} ({limit.budget:.4g}) cannot be met {said}: at least "
                f"{min(floors) / limit.dense:.3g} ({min(floors):.4g}) is left. Ask for more than that."
            )
        return found if len(found) <= most + MORE else [found[place] for place in _spread(len(found), most + MORE)]

    def lots(self, groups: Groups, removed: Sequence[str] = ()) -> Lots:
        """The choices of a search over these groups, without those of the removed layers."""
        if not self.plain:
            return Lots(tuple(Lot(groups=(g.name,), counts=multiples(g.units, g.width, self.multiple)) for g in groups))
        gone = tuple(group.name for group in groups if group.layer in removed)
        left = Groups(tuple(group for group in groups if group.name not in gone))
        found = [Lot(groups=gone, counts=(0,))] if gone else []
        found += [Lot(groups=(group.name,), counts=(group.units,)) for group in left if not group.block.sizes]
        for alike in sized(left).values():
            allowed = [count for count in self.counts[alike[0].name] if count <= alike[0].units]
            found.append(Lot(groups=tuple(group.name for group in alike), counts=tuple(allowed)))
        return Lots(tuple(found))

    def removals(self, groups: Groups, goal: Limits, loss: Callable[[Mask], float]) -> Iterator[tuple[str, ...]]:
        """The sets of layers to remove, from none on; each is the one before and the layer whose removal adds the least loss.

        It ends with the first set that leaves all units of the other layers within the budgets.

        Args:
            groups: The groups that are searched.
            goal: Their budgets.
            loss: The loss of a mask, without tuning.
        """
        lost: dict[str, float] = {}
        removed: tuple[str, ...] = ()
        present = [path for path, _ in groups.layers()]
        layers = [path for path in present if path in self.removable]
        while True:
            yield removed
            others = {group.name: 0 if group.layer in removed else group.units for group in groups}
            if all(limit.table.of(others) <= limit.allowed for limit in goal.items):
                return
            left = [
                path for path in layers if path not in removed and not self._last(path, set(present) - set(removed))
            ]
            if not left:
                return
            near = left if not lost else sorted(left, key=lambda path: lost[path])[:BREADTH]
            for path in near:
                gone = (*removed, path)
                lost[path] = loss(Mask.first(groups, {g.name: 0 if g.layer in gone else g.units for g in groups}))
            removed = (*removed, min(near, key=lambda path: lost[path]))

    def _last(self, path: str, left: Collection[str]) -> bool:
        """Whether a layer is the only one of its list among those that are left."""
        return any(path in each and set(each) & set(left) == {path} for each in self.lists)


def _spread(number: int, most: int) -> list[int]:
    """Evenly spread places among a number of places, the first and the last included."""
    return sorted({round(at * (number - 1) / (most - 1)) for at in range(most)})


def _allowed(model: nn.Module, group: Group, multiple: int) -> tuple[int, ...]:
    """The numbers of units of a group in the plain form: at least one, and what the configuration's class accepts."""
    counts = [count for count in multiples(group.units, group.width, multiple) if count]
    if group.block.width_setting:
        counts = [count for count in counts if accepts(model, settings_for(model, group, count))]
    return tuple(counts) or (group.units,)


def _removable(teacher: nn.Module, architecture: Architecture, calibration: Batches) -> Iterator[list[tuple[str, int]]]:
    """The layers of each list of which some may be removed, with the number of values that they return (-1: it stays).

    Layers that pass tensors besides the hidden states on to each other stay, and so do all of a list that runs otherwise than
    from the first to the last.
    """
    for stack in (each for each in architecture.stacks if each.depth):
        for path in layer_lists(teacher, stack):
            layers = [f"{path}.{place}" for place in range(len(teacher.get_submodule(path)))]  # type: ignore[arg-type]
            with frozen(teacher):
                returned = layer_outputs(teacher, layers, calibration)
            if in_turn(returned, layers) and not any(output.carries for _, output in returned):
                yield [
                    (layer, -1 if stack.keeps_first and not at else out.values)
                    for at, (layer, out) in enumerate(returned)
                ]
