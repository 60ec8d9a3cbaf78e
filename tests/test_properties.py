"""Fifty random tiny models, pruned, saved, loaded and counted; tests/benchmarks/properties.py runs any number."""

from __future__ import annotations

import pytest

from benchmarks.properties import case_of, check


@pytest.mark.parametrize("seed", range(0, 550, 11))
def test_promises_are_kept(seed: int) -> None:
    case = case_of(seed)
    problems = check(case)
    assert not problems, f"python tests/benchmarks/properties.py --seeds {seed}   # {case}"
