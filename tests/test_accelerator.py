"""On an accelerator every tensor is on it, the result is the CPU's, and nothing waits for it at every batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils import backend_registration

from accelerator_names import CASES, TWICE

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this version of torch has no backends in Python", allow_module_level=True)

SCRIPT = Path(__file__).parent / "accelerator_runs.py"
ALLOWED = {
    "fastprune.data.batches.outputs_of": 100.0,  # the model itself: transformers looks at the attention mask
    "fastprune.data.batches.token_count": 1.0,  # once a batch, when it is scored
    "fastprune.calibration.tokens._real": 4.0,  # where the padding is: once a batch and pass over the batches
    "fastprune.calibration.gram.damped_cholesky": 2.0,  # solves, whose number depends on what is chosen
    "fastprune.reconstruction.ridge": 2.0,
    "fastprune.calibration.layer_calls": 4.0,  # whether masks and states are alike, once a recording of calls, to hold them once
    "fastprune.reconstruction.layerwise._solve_in_turn": 4.0,  # whether the first layer reads the dense states: once a tuning
}
"""Waits for each batch, at most, by the function that waits."""


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What each case gave, from one process."""
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False, timeout=1500)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(CASES), done.stderr
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_pruned_where_it_is(case: str, found: dict[str, dict[str, Any]]) -> None:
    run = found[case]
    assert "error" not in run, run["error"]
    assert run["apart"] == []
    assert run["same"]
    assert run["off"] < 1e-4


@pytest.mark.parametrize("case", TWICE)
def test_nothing_waits_at_every_batch(case: str, found: dict[str, dict[str, Any]]) -> None:
    for place, count in found[case]["growing"].items():
        allowed = next((most for name, most in ALLOWED.items() if f" in {name}" in place), 0.0)
        assert count <= allowed, f"{place} waits {count:g} times a batch"
