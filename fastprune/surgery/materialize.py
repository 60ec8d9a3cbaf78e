"""Surgery: take the pruned units' rows and columns out, put nothing in the place of empty sublayers, set new consumers.

The four-feature example: a group of two heads of two features, of which the second goes. Its producers (query, key,
value) lose their rows 2 and 3, its consumer (the output projection) its columns 2 and 3. What is left computes what the
dense sublayer computes with the consumer's input multiplied by the mask (1, 1, 0, 0).
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from fastprune.surgery.empty import empty_group
from fastprune.surgery.slicing import slice_group
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask

M = TypeVar("M", bound=nn.Module)


def materialize(model: M, groups: Groups, mask: Mask, *, inplace: bool = False) -> M:
    """The model without the pruned units: plain modules, only smaller.

    Args:
        model: With the groups' full widths.
        groups: The model's groups.
        mask: What to keep.
        inplace: Change this very model instead of a copy.

    Returns:
        The smaller model. It agrees to rounding with the model under ``masked`` (METHOD 0).
    """
    pruned = model if inplace else copy.deepcopy(model)
    for group in groups:
        kept = mask.kept(group.name)
        if len(kept) == 0 and group.units > 0:
            empty_group(pruned, group)
        elif len(kept) < group.units:
            slice_group(pruned, group, kept)
    return pruned
