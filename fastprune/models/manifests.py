"""Manifests: what a saved model's directory says of how it came about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastprune.errors import CheckpointError
from fastprune.files import write_text
from fastprune.reports.pages import render

MANIFEST = "fastprune.json"
FORMAT_VERSION = 1


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a pruned model's directory.

    Raises:
        CheckpointError: There is none, it is no JSON, or of a newer format.
    """
    file = Path(path) / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{path} holds no pruned model that fastprune saved: there is no {MANIFEST} in it.")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        found = int(manifest["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"The manifest {file} is broken: {type(error).__name__}: {error}.") from error
    if found > FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format {found}; this fastprune reads up to {FORMAT_VERSION}. Upgrade fastprune."
        )
    return dict(manifest)


def write_report(directories: Sequence[str | Path], output: str | Path) -> Path:
    """A page that shows the pruned models of some directories side by side.

    Raises:
        CheckpointError: A directory holds no pruned model.
    """
    runs = {}
    for directory in map(Path, directories):
        name = directory.name if directory.name not in runs else str(directory)
        runs[name] = read_manifest(directory)
    path = Path(output)
    write_text(path, render(runs))
    return path
