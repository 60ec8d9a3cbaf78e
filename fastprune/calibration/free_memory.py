"""Free memory of a device, within the limits of a container."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import psutil
import torch

CONTROL_GROUPS = {
    "memory.max": "memory.current",
    "memory/memory.limit_in_bytes": "memory/memory.usage_in_bytes",
}
"""Files with a container's memory limit and usage, in version 2 and version 1 of control groups."""


def free_bytes(device: torch.device, *, containers: Path = Path("/sys/fs/cgroup")) -> int:
    """Free memory in bytes: of a GPU, or of the system and the container, whichever is less.

    Args:
        device: The device.
        containers: Directory of the control groups.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    for limit, used in CONTROL_GROUPS.items():
        with contextlib.suppress(OSError, ValueError):  # another version of control groups, or no limit
            most = int((containers / limit).read_text())
            free = min(free, most - int((containers / used).read_text()) + _reclaimable(containers / used))
    return max(0, free)


def give_back() -> None:
    """Return freed memory of this process to the system (glibc's malloc_trim; elsewhere nothing happens).

    glibc keeps blocks below its threshold, which grows up to 32 MB, so that the freed activations of a layer stay in the process.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _reclaimable(used: Path) -> int:
    """Bytes of file caches in a control group's usage, which the kernel can free."""
    lines = (line.split() for line in used.with_name("memory.stat").read_text().splitlines())
    stat = {name: int(value) for name, value in lines}
    return stat.get("total_inactive_file", stat.get("inactive_file", 0))
