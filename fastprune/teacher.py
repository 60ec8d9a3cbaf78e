"""The teacher's side of tuning: what the dense model's layers give, kept where another tuning toward it is to come."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar

import psutil
import torch
from torch import Tensor, nn

from fastprune.calibration import Batches
from fastprune.calls import LayerCall
from fastprune.capture import tap_entering, tap_residual
from fastprune.groups import Group
from fastprune.tasks import Batch

States = dict[str, list[Tensor]]
"""Hidden states by name, one tensor a batch."""


class DenseStates:
    """What the layers of one dense model give for the batches of one calibration set, kept up to a limit.

    A part of the set, or more than it, runs for those batches alone that are new. Layers are kept from the first on; once
    one finds no room, it and those above it are run anew each time. So are all, once another model comes, or batches of
    which none was there before.

    Attributes:
        held: Bytes that are kept.
    """

    def __init__(self, limit: int | None = None) -> None:
        """Keep up to ``limit`` bytes; None: a quarter of the memory that is free when the first layer comes."""
        self._limit, self._full, self.held = limit, False, 0
        self._kept: dict[str, dict[str, dict[int, Tensor]]] = {}  # by the layer, the name, and the batch's id
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
        kept = self._kept.get(path, {})
        streams, inputs = (
            {f"stream {group.name}": group for group in members},
            {f"into {one}": one for one in producers},
        )
        names = (*streams, *inputs, "output")
        new = [place for place, one in enumerate(self._asked) if not all(one in kept.get(name, {}) for name in names)]
        if new:
            found = _run(
                teacher, path, streams, inputs, [calls[place] for place in new], [hidden[place] for place in new]
            )
            batches = [self._asked[place] for place in new]
            kept = kept | {
                name: dict(zip(batches, tensors, strict=True)) | kept.get(name, {}) for name, tensors in found.items()
            }
            self._keep(path, kept)
        here = {name: [kept[name][batch] for batch in self._asked] for name in names}
        by_group = {group.name: here[name] for name, group in streams.items()}
        return by_group, {one: here[name] for name, one in inputs.items()}, here["output"]

    def belong(self, teacher: nn.Module, batches: Batches) -> None:
        """Say whose layers come and for which batches; forget what is kept of another model or calibration set."""
        self._asked = [id(batch) for batch in batches]
        if self._teacher is not teacher or self._seen.keys().isdisjoint(self._asked):
            self._kept, self._seen, self.held, self._full, self._teacher = {}, {}, 0, False, teacher
        self._seen |= zip(self._asked, batches, strict=True)

    def _keep(self, path: str, states: dict[str, dict[int, Tensor]]) -> None:
        if self._limit is None:
            self._limit = _free_bytes(next(iter(states["output"].values())).device) // 4
        with_these = {**self._kept, path: states}
        held = _bytes(with_these.values())
        self._full = self._full or held > self._limit
        if not self._full:
            self._kept, self.held = with_these, held


_current: ContextVar[DenseStates | None] = ContextVar("states", default=None)


@contextlib.contextmanager
def keeping(states: DenseStates) -> Iterator[None]:
    """While open, whatever is tuned in this context keeps the teacher's side there."""
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


def _run(
    teacher: nn.Module,
    path: str,
    streams: Mapping[str, Group],
    inputs: Mapping[str, str],
    calls: Sequence[LayerCall],
    hidden: Sequence[Tensor],
) -> States:
    """Run a layer over the whole calibration set: what ``streams`` and ``inputs`` name, and its output."""
    layer = teacher.get_submodule(path)
    found: States = {name: [] for name in (*streams, *inputs, "output")}
    with contextlib.ExitStack() as hooks:
        for name, group in streams.items():
            hooks.enter_context(tap_residual(teacher, group, found[name].append))
        for name, producer in inputs.items():
            hooks.enter_context(tap_entering(teacher, producer, found[name].append))
        for call, entering in zip(calls, hidden, strict=True):
            found["output"].append(call.run(layer, entering))
    return found


def _bytes(layers: Iterable[dict[str, dict[int, Tensor]]]) -> int:
    """What tensors take, each memory counted once: one layer's output is what enters the next."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for states in layers
        for tensors in states.values()
        for tensor in tensors.values()
    }
    return sum(storages.values())


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
