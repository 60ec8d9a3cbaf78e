"""The teacher's side: what the dense model and its layers give, kept where tunings toward it and comparisons are to come."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fastprune.calibration.free_memory import free_bytes
from fastprune.calibration.hooks import tap_entering, tap_output, tap_residual
from fastprune.calibration.layer_calls import LayerCall
from fastprune.data.batches import Batches, outputs_of
from fastprune.data.tasks import Batch, Task
from fastprune.units.groups import Group, Groups

States = dict[str, list[Tensor]]
"""Hidden states by name, one tensor a batch."""

Kept = dict[str, dict[int, Tensor]]
"""Hidden states by name and the batch's id."""


class DenseStates:
    """What one dense model and its layers give for the batches of one calibration set, kept up to a limit.

    A scorer's forward passes fill it; what they did not show is run for when somebody asks, for those batches alone that
    lack it. Once a layer finds no room, no more of layers is kept, and is run anew each time; a model's outputs that find
    none stand in nobody's way. All is forgotten once another model comes, or batches of which none was there before.

    Attributes:
        held: Bytes that are kept.
    """

    def __init__(self, limit: int | None = None) -> None:
        """Keep up to ``limit`` bytes; None: a quarter of the memory that is free when the first layer comes."""
        self._limit, self._full, self.held = limit, False, 0
        self._kept: dict[str, Kept] = {}  # by the layer
        self._outputs: dict[int, Any] = {}  # by the batch's id
        self._memory: set[int] = set()  # addresses of what is kept: one layer's output is what enters the next
        self._teacher: nn.Module | None = None
        self._seen: dict[int, Batch] = {}  # by their ids, which are theirs as long as they are here
        self._asked: list[int] = []

    def layer(
        self,
        teacher: nn.Module,
        path: str,
        members: Sequence[Group],
        producers: Iterable[str],
        calls: Sequence[LayerCall],
        hidden: Sequence[Tensor],
    ) -> tuple[States, States, list[Tensor]]:
        """What a layer gives for the batches that were last said to ``belong``; it runs for those of which that is not kept.

        Args:
            teacher: The dense model.
            path: The layer's.
            members: Its groups.
            producers: Those to look at.
            calls: How the model calls the layer, by the batch.
            hidden: The hidden states that enter it [samples, tokens, hidden], by the batch.

        Returns:
            The residual stream after each sublayer, by the group; what enters each producer, by its path; the layer's
            output.
        """
        streams, inputs = _streams(members), _inputs(producers)
        names = (*streams, *inputs, "output")
        kept = self._kept.get(path, {})
        new = [place for place, one in enumerate(self._asked) if not all(one in kept.get(name, {}) for name in names)]
        if new:
            layer = teacher.get_submodule(path)
            with _tapping(teacher, path, streams, inputs) as found:
                for place in new:
                    calls[place].run(layer, hidden[place])
            batches = [self._asked[place] for place in new]
            ran = {name: dict(zip(batches, tensors, strict=True)) for name, tensors in found.items()}
            self._keep(path, ran)
            kept = {name: tensors | kept.get(name, {}) for name, tensors in ran.items()}
        here = {name: [kept[name][batch] for batch in self._asked] for name in names}
        by_group = {group.name: here[name] for name, group in streams.items()}
        return by_group, {one: here[name] for name, one in inputs.items()}, here["output"]

    @contextlib.contextmanager
    def watch(self, model: nn.Module, groups: Groups, batch: Batch) -> Iterator[None]:
        """While open, one forward pass over a batch is kept, if it is the dense model's.

        Args:
            model: What runs.
            groups: Its groups.
            batch: Of the calibration set, the very one.
        """
        if model is not self._teacher or self._full:
            yield
            return
        with contextlib.ExitStack() as hooks:
            found = {
                path: hooks.enter_context(_tapping(model, path, _streams(members), _inputs(_producers(members))))
                for path, members in groups.layers()
            }
            outputs: list[Any] = []
            hooks.callback(model.register_forward_hook(lambda _, __, output: outputs.append(output)).remove)
            yield
        for path, states in found.items():
            if len(states["output"]) == 1:  # the layer ran once
                self._keep(path, {name: {id(batch): seen[0]} for name, seen in states.items() if len(seen) == 1})
        if len(outputs) == 1:
            self._keep_output(batch, outputs[0])

    def output(self, teacher: nn.Module, batch: Batch, task: Task) -> Any:
        """What the model gives for a batch, as its class returns it; it runs if that is not kept."""
        if teacher is self._teacher and id(batch) in self._outputs:
            return self._outputs[id(batch)]
        found = outputs_of(teacher, batch, task)
        if teacher is self._teacher and id(batch) in self._seen:
            self._keep_output(batch, found)
        return found

    def belong(self, teacher: nn.Module, batches: Batches) -> None:
        """Say whose layers come and for which batches; forget what is kept of another model or calibration set."""
        self._asked = [id(batch) for batch in batches]
        if self._teacher is not teacher or self._seen.keys().isdisjoint(self._asked):
            self._kept, self._outputs, self._memory, self._seen = {}, {}, set(), {}
            self.held, self._full, self._teacher = 0, False, teacher
        self._seen |= zip(self._asked, batches, strict=True)

    def _keep(self, path: str, states: Kept) -> None:
        """Keep of a layer what is not there yet, or nothing where that finds no room."""
        kept = self._kept.setdefault(path, {})
        new = {
            name: {batch: tensor for batch, tensor in tensors.items() if batch not in kept.get(name, {})}
            for name, tensors in states.items()
        }
        self._full = self._full or not self._room([one for tensors in new.values() for one in tensors.values()])
        if not self._full:
            for name, tensors in new.items():
                kept.setdefault(name, {}).update(tensors)

    def _keep_output(self, batch: Batch, output: Any) -> None:
        """Keep what the model gave for a batch, if that finds room."""
        detached = tree_map(lambda value: value.detach() if isinstance(value, Tensor) else value, output)
        if self._room([leaf for leaf in tree_leaves(detached) if isinstance(leaf, Tensor)]):
            self._outputs[id(batch)] = detached

    def _room(self, tensors: Sequence[Tensor]) -> bool:
        """Whether there is room for these beside what is kept; if so, they count as kept."""
        if self._limit is None and tensors:
            self._limit = free_bytes(tensors[0].device) // 4
        memory = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
        added = sum(size for address, size in memory.items() if address not in self._memory)
        if self._limit is not None and self.held + added > self._limit:
            return False
        self._memory |= memory.keys()
        self.held += added
        return True


_current: ContextVar[DenseStates | None] = ContextVar("states", default=None)


@contextlib.contextmanager
def keeping(states: DenseStates, teacher: nn.Module, batches: Batches) -> Iterator[None]:
    """While open, what this model's layers give for these batches is kept there, whatever scores or tunes in this context."""
    states.belong(teacher, batches)
    token = _current.set(states)
    try:
        yield
    finally:
        _current.reset(token)


def states_of(teacher: nn.Module, batches: Batches) -> DenseStates:
    """Where the states of this model and calibration set are to be kept; nothing is kept where nobody opened ``keeping``."""
    states = _current.get() or DenseStates(limit=0)
    states.belong(teacher, batches)
    return states


def watched(model: nn.Module, groups: Groups, batch: Batch) -> contextlib.AbstractContextManager[None]:
    """``DenseStates.watch`` of those that are kept, if any are."""
    states = _current.get()
    return states.watch(model, groups, batch) if states else contextlib.nullcontext()


def dense_output(teacher: nn.Module, batch: Batch, task: Task) -> Any:
    """What the dense model gives for a batch, on its device: ``DenseStates.output`` of those that are kept, if any are."""
    states = _current.get()
    return states.output(teacher, batch, task) if states else outputs_of(teacher, batch, task)


def _streams(members: Iterable[Group]) -> dict[str, Group]:
    return {f"stream {group.name}": group for group in members}


def _inputs(producers: Iterable[str]) -> dict[str, str]:
    return {f"into {path}": path for path in producers}


def _producers(members: Iterable[Group]) -> list[str]:
    """The paths of producers whose inputs a tuner may ask for: those that see all tokens."""
    return [path for group in members if not group.block.routed for path in group.producers]


@contextlib.contextmanager
def _tapping(
    teacher: nn.Module, path: str, streams: Mapping[str, Group], inputs: Mapping[str, str]
) -> Iterator[States]:
    """While open, what ``streams`` and ``inputs`` name of a layer is noted as it runs, and its output."""
    found: States = {name: [] for name in (*streams, *inputs, "output")}

    def note(name: str) -> Callable[[Tensor], None]:
        return lambda value: found[name].append(value.detach())

    with contextlib.ExitStack() as hooks:
        for name, group in streams.items():
            hooks.enter_context(tap_residual(teacher, group, note(name)))
        for name, producer in inputs.items():
            hooks.enter_context(tap_entering(teacher, producer, note(name)))
        hooks.enter_context(tap_output(teacher, path, note("output")))
        yield found
