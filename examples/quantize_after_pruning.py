"""Prune, then quantise: the savings of narrower layers and of smaller numbers multiply.

python examples/quantize_after_pruning.py DENSE PRUNED TEST

Both models are exported to ONNX, and their weights made int8 by onnxruntime (dynamic quantisation): size, time and metrics
of all four. Needs the extra ``onnx``.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from onnxruntime.quantization import quantize_dynamic

import fastprune
from fastprune.exporting.onnx_models import ONNX_FILE, OnnxModel
from fastprune.exporting.timing import bench_exported
from fastprune.measuring.evaluation import EVALUATION_SPLITS


def main(dense: str, pruned: str, test: str, batch_size: str = "1", seq_len: str = "64") -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        graphs, opened = {}, None
        for name, source in (("dense", dense), ("pruned", pruned)):
            opened = fastprune.open_pretrained(source, device="cpu", dtype="float32")
            graphs[name] = fastprune.export(opened, Path(folder) / name).file.parent
            graphs[f"{name}, int8"] = Path(folder) / f"{name}-int8"
            graphs[f"{name}, int8"].mkdir()
            quantize_dynamic(graphs[name] / ONNX_FILE, graphs[f"{name}, int8"] / ONNX_FILE)
        batches = fastprune.make_batches(
            test, opened.task, opened.tokenizer, samples=None, default_split=EVALUATION_SPLITS
        )
        for name, graph in graphs.items():
            found = bench_exported(
                graphs["dense"], graph, batch_size=int(batch_size), seq_len=int(seq_len), threads=1
            ).summary()
            metrics = measure(OnnxModel(graph), batches)
            said = ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
            size = found["pruned"]["weight_bytes"] / 2**20
            print(f"{name:<14} {size:7.1f} MiB {found['speedup']:5.2f}x as fast  {said}")


def measure(graph: OnnxModel, batches: fastprune.Batches) -> dict[str, float]:
    """The task's own metrics of what onnxruntime gives."""

    def results() -> Any:
        for batch in batches:
            yield SimpleNamespace(**graph(**fastprune.model_inputs(batch, batches.task))), batch

    return batches.task.metrics(results(), batches.samples)


if __name__ == "__main__":
    main(*sys.argv[1:])
