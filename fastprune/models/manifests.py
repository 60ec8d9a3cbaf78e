"""Manifests: the record of a pruning (recipe, costs, metrics, units) in a saved model's directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastprune.errors import CheckpointError
from fastprune.files import check_file, user_path, write_text
from fastprune.reports.pages import MARK, render
from fastprune.untrusted import read_json

MANIFEST = "fastprune.json"
FORMAT_VERSION = 1


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read the manifest of a pruned model's directory.

    Raises:
        CheckpointError: The manifest is missing, is not valid JSON, or has a newer format.
    """
    file = user_path(path) / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{path} has no pruned model saved by fastprune: it has no {MANIFEST}.")
    try:
        manifest = dict(read_json(file))
        format_version = int(manifest["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"The manifest {file} is broken: {type(error).__name__}: {error}.") from error
    if format_version > FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format {format_version}; this fastprune reads up to {FORMAT_VERSION}. Upgrade fastprune."
        )
    return manifest


def write_report(directories: Sequence[str | Path], output: str | Path) -> Path:
    """Write an HTML report that compares the pruned models of several directories.

    Args:
        directories: Directories of pruned models.
        output: The HTML file.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: A directory has no pruned model.
        UsageError: The file cannot be written, or exists and is not a report.
    """
    check_file(output, mark=MARK)
    runs = {}
    for directory in map(user_path, directories):
        name = directory.name if directory.name not in runs else str(directory)
        runs[name] = read_manifest(directory)
    return write_text(output, render(runs))
