"""The context of long-running commands: progress bars and logs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from fastprune.cli.options import VERBOSITY

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def working(*, as_json: bool = False) -> Iterator[Console]:
    """Yield the console for messages, with progress bars and logs; other libraries' progress bars are switched off."""
    from fastprune.cli import terminal
    from fastprune.progress import step

    verbosity = click.get_current_context().find_root().meta.get(VERBOSITY)
    where = terminal.console(quiet=as_json or verbosity == "quiet")
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminal.progress_bar(where))
        if verbosity == "verbose":
            stack.enter_context(terminal.logs(where))
        with step("starting"):  # importing torch and transformers
            from fastprune.cli.quiet import quiet_libraries
        stack.enter_context(quiet_libraries())
        yield where
