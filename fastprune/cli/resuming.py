"""Commands that go on where they were stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastprune.files import MODEL_FILES, user_path
from fastprune.journal.places import is_journal, journal_beside

if TYPE_CHECKING:
    from rich.console import Console


def end_if_complete(output: str) -> None:
    """End the command if an earlier run was stopped when its output stood, and only its journal was still there; it is deleted."""
    complete = False
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # no valid path, as check_output says
        place = journal_beside(output)
        complete = is_journal(place) and any((user_path(output) / name).is_file() for name in MODEL_FILES)
    if complete:
        discard(place)
        click.echo(f"{output} is complete already; nothing is left to do.", err=True)
        click.get_current_context().exit()


def discard(place: Path) -> None:
    """Delete a journal."""
    from fastprune.journal.journal import Journal

    Journal(place).discard()


@contextlib.contextmanager
def resuming(output: str, where: Console, *, restart: bool) -> Iterator[Path]:
    """Within the context, Ctrl-C says how to go on; yields the place of the journal.

    Args:
        output: The output directory.
        where: The console for messages.
        restart: Whether to start anew; an earlier journal is deleted.
    """

    place = journal_beside(output)
    if is_journal(place):
        if restart:
            discard(place)
        else:
            where.print(f"Going on with the run that was stopped, from {place}.", soft_wrap=True)
    try:
        yield place
    except KeyboardInterrupt:
        if not is_journal(place):
            raise
        click.echo(
            f"Stopped. Repeat the command to go on; with --restart, it starts anew. What is done so far is in {place}.",
            err=True,
        )
        click.get_current_context().exit(130)
