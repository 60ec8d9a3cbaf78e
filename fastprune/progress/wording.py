"""Words of progress reports: durations, and descriptions of steps that are all of a run."""

from __future__ import annotations


class Whole(str):
    """The description of a step that contains all others of a run: a display still tells when these start."""

    __slots__ = ()


def duration(seconds: float) -> str:
    """12 s, 3 min or 1 h 20 min."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
