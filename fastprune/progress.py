"""Progress: what a long step says of itself, to whoever listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with a description, the number of steps done and their total."""

_listener: ContextVar[Progress | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(progress: Progress | None) -> Iterator[None]:
    """While open, every ``track`` and ``step`` in this context reports to ``progress``; None: to whoever listened before."""
    token = _listener.set(progress or _listener.get())
    try:
        yield
    finally:
        _listener.reset(token)


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """The items one by one, reporting each that is done."""
    listener = _listener.get()
    for done, item in enumerate(items):
        if listener:
            listener(description, done, len(items))
        yield item
    if listener:
        listener(description, len(items), len(items))


@contextlib.contextmanager
def step(description: str) -> Iterator[None]:
    """A step that cannot be counted, reported as 0 of 1 when it begins and as 1 of 1 when it is done.

    A ``track`` of the same description inside it takes over.
    """
    listener = _listener.get()
    if listener is None:
        yield
        return
    counted = False

    def watch(said: str, done: int, total: int) -> None:
        nonlocal counted
        counted = counted or said == description
        listener(said, done, total)

    listener(description, 0, 1)
    with listening(watch):
        yield
    if not counted:
        listener(description, 1, 1)
