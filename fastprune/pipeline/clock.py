"""The clock of a run: seconds by stage, and progress while a stage runs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar

from fastprune.progress import step

log = logging.getLogger(__name__)

STAGES = {
    "measure": "measuring",
    "score": "scoring",
    "search": "searching",
    "rearrange": "rearranging",
    "tune": "tuning",
    "choose": "choosing",
    "bench": "timing",
    "trim": "reducing the vocabulary",
}
"""The stages, and the description of each in progress reports."""

_timings: ContextVar[dict[str, float] | None] = ContextVar("timings", default=None)


@contextlib.contextmanager
def clock() -> Iterator[dict[str, float]]:
    """While open, ``timed`` adds the seconds of each stage to the yielded dict."""
    timings: dict[str, float] = {}
    token = _timings.set(timings)
    try:
        yield timings
    finally:
        _timings.reset(token)


@contextlib.contextmanager
def timed(stage: str) -> Iterator[None]:
    """Time one stage and report its progress."""
    start = time.perf_counter()
    with step(STAGES[stage]):
        yield
    seconds = time.perf_counter() - start
    log.info("%s: %.1f s", stage, seconds)
    timings = _timings.get()
    if timings is not None:
        timings[stage] = timings.get(stage, 0.0) + seconds
