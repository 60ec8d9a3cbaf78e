"""Copies of a model that share its parameters."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def sharing_copy(model: M) -> M:
    """A copy of the modules with the very same parameters and buffers: ``materialize(..., inplace=True)`` may take units
    out of it, since surgery puts new parameters in the place of old ones and changes none."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
