"""The GPU script runs on the CPU: every part gives its rows, and what fails is a row and an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "benchmarks/gpu.py"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_every_part_on_the_cpu() -> None:
    done = run("--device", "cpu", "--tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:2] == "| "]
    found: dict[str, list[list[str]]] = {}
    for part, *cells in rows[1:]:
        found.setdefault(part, []).append(cells)
    assert {part: len(each) for part, each in found.items()} == {
        "masks": 6,
        "waits": 1,
        "latency": 2,
        "stages": 2,
        "llama": 2,
    }
    assert all(said.startswith("100.0% of 260 units") for case, said in found["masks"] if case.endswith("float32"))
    assert all("tune" in said and " F (" in said for _, said in found["stages"] + found["llama"])
    assert all("asked 0.5, measured" in said for _, said in found["latency"])


def test_a_part_that_fails_and_parts_without_time() -> None:
    words = ("--device", "cpu", "--tiny", "--checkpoint", "nothing", "--train", "nothing", "--test", "nothing")
    failed = run(*words, "--only", "accuracy")
    assert failed.returncode == 1
    assert "| accuracy |  | failed: ModelError: 'nothing' is not a local directory" in failed.stdout
    late = run("--device", "cpu", "--tiny", "--minutes", "0")
    assert late.returncode == 0
    assert late.stdout.count("not run: out of time") == 5
    wrong = run("--device", "cpu", "--tiny", "--train", "nothing")
    assert wrong.returncode == 2
    assert "belong together" in wrong.stderr
