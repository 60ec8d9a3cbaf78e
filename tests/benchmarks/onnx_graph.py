"""Time the graphs of ``fastprune export`` in onnxruntime side by side: the fused graph and the exporter's, dense and pruned.

    python tests/benchmarks/onnx_graph.py DENSE PRUNED [--rounds 15] [--work DIRECTORY]

DENSE and PRUNED are model directories. One thread; the models take turns; the time is that of the processor, which other programs
disturb least; printed are the medians of the ratios round by round, against the dense exporter's graph.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fastprune.exporting.onnx import OnnxModel, write_graph
from fastprune.models.pretrained import open_pretrained

SHAPES = ((1, 64), (32, 128))
"""Samples and tokens."""


def graphs(sources: dict[str, str], directory: Path) -> dict[str, OnnxModel]:
    """Both graphs of each model, by its name and the graph's."""
    found = {}
    for name, source in sources.items():
        for kind in ("exporter", "fused"):
            file = directory / f"{name}-{kind}.onnx"
            if not file.exists():
                opened = open_pretrained(source, device="cpu", dtype="float32")
                if remark := write_graph(opened, file, graph=kind):  # type: ignore[arg-type]
                    print(f"{name}: {remark}")
            found[f"{name}, {kind}"] = OnnxModel(file, threads=1)
    return found


def ratios(models: dict[str, OnnxModel], samples: int, tokens: int, rounds: int) -> dict[str, tuple[float, float]]:
    """The median milliseconds of each model, and the median of the first model's time divided by its own."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 1000, (samples, tokens), generator=generator)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            start = time.process_time()
            model(**given)
            if number:  # the first round warms up
                times[name].append(time.process_time() - start)
    first = np.array(next(iter(times.values())))
    return {
        name: (1000 * statistics.median(each), float(np.median(first / np.array(each)))) for name, each in times.items()
    }


def main() -> None:
    """Print a line for each shape and graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense")
    parser.add_argument("pruned")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--work", type=Path, help="directory of the graphs, to use them again [a temporary one]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        models = graphs({"dense": given.dense, "pruned": given.pruned}, given.work or Path(scratch))
        for samples, tokens in SHAPES:
            for name, (milliseconds, ratio) in ratios(models, samples, tokens, given.rounds).items():
                print(f"{samples:3} x {tokens:3}  {name:20} {milliseconds:9.2f} ms  {ratio:5.2f} x", flush=True)


if __name__ == "__main__":
    main()
