"""Replay: a sublayer that gives again what it gave, while what follows it runs again and again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from fastprune.modeling import put
from fastprune.surgery.empty import owns_bias, stand_in
from fastprune.units.groups import Group


class Replay(nn.Module):
    """Stands where a consumer was: its output of the batch that is chosen, whatever comes in."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        """Hold the consumer's output for each batch: [..., hidden]."""
        super().__init__()
        self.outputs, self.batch = outputs, 0

    def forward(self, _features: Tensor) -> Tensor:
        return self.outputs[self.batch].clone()  # a copy, because some families add to it in place


@contextlib.contextmanager
def replaying(model: nn.Module, group: Group, outputs: Sequence[Tensor]) -> Iterator[Replay]:
    """While open, nothing of a sublayer runs up to its consumer, which gives these outputs, one a batch: [..., hidden]."""
    replay = Replay(outputs)
    before = {path: model.get_submodule(path) for path in (group.module, group.consumer)}
    stand_in(model, group, replay)
    try:
        yield replay
    finally:
        for path, module in before.items():
            put(model, path, module)


def replayable(model: nn.Module, group: Group) -> bool:
    """Whether a sublayer computes anything, of all tokens, and nothing that others need beside its consumer's output."""
    return group.units > 0 and not group.block.routed and not owns_bias(model, group)
