"""Repeated runs of a student's layer over the calibration set."""

from __future__ import annotations

import contextlib
from itertools import chain

import torch
from torch import Tensor, nn

from fastprune.calibration.layer_calls import LayerCall
from fastprune.surgery.replaying import Replay, replayable, replaying
from fastprune.units.groups import Group, consumer_of
from fastprune.units.linears import as_lying


class LayerRun:
    """A layer of the student that is run repeatedly over the calibration set.

    Outputs of sublayers that no longer change are replayed: each costs one run of its consumer.
    """

    def __init__(self, student: nn.Module, path: str, calls: list[LayerCall], hidden: list[Tensor]) -> None:
        """Set the layer's path, its recorded calls, and its input hidden states [samples, tokens, hidden], both by batch."""
        self.student, self.hidden = student, hidden
        self._path, self._calls = path, calls
        self._replays: list[Replay] = []
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> LayerRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def run(self, batch: int) -> Tensor:
        """The layer's output for a batch: [samples, tokens, hidden]."""
        for replay in self._replays:
            replay.batch = batch
        return self._calls[batch].run(self.student.get_submodule(self._path), self.hidden[batch])

    def fix(self, group: Group, features: list[Tensor]) -> None:
        """Replay a group's output from now on, because its weights no longer change.

        Args:
            group: The group.
            features: Inputs of its consumer by batch; the list is emptied to free memory.
        """
        same_shapes = [each.shape[:-1] for each in features] == [each.shape[:-1] for each in self.hidden]
        if same_shapes and replayable(self.student, group):
            linear, consumer = consumer_of(self.student, group), self.student.get_submodule(group.consumer)
            outputs = []
            while features:
                outputs.append(consumer(as_lying(linear, features.pop(0))))
            self._replays.append(self._undo.enter_context(replaying(self.student, group, outputs)))


def same_layer(teacher: nn.Module, student: nn.Module, path: str) -> bool:
    """Whether the layer at ``path`` has the same parameters and buffers in both models."""
    one, other = (
        dict(chain(layer.named_parameters(), layer.named_buffers()))
        for layer in (model.get_submodule(path) for model in (teacher, student))
    )
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def same_call(one: LayerCall, other: LayerCall) -> bool:
    """Whether two calls pass the same tensors beside the hidden states."""
    ours, theirs = one.tensors, other.tensors
    return len(ours) == len(theirs) and all(a is b or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
