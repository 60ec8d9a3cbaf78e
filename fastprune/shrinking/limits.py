"""What is asked of a search, checked without importing torch."""

from __future__ import annotations

import math

from fastprune.errors import OptionError

GOALS = ("size", "latency")


def check_asked(max_drop: float, goal: str) -> None:
    """Raise ``OptionError`` for a limit below 0 or an unknown goal."""
    if not 0 <= max_drop < math.inf:
        raise OptionError(f"--max-drop takes points, 0 or more; got {max_drop:g}.")
    if goal not in GOALS:
        raise OptionError(f"The goal is {' or '.join(GOALS)}; got {goal!r}.")


def places(output: object, quantize: str | None) -> list[str]:
    """The directory of the model, and that of its export if weights are quantised."""
    return [str(output), *([f"{str(output).rstrip('/')}-{quantize}"] if quantize else [])]
