"""The clock of a run: seconds by stage, and progress while a stage runs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from fastprune.progress import following, reporting, step
from fastprune.progress.wording import Whole, duration

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

PARTS = 100  # steps of the progress of a forecast

_forecast: ContextVar[Forecast | None] = ContextVar("forecast", default=None)
_timings: ContextVar[dict[str, float] | None] = ContextVar("timings", default=None)


@dataclass
class Forecast:
    """Progress of all stages together, from their expected seconds. Stages count as far as they have come, whatever time they took:
    a display extrapolates the time left from the time so far.

    Attributes:
        seconds: Expected seconds by stage.
        passes: Number of passes, each with every stage but the last.
        report: Called with the finished hundredths.
        ended: How often each stage has ended.
        finished: What share of each stage is finished.
    """

    seconds: Mapping[str, float]
    passes: int
    report: Callable[[int], None]
    ended: dict[str, int] = field(default_factory=dict)
    finished: dict[str, float] = field(default_factory=dict)

    def follow(self, stage: str, share: float) -> None:
        """The share of a stage of this pass that is finished; it never goes back."""
        times = 1 if stage == "bench" else self.passes
        share = min((self.ended.get(stage, 0) + share) / times, 1.0)
        self.finished[stage] = max(share, self.finished.get(stage, 0.0))
        whole = sum(self.seconds.values())
        done = sum(seconds * self.finished.get(each, 0.0) for each, seconds in self.seconds.items())
        self.report(min(int(PARTS * done / whole), PARTS - 1) if whole > 0 else 0)

    def end(self, stage: str) -> None:
        """A stage has ended once more."""
        self.follow(stage, 1.0)
        self.ended[stage] = self.ended.get(stage, 0) + 1


@contextlib.contextmanager
def forecast(seconds: Mapping[str, float], passes: int) -> Iterator[None]:
    """Within the context, the progress of all stages is reported together, under a description with the expected time.

    Args:
        seconds: Expected seconds by stage, over all passes.
        passes: Number of passes.
    """
    with reporting(Whole(f"pruning, about {duration(sum(seconds.values()))}"), PARTS) as report:
        token = _forecast.set(Forecast(seconds, passes, report))
        try:
            yield
        finally:
            _forecast.reset(token)


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
    known = _forecast.get()
    with step(STAGES[stage]):
        if known:
            with following(STAGES[stage], lambda share: known.follow(stage, share)):
                yield
            known.end(stage)
        else:
            yield
    seconds = time.perf_counter() - start
    log.info("%s: %.1f s", stage, seconds)
    timings = _timings.get()
    if timings is not None:
        timings[stage] = timings.get(stage, 0.0) + seconds
