"""Plots with matplotlib, without a display; files are written completely or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastprune.errors import UsageError
from fastprune.files import check_file, written_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MARK = "fastprune"
"""The program in the metadata of pictures."""
KINDS: Mapping[str, Mapping[str, Any]] = {
    ".png": {"Software": MARK},
    ".svg": {"Creator": MARK, "Date": None},
    ".pdf": {"Creator": MARK, "CreationDate": None},
}
"""Metadata of pictures by the file's suffix."""


def check_picture(path: str | Path) -> Path:
    """Check that a picture can be written at ``path``; returns the path, without ``~``.

    Raises:
        UsageError: The suffix is unknown, or the file cannot be written or exists and is not a picture of fastprune.
    """
    place = check_file(path, mark=MARK.encode())
    if place.suffix.lower() not in KINDS:
        raise UsageError(f"The picture {path} cannot be written; its name must end with {', '.join(KINDS)}.")
    return place


def plain(text: str) -> str:
    """The text for a label of a plot, which matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def subplots(width: float, height: float, count: int = 1) -> tuple[Figure, Any]:
    """Create a figure of ``width`` x ``height`` inches with ``count`` axes side by side: one Axes, or a list if ``count`` > 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(1, count, place) for place in range(1, count + 1)]
    return figure, axes[0] if count == 1 else axes


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure: PNG, SVG or PDF, by the file's suffix.

    Raises:
        UsageError: The suffix is unknown, or the file cannot be written or exists and is not a picture of fastprune.
    """
    place = check_picture(path)
    with written_file(place) as scratch:
        figure.savefig(scratch, dpi=150, metadata=dict(KINDS[place.suffix.lower()]))
    return place
