"""What a model with fewer tokens was before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Trimming:
    """The reduction of a vocabulary.

    Attributes:
        dense: The model with its whole vocabulary.
        tokenizer: Its tokenizer or processor.
        rows: The old id of each row that is left.
        figures: Rows and parameters before and after, coverage, lengths of texts, ready for JSON.
    """

    dense: nn.Module
    tokenizer: Any
    rows: tuple[int, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
