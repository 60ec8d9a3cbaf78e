"""Free memory of a device, container limits included."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import torch

CONTROL_GROUPS = {
    "memory.max": "memory.current",
    "memory/memory.limit_in_bytes": "memory/memory.usage_in_bytes",
}
"""Where a container's limit is, and what it uses, in the second version of control groups and in the first."""


def free_bytes(device: torch.device, *, containers: Path = Path("/sys/fs/cgroup")) -> int:
    """What can still be taken: of a GPU's memory, or of the system's and of what the container may use.

    Args:
        device: Whose memory.
        containers: Where the control groups are.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    for limit, used in CONTROL_GROUPS.items():
        with contextlib.suppress(OSError, ValueError):  # the other version, or no limit
            most = int((containers / limit).read_text())
            free = min(free, most - int((containers / used).read_text()) + _reclaimable(containers / used))
    return max(0, free)


def _reclaimable(used: Path) -> int:
    """What a control group uses for files that can be read again."""
    lines = (line.split() for line in used.with_name("memory.stat").read_text().splitlines())
    stat = {name: int(value) for name, value in lines}
    return stat.get("total_inactive_file", stat.get("inactive_file", 0))
