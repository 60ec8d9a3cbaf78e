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
    """While open, every ``track`` in this context reports to ``progress``; None: to whoever listened before."""
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
