"""Tiny models pruned on the simulated accelerator and on the CPU, a line of JSON each; in a process of its own, as a backend stays.

python tests/accelerator_runs.py [CASE ...]
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import torch

import fastprune
from accelerator_names import CASES, TWICE
from fastprune import Recipe, testing
from fastprune.units import linears
from simulated_accelerator import DEVICE, accelerator

SAMPLES, LARGE, SMALL = 32, 8, 2
"""Number of samples, and sizes of their batches in two runs: what grows is done for each batch."""


def run(name: str) -> dict[str, Any]:
    """Prune a model on both devices."""
    preset, family, head = CASES[name]
    found: dict[str, Any] = {"case": name}
    waits: list[Counter[str]] = []
    for size in (LARGE, SMALL) if name in TWICE else (LARGE,):
        model = testing.tiny_model(family, head)
        model.set_attn_implementation("eager")
        batches = testing.tiny_batches(model, samples=SAMPLES, batch_size=size)
        recipe = Recipe.of(preset)
        if hasattr(recipe.tuner, "fill"):
            recipe = Recipe.of(recipe, settings={"tuner": {"fill": 0}})  # without mixed copies it takes seconds
        asked: dict[str, Any] = {"budget": 0.6, "recipe": recipe, "bench": False, "progress": False}
        expected = fastprune.prune(model, batches, **asked) if size == LARGE else None
        with accelerator() as device:
            there = model.to(DEVICE)
            device.waits.clear()
            result = fastprune.prune(there, batches, **asked)
            waits.append(device.waits.copy())
            tensors = {**dict(result.model.named_parameters()), **dict(result.model.named_buffers())}
            if expected:
                apart = [path for path, tensor in tensors.items() if tensor.device != DEVICE]
                here = {path: tensor.detach().cpu() for path, tensor in tensors.items()}
                same = all(torch.equal(result.mask[group], expected.mask[group]) for group in expected.mask)
                found |= {"apart": apart, "same": same}
        if expected and same:
            known = expected.model.state_dict()
            found["off"] = max(distance(here[path], known[path]) for path in known if path in here)
    if name in TWICE:
        more = SAMPLES // SMALL - SAMPLES // LARGE
        found["growing"] = {place: count / more for place, count in (waits[1] - waits[0]).items() if count >= more}
    return found


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference relative to the largest value."""
    if not expected.numel() or not expected.is_floating_point():
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))


def main(names: list[str]) -> None:
    linears._oddity = lambda linear: ""  # a weight of a subclass of tensors is taken for a packed one
    torch.cpu.get_capabilities = dict  # both devices multiply in float32
    for name in names or CASES:
        try:
            print(json.dumps(run(name)), flush=True)
        except Exception as error:
            print(json.dumps({"case": name, "error": f"{type(error).__name__}: {error}"}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
