"""Progress on standard error: bars on a terminal, a bar in a notebook, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import html
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastprune.progress.wording import Whole, duration

Report = Callable[[str, int, int], None]
"""Called with a description, the number of finished steps and their total."""

QUIET = "FASTPRUNE_QUIET"
"""Environment variable; any value but 0 switches progress off."""
EVERY = 10.0  # seconds between plain lines
REFRESH = 0.2  # seconds between updates of a notebook's bar, at least


@contextlib.contextmanager
def shown(console: Console | None = None) -> Iterator[Report]:
    """Within the context, show what the yielded function is told.

    Args:
        console: Where to [standard error].
    """
    console = console or Console(stderr=True, highlight=False)
    display: Callable[[Console], contextlib.AbstractContextManager[Report]] = _lines
    if console.quiet or os.environ.get(QUIET, "0") not in ("", "0"):
        display = _nothing
    elif console.is_jupyter:
        display = _notebook_bar
    elif console.is_terminal:
        display = _bars
    with display(console) as report:
        yield report


@dataclass
class _Step:
    """A running step: when it started and when a part of it last ended, in seconds, and how far it is."""

    start: float
    last: float
    done: int
    total: int

    def text(self, now: float) -> str:
        """How far it is and the time left; the time so far, if no part of it or all but one have ended.

        The time left falls while a part runs, and grows only if the part takes longer than those before it.
        """
        seconds, parts = now - self.start, self.total - self.done
        if not self.done:
            return f"{duration(seconds)} so far"
        as_before = (self.last - self.start) / self.done * parts - (now - self.last)
        left = max(as_before, seconds / (self.done + 1) * (parts - 1))
        return f"{self.done} of {self.total}, " + (
            f"{duration(left)} left" if left > 0 else f"{duration(seconds)} so far"
        )


@dataclass
class Running:
    """The running steps by description, the outermost first."""

    clock: Callable[[], float] = time.monotonic
    steps: dict[str, _Step] = field(default_factory=dict)

    def note(self, description: str, done: int, total: int) -> None:
        """Take over a report; a finished step is dropped."""
        if done >= total:
            self.steps.pop(description, None)
        elif done == 0 or description not in self.steps:
            self.steps[description] = _Step(self.clock(), self.clock(), done, total)
        else:
            self.steps[description].last, self.steps[description].done = self.clock(), done

    @property
    def outermost(self) -> bool:
        """Whether a step that starts now is part of no other one but a ``Whole``."""
        return all(isinstance(name, Whole) for name in self.steps)

    def text(self) -> str:
        """All running steps in one line."""
        now = self.clock()
        return "; ".join(f"{name}: {step.text(now)}" for name, step in self.steps.items())


@contextlib.contextmanager
def _nothing(_: Console) -> Iterator[Report]:
    yield lambda *_: None


@contextlib.contextmanager
def _lines(console: Console) -> Iterator[Report]:
    """A line when a step starts that is part of none but a ``Whole``, and one for all running steps ``EVERY`` seconds later."""
    running, lock, ended, last, said = Running(), threading.Lock(), threading.Event(), "", 0.0
    stream = console.file  # exporters redirect standard error

    def say(text: str) -> None:
        nonlocal said
        said = time.monotonic()
        print(text, file=stream, flush=True)

    def report(description: str, done: int, total: int) -> None:
        nonlocal last
        with lock:
            if running.outermost and done < total and description != last and description not in running.steps:
                last = description
                say(description)
            running.note(description, done, total)

    def repeat() -> None:
        pause = EVERY
        while not ended.wait(pause):
            with lock:
                if last and time.monotonic() - said >= EVERY:
                    say(running.text() or "working")  # between two steps, such as while libraries are imported
                pause = max(said + EVERY - time.monotonic(), 0.01) if last else EVERY

    thread = threading.Thread(target=repeat, name="fastprune progress", daemon=True)
    thread.start()
    try:
        yield report
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _bars(console: Console) -> Iterator[Report]:
    """A bar for each step, removed at the end."""
    columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(description: str, done: int, total: int) -> None:
            task = tasks.get(description)
            if task is None:
                tasks[description] = bars.add_task(description, total=total)
            elif done == 0 and bars.tasks[bars.task_ids.index(task)].finished:  # the step runs again
                bars.reset(task, total=total)
            bars.update(tasks[description], completed=done, total=total)

        yield report


@contextlib.contextmanager
def _notebook_bar(_: Console) -> Iterator[Report]:
    """One bar for the innermost step, with all running steps as text, removed at the end. rich's bars take ipywidgets, which
    not every notebook has; this one takes IPython alone."""
    display: Any = import_module("IPython.display")
    running, drawn = Running(), 0.0
    handle = display.display(display.HTML(""), display_id=True)

    def report(description: str, done: int, total: int) -> None:
        nonlocal drawn
        running.note(description, done, total)
        if running.steps and (done == 0 or running.clock() - drawn >= REFRESH):
            drawn = running.clock()
            step = list(running.steps.values())[-1]
            bar = f'<progress value="{step.done}" max="{step.total}"></progress>'
            handle.update(display.HTML(f"{bar} {html.escape(running.text())}"))

    try:
        yield report
    finally:
        handle.update(display.HTML(""))
