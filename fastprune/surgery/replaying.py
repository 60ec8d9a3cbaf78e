"""Replay: stored outputs of a sublayer, used while later sublayers run repeatedly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from fastprune.modeling import put
from fastprune.surgery.empty import owns_bias, stand_in
from fastprune.units.groups import Group


class Replay(nn.Module):
    """A consumer's replacement that returns the stored output of the chosen batch, independent of its input."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        """Set the consumer's output for each batch: [..., hidden]."""
        super().__init__()
        self.outputs, self.batch = outputs, 0

    def forward(self, _features: Tensor) -> Tensor:
        return self.outputs[self.batch].clone()  # a copy, because some families add to it in place


@contextlib.contextmanager
def replaying(model: nn.Module, group: Group, outputs: Sequence[Tensor]) -> Iterator[Replay]:
    """Within the context, a sublayer does not run; its consumer returns these outputs, one per batch: [..., hidden]."""
    replay = Replay(outputs)
    before = {path: model.get_submodule(path) for path in (group.module, group.consumer)}
    stand_in(model, group, replay)
    try:
        yield replay
    finally:
        for path, module in before.items():
            put(model, path, module)


def replayable(model: nn.Module, group: Group) -> bool:
    """Whether a sublayer has units, sees all tokens, and has no result but its consumer's output, so that it can be replayed."""
    return group.units > 0 and not group.block.routed and not owns_bias(model, group)
