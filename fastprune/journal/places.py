"""Places of journals."""

from __future__ import annotations

import os
from pathlib import Path

from fastprune.files import PARTIAL, user_path

HEAD = "journal.json"
"""The file of a journal with the fingerprint of its run."""

DIGEST = "sha256:"
"""What the settings of a fingerprint begin with that say nothing to a reader."""


def journal_beside(output: str | Path) -> Path:
    """The place of the journal of a run: beside its output, or in it, where nothing can be written beside it."""
    target = user_path(output).resolve()
    if target.is_dir() and not os.access(target.parent, os.W_OK):
        return target / f"{PARTIAL}journal"
    return target.with_name(f"{target.name}.journal")


def is_journal(path: str | Path) -> bool:
    """Whether a directory is a journal."""
    return (user_path(path) / HEAD).is_file()
