"""Progress reports of long steps to a listener."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with a description, the number of finished steps and their total."""

_listener: ContextVar[Progress | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(progress: Progress | bool = True) -> Iterator[None]:
    """Within the context, ``track`` and ``step`` report to a listener.

    Args:
        progress: The listener. True: the enclosing one, else a display on standard error: bars on a terminal or in a notebook,
            plain lines elsewhere, nothing if the environment variable ``FASTPRUNE_QUIET`` is set. False: nobody.
    """
    with contextlib.ExitStack() as stack:
        if progress is False:
            listener: Progress = _silence
        elif progress is not True:
            listener = progress
        else:
            from fastprune.progress.display import shown  # rich

            listener = _listener.get() or stack.enter_context(shown())
        token = _listener.set(listener)
        try:
            yield
        finally:
            _listener.reset(token)


def heard() -> bool:
    """Whether anybody listens to progress."""
    return _listener.get() not in (None, _silence)


def _silence(description: str, done: int, total: int) -> None:
    """A listener that shows nothing."""


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """Yield the items and report each finished one, and the end."""
    listener = _listener.get()
    try:
        for done, item in enumerate(items):
            if listener:
                listener(description, done, len(items))
            yield item
    finally:  # also if the caller needs no more of them
        if listener:
            listener(description, len(items), len(items))


@contextlib.contextmanager
def step(description: str) -> Iterator[None]:
    """Report a step of unknown length as 0 of 1 at its start and 1 of 1 at its end.

    A ``track`` with the same description inside the step replaces these reports.
    """
    listener = _listener.get()
    if listener is None:
        yield
        return
    counted = False

    def watch(inner: str, done: int, total: int) -> None:
        nonlocal counted
        counted = counted or inner == description
        listener(inner, done, total)

    listener(description, 0, 1)
    with listening(watch):
        yield
    if not counted:
        listener(description, 1, 1)


@contextlib.contextmanager
def reporting(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Report a step by the yielded function, called with the number of finished parts; the end is reported, too."""
    listener = _listener.get() or _silence
    listener(description, 0, total)
    try:
        yield lambda done: listener(description, done, total)
    finally:
        listener(description, total, total)


@contextlib.contextmanager
def following(description: str, follow: Callable[[float], None]) -> Iterator[None]:
    """Within the context, the finished share of steps with this description is told to ``follow``, too, from 0 to 1."""
    listener = _listener.get()
    if listener is None:
        yield
        return

    def watch(inner: str, done: int, total: int) -> None:
        listener(inner, done, total)
        if inner == description and done < total:  # another step with this description may come
            follow(done / total)

    with listening(watch):
        yield
