"""An export format: the widths of a model's layers, as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastprune import Pretrained, option
from fastprune.strategies import ExportFormat


@dataclass(frozen=True, kw_only=True)
class WidthsFormat(ExportFormat):
    """The number of heads and of filters in each layer, for a program that builds the model itself."""

    name: ClassVar[str] = "widths"
    files: ClassVar[tuple[str, ...]] = ("widths.json",)
    multiple: int = option(1, at_least=1, help="Widths that are no multiple of it are refused.")

    def refuses(self, opened: Pretrained) -> str:
        """As ``ExportFormat.refuses``."""
        groups = opened.groups()
        if groups is None:
            return f"Nobody knows the layers of a {type(opened.model).__name__}; register its architecture."
        odd = [group for group in groups if group.units % self.multiple]
        return f"{odd[0].name} has {odd[0].units} units, no multiple of {self.multiple}." if odd else ""

    def write(self, opened: Pretrained, directory: Path) -> None:
        """As ``ExportFormat.write``."""
        widths = {group.name: group.units for group in opened.groups() or ()}
        (directory / "widths.json").write_text(json.dumps(widths, indent=2) + "\n", encoding="utf-8")
