"""Copies of a model that share its parameters."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def sharing_copy(model: M) -> M:
    """Copy the modules of a model, but share its parameters and buffers.

    ``materialize(..., inplace=True)`` on the copy leaves the original intact, because surgery replaces parameters and never
    changes their values.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
