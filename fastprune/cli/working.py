"""The context of long-running commands: progress and logs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from fastprune.cli.options import VERBOSITY

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def working() -> Iterator[Console]:
    """Yield the console for messages, with progress and logs, all on standard error; other libraries' progress bars are off."""
    from fastprune.cli import terminal
    from fastprune.progress import listening, step
    from fastprune.progress.display import shown

    verbosity = click.get_current_context().find_root().meta.get(VERBOSITY)
    where = terminal.console(quiet=verbosity == "quiet")
    with contextlib.ExitStack() as stack:
        stack.enter_context(listening(stack.enter_context(shown(where))))
        if verbosity == "verbose":
            stack.enter_context(terminal.logs(where))
        with step("starting"):  # importing torch and transformers
            from fastprune.progress.quiet import quiet_libraries
        stack.enter_context(quiet_libraries())
        yield where
