"""Free memory, in a container or not."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from fastprune.calibration.free_memory import free_bytes

CPU = torch.device("cpu")


def container(folder: Path, limit: str, *, version: int = 2) -> Path:
    """Control groups of a container that uses 3,000 bytes, 1,000 of them for files that can be read again."""
    names = {1: ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
    (folder / "memory").mkdir(exist_ok=True)
    for name, text in zip(names[version], (limit, "3000\n"), strict=True):
        (folder / name).write_text(text)
    stat = "inactive_file 1000\nanon 2000\n" if version == 2 else "inactive_file 0\ntotal_inactive_file 1000\n"
    (folder / names[version][0]).with_name("memory.stat").write_text(stat)
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_may_use_less_than_there_is(tmp_path: Path, version: int) -> None:
    assert free_bytes(CPU, containers=container(tmp_path, "10000\n", version=version)) == 8000
    assert free_bytes(CPU, containers=container(tmp_path, "1500\n", version=version)) == 0


@pytest.mark.parametrize("limit", ["max", str(2**62), "", None])
def test_without_a_limit_it_is_what_the_system_has(tmp_path: Path, limit: str | None) -> None:
    folder = tmp_path if limit is None else container(tmp_path, limit)
    assert free_bytes(CPU, containers=folder) == pytest.approx(psutil.virtual_memory().available, rel=0.3)
