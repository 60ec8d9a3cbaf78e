"""A layer of the student over the whole calibration set."""

from __future__ import annotations

import contextlib

from torch import Tensor, nn

from fastprune.calibration.layer_calls import LayerCall
from fastprune.surgery.replaying import Replay, replayable, replaying
from fastprune.units.groups import Group, consumer_of
from fastprune.units.linears import as_lying


class LayerRun:
    """A layer of the student over the whole calibration set, to be run again and again.

    What is settled in it does not run again: a sublayer before the one that is being solved costs its consumer, once.
    """

    def __init__(self, student: nn.Module, path: str, calls: list[LayerCall], hidden: list[Tensor]) -> None:
        """Take how the model calls it, and the hidden states [samples, tokens, hidden] entering it, both by the batch."""
        self.student, self.hidden = student, hidden
        self._path, self._calls = path, calls
        self._replays: list[Replay] = []
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> LayerRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def run(self, batch: int) -> Tensor:
        """Its output for a batch: [samples, tokens, hidden]."""
        for replay in self._replays:
            replay.batch = batch
        return self._calls[batch].run(self.student.get_submodule(self._path), self.hidden[batch])

    def settle(self, group: Group, features: list[Tensor]) -> None:
        """Nothing changes any more in a group, whose consumer sees these features by the batch; they are used up."""
        shapes = [each.shape[:-1] for each in features] == [each.shape[:-1] for each in self.hidden]
        if shapes and replayable(self.student, group):
            shown, consumer = consumer_of(self.student, group), self.student.get_submodule(group.consumer)
            outputs = []
            while features:
                outputs.append(consumer(as_lying(shown, features.pop(0))))
            self._replays.append(self._undo.enter_context(replaying(self.student, group, outputs)))
