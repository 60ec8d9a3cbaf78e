"""Dense states: outputs of the dense model and of its layers, cached for tuners and for the comparison of drafts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fastprune.calibration.bf16 import bf16_matmuls
from fastprune.calibration.free_memory import free_bytes
from fastprune.calibration.hooks import tap_entering, tap_output, tap_residual
from fastprune.calibration.layer_calls import LayerCall
from fastprune.data.batches import Batches, outputs_of
from fastprune.data.tasks import Batch, Task
from fastprune.units.groups import Group

States = dict[str, list[Tensor]]
"""Hidden states by name, one tensor per batch."""

Kept = dict[str, dict[int, Tensor]]
"""Hidden states by name and by the batch's index in the calibration set."""


MOST = 1 << 28
"""Bytes of dense states cached by default. All layers' states are many times the model; running its layers again takes less time
than one forward pass."""


class DenseStates:
    """Outputs of one dense model and of its layers on one calibration set, cached up to a memory limit.

    Filled during scoring; missing entries are computed on demand, per batch, all with ``bf16_matmuls``, so that they are the same
    whoever asks first. Once the memory limit is hit, no further layers
    are cached; model outputs that do not fit are skipped individually. Batches that are not part of the calibration set
    (augmented copies) are never cached.

    Attributes:
        teacher: The dense model.
        held: Number of cached bytes.
    """

    def __init__(self, teacher: nn.Module, batches: Batches, limit: int | None = None, *, rounded: bool = True) -> None:
        """Cache up to ``limit`` bytes [``MOST``, or a quarter of the memory that is free at the first entry, if that is less].

        Args:
            teacher: The dense model.
            batches: The calibration set.
            limit: Number of bytes.
            rounded: Compute with ``bf16_matmuls``; False: in the model's precision.
        """
        self.teacher, self.held, self._rounded = teacher, 0, rounded
        self._batches, self._limit, self._full = batches.batches, limit, False
        self._kept: dict[str, Kept] = {}  # by the layer's path
        self._outputs: dict[int, Any] = {}  # by the batch's index
        self._memory: set[int] = set()  # addresses of cached storage: one layer's output is the next one's input

    def belong_to(self, teacher: nn.Module, batches: Batches) -> bool:
        """Whether the cached states belong to this model and to these batches, compared by identity."""
        same = len(batches) == len(self._batches) and all(map(_same, batches, self._batches))
        return teacher is self.teacher and same

    def layer(
        self,
        path: str,
        members: Sequence[Group],
        producers: Iterable[str],
        calls: Sequence[LayerCall],
        hidden: list[Tensor],
        batches: Batches,
        places: Sequence[int] | None = None,
    ) -> tuple[States, States]:
        """The hidden states inside a layer; the layer runs for batches that are not cached.

        Args:
            path: The layer's path.
            members: The layer's groups.
            producers: Paths of the producers whose inputs are needed.
            calls: The model's call of the layer, by batch.
            hidden: The layer's input hidden states [samples, tokens, hidden] by batch, replaced one by one by its output, so that
                both are never held.
            batches: The batches, of the calibration set or not.
            places: Indices of the batches whose states inside the layer are needed [all].

        Returns:
            By batch of ``places``: the residual stream after each sublayer, by group; the input of each producer, by path.
        """
        streams, inputs = _streams(members), _inputs(producers)
        inside: States = {name: [] for name in (*streams, *inputs)}
        wanted = set(range(len(batches)) if places is None else places)
        layer = self.teacher.get_submodule(path)
        with contextlib.ExitStack() as taps:
            noted: States = {}
            for index, batch in enumerate(batches):
                place, names = self._place(batch), (*(inside if index in wanted else ()), "output")
                states = self._known(path, place, names)
                if states is None:
                    if not noted:
                        taps.enter_context(self.precision())
                        noted = taps.enter_context(_tapping(self.teacher, path, streams, inputs))
                    calls[index].run(layer, hidden[index])
                    states = {name: values.pop() for name, values in noted.items()}
                    if place is not None:
                        self._keep(path, {name: {place: state} for name, state in states.items()})
                for name in names[:-1]:
                    inside[name].append(states[name])
                hidden[index] = states["output"]
        by_group = {group.name: inside[name] for name, group in streams.items()}
        return by_group, {one: inside[name] for name, one in inputs.items()}

    def _known(self, path: str, place: int | None, names: Iterable[str]) -> dict[str, Tensor] | None:
        """The cached states of a layer for a batch; None if one is missing."""
        kept = self._kept.get(path, {})
        if place is None or not all(place in kept.get(name, {}) for name in names):
            return None
        return {name: kept[name][place] for name in names}

    @contextlib.contextmanager
    def watch(self, layers: Iterable[tuple[str, Sequence[Group]]], batch: Batch) -> Iterator[None]:
        """Within the context, one forward pass of the dense model over a batch of the calibration set is cached.

        Args:
            layers: The path of each layer and its groups.
            batch: The batch of the calibration set itself; other batches, even equal copies, are not cached.
        """
        place = self._place(batch)
        if place is None or self._full:
            with self.precision():
                yield
            return
        with self.precision(), contextlib.ExitStack() as hooks:
            noted = {
                path: hooks.enter_context(_tapping(self.teacher, path, _streams(members), _inputs(_producers(members))))
                for path, members in layers
            }
            outputs: list[Any] = []
            hooks.callback(self.teacher.register_forward_hook(lambda _, __, output: outputs.append(output)).remove)
            yield
        for path, states in noted.items():
            if len(states["output"]) == 1:  # the layer ran once
                self._keep(path, {name: {place: each[0]} for name, each in states.items() if len(each) == 1})
        if len(outputs) == 1:
            self._keep_output(place, outputs[0])

    def output(self, batch: Batch, task: Task) -> Any:
        """The dense model's output for a batch, as its class returns it, on its device."""
        place = self._place(batch)
        if place in self._outputs:
            return self._outputs[place]
        with self.precision():
            output = outputs_of(self.teacher, batch, task)
        if place is not None:
            self._keep_output(place, output)
        return output

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """A context in which linears multiply as in these states; students are compared with them in it."""
        return bf16_matmuls(next(self.teacher.parameters()).device) if self._rounded else contextlib.nullcontext()

    def _place(self, batch: Batch) -> int | None:
        """Index of a batch in the calibration set; None for any other batch."""
        return next((place for place, own in enumerate(self._batches) if own is batch), None)

    def _keep(self, path: str, states: Kept) -> None:
        """Cache the new states of a layer if all of them fit."""
        kept = self._kept.setdefault(path, {})
        new = {
            name: {place: tensor for place, tensor in tensors.items() if place not in kept.get(name, {})}
            for name, tensors in states.items()
        }
        self._full = self._full or not self._room([one for tensors in new.values() for one in tensors.values()])
        if not self._full:
            for name, tensors in new.items():
                kept.setdefault(name, {}).update(tensors)

    def _keep_output(self, place: int, output: Any) -> None:
        """Cache the model's output for a batch if it fits."""
        detached = tree_map(lambda value: value.detach() if isinstance(value, Tensor) else value, output)
        if self._room([leaf for leaf in tree_leaves(detached) if isinstance(leaf, Tensor)]):
            self._outputs[place] = detached

    def _room(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the tensors fit into the remaining memory; if so, they are counted as cached."""
        if self._limit is None and tensors:
            self._limit = min(MOST, free_bytes(tensors[0].device) // 4)
        memory = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
        added = sum(size for address, size in memory.items() if address not in self._memory)
        if self._limit is not None and self.held + added > self._limit:
            return False
        self._memory |= memory.keys()
        self.held += added
        return True


def watching(
    states: DenseStates | None, model: nn.Module, layers: Iterable[tuple[str, Sequence[Group]]], batch: Batch
) -> contextlib.AbstractContextManager[None]:
    """``DenseStates.watch`` if there are states of this model; else a context that does nothing."""
    if states is None or states.teacher is not model:
        return contextlib.nullcontext()
    return states.watch(layers, batch)


def _same(one: object, other: object) -> bool:
    return one is other


def _streams(members: Iterable[Group]) -> dict[str, Group]:
    return {f"stream {group.name}": group for group in members}


def _inputs(producers: Iterable[str]) -> dict[str, str]:
    return {f"into {path}": path for path in producers}


def _producers(members: Iterable[Group]) -> list[str]:
    """Paths of the producers whose inputs a tuner may need: producers that see all tokens."""
    return [path for group in members if not group.block.routed for path in group.producers]


@contextlib.contextmanager
def _tapping(
    teacher: nn.Module, path: str, streams: Mapping[str, Group], inputs: Mapping[str, str]
) -> Iterator[States]:
    """Within the context, the named streams and inputs of a layer and its output are collected when the layer runs."""
    noted: States = {name: [] for name in (*streams, *inputs, "output")}

    def note(name: str) -> Callable[[Tensor], None]:
        return lambda value: noted[name].append(value.detach())

    with contextlib.ExitStack() as hooks:
        for name, group in streams.items():
            hooks.enter_context(tap_residual(teacher, group, note(name)))
        for name, producer in inputs.items():
            hooks.enter_context(tap_entering(teacher, producer, note(name)))
        hooks.enter_context(tap_output(teacher, path, note("output")))
        yield noted
