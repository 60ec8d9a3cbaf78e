"""Plots with matplotlib, without a display; files are written completely or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastprune.errors import UsageError
from fastprune.files import user_path, written_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def subplots(width: float, height: float, count: int = 1) -> tuple[Figure, Any]:
    """Create a figure of ``width`` x ``height`` inches with ``count`` axes side by side: one Axes, or a list if ``count`` > 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(1, count, place) for place in range(1, count + 1)]
    return figure, axes[0] if count == 1 else axes


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure: PNG, SVG or PDF, by the file's suffix.

    Raises:
        UsageError: The file cannot be written.
    """
    try:
        with written_file(path) as scratch:
            figure.savefig(scratch, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"The figure {path} cannot be written: {error}") from error
    return user_path(path)
